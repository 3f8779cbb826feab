"""Progress with time left, on a terminal only; and what has to be told beside it."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")


def progress(items: Iterable[_Item], label: str, *, total: int | None = None, show: bool = True) -> Iterator[_Item]:
    """Yield `items`, showing count and time left on standard error when that is a terminal.

    >>> list(progress([1, 2], "count"))
    [1, 2]
    """
    hidden = None if show else True  # None: hidden unless standard error is a terminal
    yield from tqdm(items, desc=label, total=total, leave=False, file=sys.stderr, disable=hidden, dynamic_ncols=True)


def tell(text: str) -> None:
    """Say something on standard error, above the bar of progress."""
    tqdm.write(f"ibviz: {text}", file=sys.stderr)
