"""What the table of a report shows: numbers as text, and intervals as places on an axis that a column shares."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from ibviz.figures.report.contents import Line
from ibviz.figures.scale import MINUS
from ibviz.statistics import Estimate

SPAN = 88  # width of an interval's picture
EDGE = 4  # room for a dot at its ends
NONE = "\u2013"


class Cell(NamedTuple):
    """An estimate as text and as places along `SPAN`; without a value where it is undefined."""

    value: float | None = None
    text: str = NONE
    interval: str = ""
    places: tuple[float, float, float] | None = None  # low, mean, high
    zero: float | None = None


class Table(NamedTuple):
    """Headings and, for each line, its cells."""

    headings: Sequence[str]
    rows: Sequence[tuple[Line, Sequence[Cell]]]
    ranked: bool
    worded: bool


def table(lines: Sequence[Line]) -> Table:
    """Lines with cells for every heading that any of them has.

    >>> table([Line("Grad-CAM", False, {"SRG": Estimate(0.5, 0.25, 1.0, 8, 0)})]).rows[0][1][0].places
    (4.0, 30.7, 84.0)
    """
    headings = list(dict.fromkeys(chain.from_iterable(line.estimates for line in lines)))
    columns = [_column([line.estimates.get(heading) for line in lines]) for heading in headings]
    rows = [(line, [column[at] for column in columns]) for at, line in enumerate(lines)]
    ranked, worded = any(line.rank is not None for line in lines), any(line.words for line in lines)
    return Table(headings, rows, ranked, worded)


def _column(estimates: Sequence[Estimate | None]) -> list[Cell]:
    known = [one for one in estimates if one is not None and math.isfinite(one.mean)]
    low, high = min((one.low for one in known), default=0.0), max((one.high for one in known), default=1.0)
    zero = _place(0.0, low, high) if low <= 0 <= high else None
    return [_cell(one, low, high)._replace(zero=zero) for one in estimates]


def _cell(one: Estimate | None, low: float, high: float) -> Cell:
    if one is None or not math.isfinite(one.mean):
        return Cell()
    places = _place(one.low, low, high), _place(one.mean, low, high), _place(one.high, low, high)
    return Cell(one.mean, signed(one.mean), f"[{signed(one.low)}, {signed(one.high)}]", places)


def _place(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return round(EDGE + share * (SPAN - 2 * EDGE), 1)


def signed(value: float) -> str:
    """Three decimals with a true minus sign, and none before a zero.

    >>> signed(-0.0001), signed(-0.25) == f"{MINUS}0.250"
    ('0.000', True)
    """
    return f"{value:.3f}".replace("-0.000", "0.000").replace("-", MINUS)


def facts(tree: Mapping[str, Any], stem: str = "") -> list[tuple[str, str]]:
    """Names and values of a nested record, names joined by dots.

    >>> facts({"seed": 0, "versions": {"torch": "2.14"}})
    [('seed', '0'), ('versions.torch', '2.14')]
    """
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        found += facts(value, f"{stem}{key}.") if nested else [(f"{stem}{key}", _fact(value))]
    return found


def _fact(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
