"""Strip of one image: the photograph, then a picture per row with its name above it and its colour bar beside it."""

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

from ibviz.figures.canvas import Canvas, Corner, draw_bar, draw_overlay
from ibviz.figures.drawing import draw_photo
from ibviz.figures.layout import (
    BAR,
    GAP,
    LARGEST_CELL,
    MOST_ABREAST,
    PAGE_MARGIN,
    SMALLEST_CELL,
    TICK,
    Label,
    Texts,
    wrap_foot,
)
from ibviz.figures.panel_rows import PanelRow
from ibviz.figures.scale import FloatArray
from ibviz.figures.settings import FAINT, Template, text_height, text_width, wrap_text
from ibviz.types import Grid

_MOST_TILES = 2 * MOST_ABREAST  # pictures side by side
_LARGE = 0.75  # inches; pictures are not made larger by another line
_ROUNDS = 8  # of fitting the height, which depends on the line breaks


class StripLayout(NamedTuple):
    """Places of the tiles, which are numbered from 0, the photograph, on lines of a page."""

    template: Template
    cell: Corner  # width and height of a picture
    between: float  # from a picture to the next one of its line
    right: float  # room for a colour bar
    heads: list[Label]  # above each tile
    lines: list[list[int]]  # numbers of the tiles of each line
    indent: int  # columns left free on all lines but the first
    groups: list[str]  # above each line, if it begins a group
    top: float  # room for the title
    bottom: float  # room for the note at the foot

    @property
    def gap(self) -> float:
        """Distance between neighbouring elements."""
        return GAP * self.template.unit

    @property
    def slack(self) -> float:
        """Room beside the photograph, which has no bar, that a single line saves."""
        return max(0.0, self.between - self.gap) if len(self.lines) == 1 else 0.0

    @property
    def columns(self) -> int:
        """Number of columns."""
        return max(len(line) + self.indent * (number > 0) for number, line in enumerate(self.lines))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        margin = PAGE_MARGIN * self.template.unit
        lines = sum(self.line_height(line) for line in range(len(self.lines)))
        across = self.columns * (self.cell[0] + self.between) - self.between + self.right - self.slack
        return margin + across, self.top + lines + self.bottom

    def line_height(self, line: int) -> float:
        """Height of a line with its heads and its group."""
        heads = max(self.heads[tile].height(self.template) for tile in self.lines[line])
        return self.group_height(line) + heads + self.cell[1] + 3 * self.gap

    def group_height(self, line: int) -> float:
        """Height of the name of the group that begins at a line."""
        name = self.groups[line]
        return text_height(name, self.template.text) + 2 * self.gap if name else 0.0

    def corner(self, line: int, place: int) -> Corner:
        """Lower left corner of a picture by its place on a line."""
        column = place + self.indent * (line > 0)
        below = sum(self.line_height(number) for number in range(line + 1))
        left = PAGE_MARGIN * self.template.unit + column * (self.cell[0] + self.between) - self.slack * (place > 0)
        return left, self.size[1] - self.top - below + self.gap


def lay_out_strip(
    texts: Texts, rows: Sequence[PanelRow], groups: Sequence[str], size: Grid, page: Template
) -> StripLayout:
    """Fit the tiles of one image into a page.

    Neighbouring rows that share a scale, such as those of several classes, stand on one line with one bar. Otherwise
    the tiles take as few lines as leave the pictures large enough.

    Args:
        texts: Texts of the panel, with at most one caption.
        rows: The rows.
        groups: Group of each row, which begins a line of its own; empty for none.
        size: Height and width of the image in pixels.
        page: Page and text sizes.
    """
    runs = [len(list(run)) for _, run in groupby(rows, key=lambda row: id(row.scale))]
    if not groups and max(runs, default=1) > 1:
        shared = _fitted(texts, _by_run(runs), [""] * len(runs), size, page, shared=True)
        if shared.size[0] <= page.width:
            return shared
    tried = []
    for columns in range(1, min(_MOST_TILES, 1 + len(texts.labels)) + 1):
        lines = _broken(groups or [""] * len(texts.labels), columns)
        names = [groups[max(line[0] - 1, 0)] if groups else "" for line in lines]
        names = [name if number == 0 or name != names[number - 1] else "" for number, name in enumerate(names)]
        tried.append(_fitted(texts, lines, names, size, page, shared=False))
    large = [layout for layout in tried if max(layout.cell) >= _LARGE * page.unit]
    if large:
        return min(large, key=lambda layout: (len(layout.lines), -round(layout.cell[0], 3), layout.columns))
    return max(tried, key=lambda layout: layout.cell[0])


def _by_run(runs: Sequence[int]) -> list[list[int]]:
    """Number the tiles of each line: the photograph and the first run, then a run each.

    >>> _by_run([1, 2])
    [[0, 1], [2, 3]]
    """
    ends = list(accumulate(runs))
    lines = [list(range(end - run + 1, end + 1)) for run, end in zip(runs, ends, strict=True)]
    return [[0, *lines[0]], *lines[1:]]


