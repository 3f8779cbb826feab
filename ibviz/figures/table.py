"""A table as a picture: rules above, below and under the header, numbers to the right, controls apart in grey."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ibviz.errors import InputError, unknown
from ibviz.figures.output import Panel, finished
from ibviz.figures.settings import (
    DEFAULT,
    FAINT,
    INK,
    Template,
    find_template,
    settings,
    text_width,
)

SPACE = 0.12  # inches between columns, on paper
PITCH = 0.17  # from row to row
MARGIN = 0.03
CAPITAL = 0.66  # height of a capital, of the text size
RULES = (0.8, 0.4)  # points: above and below the table, and within it
LEAST = 0.6  # of the text size; a wider table is wider than the page


def table(
    header: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    controls: Collection[int] = (),
    template: str = DEFAULT,
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw a header and rows of text, in smaller type where they are wider than the page.

    Each cell is one line; the first column is set to the left, the others to the right. The rows whose numbers are in
    `controls` come last, in grey, under a rule.

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
    return finished("table", figure, facts, {**arguments, "template": template}, record)


class Fit(NamedTuple):
    """Inches of a table that fits a page, and the points of its text."""

    widths: list[float]
    pitch: float
    gap: float
    margin: float
    points: float
    rows: int  # with the header

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        across = sum(self.widths) + self.gap * (len(self.widths) - 1)
        return across + 2 * self.margin, self.rows * self.pitch + 2 * self.margin

    def edge(self, row: int) -> float:
        """Height of the upper edge of a row above the lower edge of the figure."""
        return self.margin + (self.rows - row) * self.pitch


def _fit(rows: list[list[str]], page: Template) -> Fit:
    full = [max(text_width(text, page.text) for text in column) for column in zip(*rows, strict=True)]
    gap, margin = SPACE * page.unit, MARGIN * page.unit
    share = (page.width - 2 * margin) / (sum(full) + gap * (len(full) - 1))
    share = min(1.0, max(LEAST, share))
    return Fit(
        [share * one for one in full], share * PITCH * page.unit, share * gap, margin, share * page.text, len(rows)
    )


def _draw(rows: list[list[str]], methods: int, fit: Fit, unit: float) -> Figure:
    """Rows from above; the first is the header, and those after `methods` more are controls."""
    figure, (across, high) = Figure(figsize=fit.size), fit.size
    for number, row in enumerate(rows):
        style: dict[str, Any] = {"color": FAINT if number > methods else INK, "fontsize": fit.points}
        base = fit.edge(number + 1) + (fit.pitch - CAPITAL * fit.points / 72) / 2
        right = fit.margin - fit.gap
        for column, (text, width) in enumerate(zip(row, fit.widths, strict=True)):
            right += fit.gap + width
            x, side = (right - width, "left") if column == 0 else (right, "right")
            figure.text(x / across, base / high, text, ha=side, va="baseline", **style)
    sides = [fit.margin / across, 1 - fit.margin / across]
    for number in {0, 1, 1 + methods, len(rows)}:
        thick = RULES[number not in (0, len(rows))] * unit
        figure.add_artist(Line2D(sides, [fit.edge(number) / high] * 2, linewidth=thick, color=INK))
    return figure
