"""Progress bars on a terminal, and messages above them."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")


def progress(items: Iterable[_Item], label: str, *, total: int | None = None, show: bool = True) -> Iterator[_Item]:
    """Yield `items`, showing count and time left on standard error if that is a terminal.

    Args:
        items: What to iterate over.
        label: Text before the bar.
        total: Number of items; None: their length, if they have one.
        show: Show the bar; False on all but the first of several processes.

    >>> list(progress([1, 2], "count"))
    [1, 2]
    """
    hidden = None if show else True  # for tqdm, None means hidden unless standard error is a terminal
    yield from tqdm(items, desc=label, total=total, leave=False, file=sys.stderr, disable=hidden, dynamic_ncols=True)


def tell(text: str) -> None:
    """Print a message on standard error, above the progress bar."""
    tqdm.write(f"ibviz: {text}", file=sys.stderr)
