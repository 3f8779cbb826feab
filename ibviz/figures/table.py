"""Table as a figure, with rules above and below and under the header, and controls in grey."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ibviz.errors import InputError, unknown
from ibviz.figures.settings import (
    DEFAULT_TEMPLATE,
    FAINT,
    INK,
    Page,
    Template,
    find_template,
    settings,
    text_width,
)
from ibviz.figures.sidecar import Panel, build_panel

_SPACE = 0.12  # inches between columns, on paper
_PITCH = 0.17  # inches between rows
_MARGIN = 0.03
_CAPITAL = 0.66  # height of a capital over the text size
_RULES = (0.8, 0.4)  # thickness in points: above and below the table, and within it
_LEAST = 0.6  # factor by which text shrinks at most; a table that needs less becomes wider than the page


def table(
    header: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    controls: Collection[int] = (),
    template: Page = DEFAULT_TEMPLATE,
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw a header and rows of text, in smaller type if they are wider than the page.

    Each cell is one line; the first column is aligned left, the others right.

    Args:
        header: Heading of each column.
        cells: Rows of as many texts.
        controls: Indices of rows drawn last, in grey, under a rule.
        template: Page that the figure is drawn for, a name of `settings.TEMPLATES` or a `Template`.
        record: Facts to repeat in the sidecar.

    Raises:
        InputError: If a row has another number of cells than the header, or a control is no row.

    >>> table(["method", "SRG"], [["Attention", "0.41"], ["uniform", "0.00"]], controls=[1]).account["order"]
    [0, 1]
    """
    if not header or not cells or any(len(row) != len(header) for row in cells):
        raise InputError(
            f"a table needs rows of as many cells as its header, {len(header)}; got {[len(row) for row in cells]}"
        )
    for number in controls:
        if not 0 <= number < len(cells):
            raise unknown("row of controls", str(number), [str(row) for row in range(len(cells))])
    order = sorted(range(len(cells)), key=lambda row: row in controls)
    rows = [[" ".join(text.split()) for text in row] for row in (header, *(cells[row] for row in order))]
    page = find_template(template)
    with settings(page, [text for row in rows for text in row]):
        fit = _fit(rows, page)
        figure = _draw(rows, len(cells) - len(set(controls)), fit, page.unit)
    arguments = {"header": list(header), "cells": [list(row) for row in cells], "controls": list(controls)}
    facts = {"order": order, "points": fit.points}
    return build_panel("table", figure, facts, {**arguments, "template": template}, record)


class Fit(NamedTuple):
    """Sizes of a table that fits a page, in inches."""

    widths: list[float]
    pitch: float
    gap: float
    margin: float
    points: float  # text size in points
    rows: int  # including the header

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        across = sum(self.widths) + self.gap * (len(self.widths) - 1)
        return across + 2 * self.margin, self.rows * self.pitch + 2 * self.margin

    def edge(self, row: int) -> float:
        """Distance of the upper edge of a row from the lower edge of the figure."""
        return self.margin + (self.rows - row) * self.pitch


def _fit(rows: list[list[str]], page: Template) -> Fit:
    full = [max(text_width(text, page.text) for text in column) for column in zip(*rows, strict=True)]
    gap, margin = _SPACE * page.unit, _MARGIN * page.unit
    share = (page.width - 2 * margin) / (sum(full) + gap * (len(full) - 1))
    share = min(1.0, max(_LEAST, share))
    return Fit(
        [share * width for width in full], share * _PITCH * page.unit, share * gap, margin, share * page.text, len(rows)
    )


def _draw(rows: list[list[str]], methods: int, fit: Fit, unit: float) -> Figure:
    """Draw rows from the top: the header, then `methods` rows of methods, then controls."""
    figure, (across, high) = Figure(figsize=fit.size), fit.size
    for number, row in enumerate(rows):
        style: dict[str, Any] = {"color": FAINT if number > methods else INK, "fontsize": fit.points}
        base = fit.edge(number + 1) + (fit.pitch - _CAPITAL * fit.points / 72) / 2
        right = fit.margin - fit.gap
        for column, (text, width) in enumerate(zip(row, fit.widths, strict=True)):
            right += fit.gap + width
            x, side = (right - width, "left") if column == 0 else (right, "right")
            figure.text(x / across, base / high, text, ha=side, va="baseline", **style)
    sides = [fit.margin / across, 1 - fit.margin / across]
    for number in {0, 1, 1 + methods, len(rows)}:
        thick = _RULES[number not in (0, len(rows))] * unit
        figure.add_artist(Line2D(sides, [fit.edge(number) / high] * 2, linewidth=thick, color=INK))
    return figure
