"""Progress with time left, as a bar on a terminal and elsewhere as a line per minute, and messages above it."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")
_SECONDS_PER_LINE = 60.0  # without a terminal


def progress(items: Iterable[_Item], label: str, *, total: int | None = None, show: bool = True) -> Iterator[_Item]:
    """Yield `items`, showing count and time left on standard error.

    Args:
        items: What to iterate over.
        label: Text before the bar.
        total: Number of items; None: their length, if they have one.
        show: Show the progress; False on all but the first of several processes.

    >>> list(progress([1, 2], "count"))
    [1, 2]
    """
    if not show:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, leave=False, file=sys.stderr, dynamic_ncols=True)
    else:
        yield from _in_lines(items, label, len(items) if total is None and isinstance(items, Sized) else total)


def _in_lines(items: Iterable[_Item], label: str, total: int | None) -> Iterator[_Item]:
    begun = told = time.monotonic()
    for done, item in enumerate(items):
        if done and (now := time.monotonic()) - told >= _SECONDS_PER_LINE:
            told = now
            left = "" if not total else f", about {_minutes((now - begun) / done * (total - done))} left"
            tell(f"{label}: {done}{f' of {total}' * bool(total)} after {_minutes(now - begun)}{left}")
        yield item


def _minutes(seconds: float) -> str:
    """Return seconds as hours and minutes.

    >>> _minutes(61.0), _minutes(7385.0)
    ('1 min', '2 h 3 min')
    """
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def tell(text: str) -> None:
    """Print a message on standard error, above the progress bar."""
    tqdm.write(f"ibviz: {text}", file=sys.stderr)
