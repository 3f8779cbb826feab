"""Layout of the pictures, labels and colour bars of a panel, in inches."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ibviz.figures.settings import Template, text_height, text_width, wrap_text
from ibviz.types import Grid

# Inches at the text size of a paper; on slides everything except the page grows with the text.
LARGEST_CELL = 1.3  # longer side of a cell, so that a single image does not fill the page
SMALLEST_CELL = 0.3
GAP = 0.03
BAR = 0.07
TICK = 0.04  # from a colour bar to its labels
_TURNED = 0.6  # labels of rows at least this high are rotated
PAGE_MARGIN = 0.02
MOST_ABREAST = 6  # pictures side by side in a folded panel, at most


class Texts(NamedTuple):
    """Texts of a panel."""

    labels: Sequence[tuple[str, str]]  # name and note of each row
    ticks: Sequence[str]  # of the colour bars
    captions: Sequence[str]  # above the columns
    foot: str = ""  # below the panel
    title: str = ""  # above it

    def all(self) -> list[str]:
        """List all texts, for the choice of fonts."""
        return [*(part for label in self.labels for part in label), *self.ticks, *self.captions, self.foot, self.title]


def wrap_foot(foot: str, width: float, template: Template) -> str:
    """Break the note at the foot of a panel that is `width` inches wide."""
    return wrap_text(foot, template.small, width - 2 * PAGE_MARGIN * template.unit)


class Label(NamedTuple):
    """Name of a row, and a note in small type; both broken into lines."""

    name: str
    note: str

    def height(self, template: Template) -> float:
        """Height of all lines in inches."""
        return text_height(self.name, template.text) + text_height(self.note, template.small)

    def width(self, template: Template) -> float:
        """Width of the longest line in inches."""
        lines = [(line, template.text) for line in self.name.splitlines()]
        lines += [(line, template.small) for line in self.note.splitlines()]
        return max(text_width(line, size) for line, size in lines)


class CellPlace(NamedTuple):
    """Position of a row: its block, and its row in the block; row 0 holds the plain images."""

    block: int
    row: int


class PanelLayout(NamedTuple):
    """Grid of cells whose first row holds the plain images; long panels are folded into blocks side by side."""

    template: Template
    left: float  # room for the labels
    top: float  # room for title and captions
    right: float  # room for the colour bars
    bottom: float  # room for the note at the foot
    cell: tuple[float, float]  # width, height
    pitch: float  # distance between rows
    shape: Grid  # rows, including the plain images, and columns of a block
    turned: bool  # labels are rotated to read upwards
    blocks: int = 1

    @property
    def gap(self) -> float:
        """Distance between neighbouring cells."""
        return GAP * self.template.unit

    @property
    def width(self) -> float:
        """Width of a block."""
        return self.left + self.shape[1] * (self.cell[0] + self.gap) - self.gap + self.right

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        return self.blocks * self.width, self.top + self.shape[0] * self.pitch - self.gap + self.bottom

    def place(self, number: int) -> CellPlace:
        """Return the position of a method's overlays, counted from 0."""
        block, row = divmod(number, self.shape[0] - 1)
        return CellPlace(block, row + 1)

    def x(self, place: CellPlace, column: int) -> float:
        """Left edge of a column; the colour bars are in the column after the last."""
        return place.block * self.width + self.left + column * (self.cell[0] + self.gap)

    def middle(self, place: CellPlace) -> float:
        """Height of the centre of a row above the lower edge of the figure."""
        return self.size[1] - self.top - place.row * self.pitch - (self.pitch - self.gap) / 2

    def corner(self, place: CellPlace, column: int, rows: int = 1) -> tuple[float, float]:
        """Lower left corner of a cell, or of the last of `rows` cells below each other, in inches."""
        return self.x(place, column), self.middle(place) - self.cell[1] / 2 - (rows - 1) * self.pitch