def _fitted(
    texts: Texts, lines: list[list[int]], groups: list[str], size: Grid, page: Template, *, shared: bool
) -> StripLayout:
    unit, (height, width) = page.unit, size
    ticks = max((text_width(tick, page.small) for tick in texts.ticks), default=0.0)
    right = (2 * GAP + BAR + TICK) * unit + ticks + GAP * unit
    between = GAP * unit if shared else right
    start = StripLayout(page, (0.0, 0.0), between, right, [], lines, int(shared), groups, 0.0, 0.0)
    columns = start.columns
    across = (page.width - PAGE_MARGIN * unit - right + between) / columns - between
    across = min(across, LARGEST_CELL * unit * width / max(size))
    for _ in range(_ROUNDS):
        across = max(across, SMALLEST_CELL * unit)
        layout = _with_texts(texts, start._replace(cell=(across, across * height / width)))
        over, pictures = layout.size[1] - page.height, len(lines) * layout.cell[1]
        if over <= 0 or across <= SMALLEST_CELL * unit:
            break
        across *= max(0.5, 1 - 1.02 * over / pictures)
    return layout  # pyright: ignore[reportPossiblyUnboundVariable]


def _with_texts(texts: Texts, layout: StripLayout) -> StripLayout:
    """Return a layout with the texts broken to the width of its cells."""
    page, room = layout.template, layout.cell[0] + max(0.0, layout.between - 2 * layout.gap)
    labels = [("\n".join(texts.captions), ""), *texts.labels]
    rooms = [room - layout.slack, *[room] * len(texts.labels)]
    heads = [
        Label(wrap_text(name, page.text, own), wrap_text(note, page.small, own))
        for (name, note), own in zip(labels, rooms, strict=True)
    ]
    wide = layout._replace(heads=heads).size[0]
    title, foot = wrap_text(texts.title, page.text, wide), wrap_foot(texts.foot, wide, page)
    margin = PAGE_MARGIN * page.unit
    top = margin + (text_height(title, page.text) + layout.gap if title else 0.0)
    bottom = margin + (text_height(foot, page.small) + layout.gap if foot else 0.0)
    return layout._replace(heads=heads, top=top, bottom=bottom)


def _broken(groups: Sequence[str], columns: int) -> list[list[int]]:
    """Break the photograph and the rows into lines of at most `columns` tiles, and where the group changes.

    >>> _broken(["a", "a", "b"], 2)
    [[0, 1], [2], [3]]
    """
    lines = [[0]]
    for number, group in enumerate(groups):
        new = number > 0 and group != groups[number - 1]
        if new or len(lines[-1]) == columns:
            lines.append([])
        lines[-1].append(number + 1)
    return lines


def draw_strip(canvas: Canvas, layout: StripLayout, texts: Texts, photo: FloatArray, rows: list[PanelRow]) -> Any:
    """Draw the tiles and return the axes of the photograph."""
    page, (wide, high) = canvas.text, layout.size
    title = wrap_text(texts.title, page.text, wide)
    canvas.write((wide / 2, high - PAGE_MARGIN * page.unit), title, ha="center", va="top", fontsize=page.text)
    shown = None
    for number, line in enumerate(layout.lines):
        left, above = layout.corner(number, 0)
        over = above + layout.line_height(number) - layout.group_height(number) - layout.gap
        canvas.write((left, over), layout.groups[number], va="bottom", fontsize=page.text, color=FAINT)
        for column, tile in enumerate(line):
            corner = layout.corner(number, column)
            axes = canvas.picture(corner, layout.cell)
            if tile == 0:
                shown = axes
                draw_photo(axes, photo)
            else:
                _draw_row(canvas, layout, axes, photo, rows, corner, line, tile)
            _draw_head(canvas, layout, corner, layout.heads[tile])
    foot = wrap_foot(texts.foot, wide, page)
    corner = PAGE_MARGIN * page.unit, PAGE_MARGIN * page.unit
    canvas.write(corner, foot, va="bottom", fontsize=page.small, color=FAINT)
    return shown


def _draw_row(  # noqa: PLR0913 - a tile, its place and its neighbours
    canvas: Canvas,
    layout: StripLayout,
    axes: Any,
    photo: FloatArray,
    rows: list[PanelRow],
    corner: Corner,
    line: list[int],
    tile: int,
) -> None:
    """Draw an overlay, and its bar unless the next tile of the line has the same scale."""
    row = rows[tile - 1]
    draw_overlay(canvas, axes, photo, row, 0)
    if tile + 1 not in line or rows[tile].scale is not row.scale:
        draw_bar(canvas, (corner[0] + layout.cell[0] + layout.gap, corner[1]), layout.cell[1], row)


def _draw_head(canvas: Canvas, layout: StripLayout, corner: Corner, head: Label) -> None:
    """Draw the name of a tile above its picture, with the note in small type between them."""
    page, above = canvas.text, corner[1] + layout.cell[1] + layout.gap
    canvas.write((corner[0], above), head.note, va="bottom", fontsize=page.small, color=FAINT)
    above += text_height(head.note, page.small)
    canvas.write((corner[0], above), head.name, va="bottom", fontsize=page.text)
