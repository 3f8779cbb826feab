"""Progress with time left: a bar on a terminal, elsewhere a line a minute; and what has to be told beside it."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
EVERY = 60.0  # seconds between two lines where there is no terminal


def progress(items: Iterable[Item], label: str, *, total: int | None = None, show: bool = True) -> Iterator[Item]:
    """Yield `items`, showing count and time left on standard error.

    >>> list(progress([1, 2], "count"))
    [1, 2]
    """
    if not show:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, leave=False, file=sys.stderr, dynamic_ncols=True)
    else:
        yield from _in_lines(items, label, len(items) if total is None and isinstance(items, Sized) else total)


def _in_lines(items: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    begun = told = time.monotonic()
    for done, item in enumerate(items):
        if done and (now := time.monotonic()) - told >= EVERY:
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
    """Say something on standard error, above the bar of progress."""
    tqdm.write(f"ibviz: {text}", file=sys.stderr)
