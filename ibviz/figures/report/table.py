"""Table of a report: numbers as text, and intervals as positions on an axis shared by the column."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from ibviz.figures.report.contents import TableLine
from ibviz.figures.scale import MINUS
from ibviz.statistics import Estimate

SPAN = 88  # width of the drawing of an interval
_EDGE = 4  # room at its ends for a dot
NONE = "\u2013"


class Cell(NamedTuple):
    """An estimate as text and as positions along `SPAN`; empty if it is undefined."""

    value: float | None = None
    text: str = NONE
    interval: str = ""
    places: tuple[float, float, float] | None = None  # low, mean, high
    zero: float | None = None


class Table(NamedTuple):
    """Headings, and the cells of each line."""

    headings: Sequence[str]
    rows: Sequence[tuple[TableLine, Sequence[Cell]]]
    ranked: bool  # a line has a rank
    worded: bool  # a line has a verdict


def report_table(lines: Sequence[TableLine]) -> Table:
    """Create the table of lines, with a column for every heading that any of them has.

    >>> report_table([TableLine("Grad-CAM", False, {"SRG": Estimate(0.5, 0.25, 1.0, 8, 0)})]).rows[0][1][0].places
    (4.0, 30.7, 84.0)
    """
    headings = list(dict.fromkeys(chain.from_iterable(line.estimates for line in lines)))
    columns = [_column([line.estimates.get(heading) for line in lines]) for heading in headings]
    rows = [(line, [column[at] for column in columns]) for at, line in enumerate(lines)]
    ranked, worded = any(line.rank is not None for line in lines), any(line.words for line in lines)
    return Table(headings, rows, ranked, worded)


def _column(estimates: Sequence[Estimate | None]) -> list[Cell]:
    known = [estimate for estimate in estimates if estimate is not None and math.isfinite(estimate.mean)]
    low = min((estimate.low for estimate in known), default=0.0)
    high = max((estimate.high for estimate in known), default=1.0)
    zero = _place(0.0, low, high) if low <= 0 <= high else None
    return [_cell(estimate, low, high)._replace(zero=zero) for estimate in estimates]


def _cell(estimate: Estimate | None, low: float, high: float) -> Cell:
    if estimate is None or not math.isfinite(estimate.mean):
        return Cell()
    mean, lower, upper = estimate.mean, estimate.low, estimate.high
    places = _place(lower, low, high), _place(mean, low, high), _place(upper, low, high)
    return Cell(mean, signed(mean), f"[{signed(lower)}, {signed(upper)}]", places)


def _place(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return round(_EDGE + share * (SPAN - 2 * _EDGE), 1)


def signed(value: float) -> str:
    """Format a number with three decimals and a typographic minus sign, without a sign before zero.

    >>> signed(-0.0001), signed(-0.25) == f"{MINUS}0.250"
    ('0.000', True)
    """
    return f"{value:.3f}".replace("-0.000", "0.000").replace("-", MINUS)


def flattened(tree: Mapping[str, Any], stem: str = "") -> list[tuple[str, str]]:
    """Flatten a nested record to pairs of name and value, with names joined by dots.

    >>> flattened({"seed": 0, "versions": {"torch": "2.14"}})
    [('seed', '0'), ('versions.torch', '2.14')]
    """
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        pairs += flattened(value, f"{stem}{key}.") if nested else [(f"{stem}{key}", _fact(value))]
    return pairs


def _fact(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