def lay_out(texts: Texts, columns: int, size: Grid, template: Template) -> tuple[PanelLayout, list[Label], list[str]]:
    """Fit `columns` images of `size` into a page.

    The panel is folded into blocks, with at most 6 pictures side by side, if that makes the pictures larger.

    Args:
        texts: Texts of the panel.
        columns: Number of images.
        size: Height and width of the images in pixels.
        template: Page and text sizes.

    Returns:
        The layout, and labels and captions broken into lines.
    """
    most = max(1, min(MOST_ABREAST // columns, len(texts.labels)))
    tried = [_lay_out(texts, (columns, blocks), size, template) for blocks in range(1, most + 1)]
    best = max(tried, key=lambda result: result[0].cell[0])
    across = best[0].size[0]
    beside = f"{texts.foot}\n{texts.title}"
    narrower = wrap_foot(beside, across, template) != wrap_foot(beside, template.width, template)
    return _lay_out(texts, (columns, best[0].blocks), size, template, across) if narrower else best


def _lay_out(
    texts: Texts, shape: Grid, size: Grid, template: Template, width: float | None = None
) -> tuple[PanelLayout, list[Label], list[str]]:
    """Lay out a number of columns and blocks; `width` is that of title and note, by default the page's."""
    columns, blocks = shape
    unit, rows = template.unit, 1 + math.ceil(len(texts.labels) / blocks)
    ticks = [(GAP + BAR + TICK) * unit + text_width(tick, template.small) for tick in texts.ticks]
    right = PAGE_MARGIN * unit + max(ticks, default=0.0)
    foot = text_height(wrap_foot(texts.foot, width or template.width, template), template.small)
    bottom = PAGE_MARGIN * unit + (GAP * unit + foot if foot else 0.0)
    title = text_height(wrap_text(texts.title, template.text, width or template.width), template.text)
    above = GAP * unit + title if title else 0.0
    room = _Room(template, columns, blocks, rows, size)
    guess = room.cell(0.4 * unit + right, 0.3 * unit + bottom)
    turned = guess[1] >= _TURNED * unit or not texts.labels
    labels = _break(texts.labels, template, guess[1] * 0.95 if turned else 0.8 * unit)
    across = [label.height(template) if turned else label.width(template) for label in labels]
    left = PAGE_MARGIN * unit + max((2 * GAP * unit + extent for extent in across), default=0.0)
    heads, top = _heads(texts.captions, template, room.cell(left + right, 0.0)[0])
    cell = room.cell(left + right, above + top + bottom)
    heads, top = _heads(texts.captions, template, cell[0])  # narrower if the page is full
    top += above
    pitch = GAP * unit + max([cell[1], *(label.height(template) for label in labels if not turned)])
    return PanelLayout(template, left, top, right, bottom, cell, pitch, (rows, columns), turned, blocks), labels, heads


def _break(labels: Sequence[tuple[str, str]], template: Template, room: float) -> list[Label]:
    return [Label(wrap_text(name, template.text, room), wrap_text(note, template.small, room)) for name, note in labels]


def _heads(captions: Sequence[str], template: Template, width: float) -> tuple[list[str], float]:
    """Break captions into lines; return them and the height of the room above the pictures."""
    heads = [wrap_text(caption, template.text, width) for caption in captions]
    rooms = [GAP * template.unit + text_height(head, template.text) for head in heads if head]
    return heads, PAGE_MARGIN * template.unit + max(rooms, default=0.0)


class _Room(NamedTuple):
    template: Template
    columns: int
    blocks: int
    rows: int
    size: Grid

    def cell(self, beside: float, above: float) -> tuple[float, float]:
        """Width and height of a picture in a block of which other elements take `beside` and `above`."""
        (height, width), unit, page = self.size, self.template.unit, self.template
        gap = GAP * unit
        widest = (page.width / self.blocks - beside + gap) / self.columns - gap
        highest = (page.height - above + gap) / self.rows - gap
        across = min(widest, highest * width / height, LARGEST_CELL * unit * width / max(self.size))
        across = max(across, SMALLEST_CELL * unit)
        return across, across * height / width
