"""Where the pictures, labels and colour bars of a panel are, in inches."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ibviz.figures.settings import Template, text_height, text_width, wrap
from ibviz.types import Grid

# Inches at the text size of a paper; on slides all but the page is larger with the text.
LARGEST = 1.3  # longer side of a cell: one image does not fill a page
SMALLEST = 0.3
GAP = 0.03
BAR = 0.07
TICK = 0.04  # from a colour bar to its labels
TURNED = 0.6  # a row at least this high has its label turned
MARGIN = 0.02
ABREAST = 6  # pictures side by side in a folded figure


class Texts(NamedTuple):
    """What is written: name and note of each row, labels of the bars, captions above the columns, a note below all."""

    labels: Sequence[tuple[str, str]]
    ticks: Sequence[str]
    captions: Sequence[str]
    foot: str = ""

    def all(self) -> list[str]:
        """Every text, for the choice of fonts."""
        return [*(part for label in self.labels for part in label), *self.ticks, *self.captions, self.foot]


class Label(NamedTuple):
    """Name of a row and, in small type, what a reader must know of it; both in lines."""

    name: str
    note: str

    def height(self, template: Template) -> float:
        """Inches across the lines."""
        return text_height(self.name, template.text) + text_height(self.note, template.small)

    def width(self, template: Template) -> float:
        """Inches along the longest line."""
        lines = [(line, template.text) for line in self.name.splitlines()]
        lines += [(line, template.small) for line in self.note.splitlines()]
        return max(text_width(line, size) for line, size in lines)


class Place(NamedTuple):
    """A row of a block; row 0 has the plain images."""

    block: int
    row: int


class Layout(NamedTuple):
    """A table of cells, the first row being the plain images; long tables are folded into blocks side by side."""

    template: Template
    left: float  # room for the labels
    top: float  # room for the captions
    right: float  # room for the colour bars
    bottom: float  # room for the note below all
    cell: tuple[float, float]  # width, height
    pitch: float  # from row to row
    shape: Grid  # rows, with the plain images, and columns of a block
    turned: bool  # labels read upwards
    blocks: int = 1

    @property
    def gap(self) -> float:
        """Between neighbours."""
        return GAP * self.template.unit

    @property
    def width(self) -> float:
        """Width of a block."""
        return self.left + self.shape[1] * (self.cell[0] + self.gap) - self.gap + self.right

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        return self.blocks * self.width, self.top + self.shape[0] * self.pitch - self.gap + self.bottom

    def place(self, number: int) -> Place:
        """Where the overlays of a method are, the first being number 0."""
        block, row = divmod(number, self.shape[0] - 1)
        return Place(block, row + 1)

    def x(self, place: Place, column: int) -> float:
        """Left edge of a column; the one after the last is for colour bars."""
        return place.block * self.width + self.left + column * (self.cell[0] + self.gap)

    def middle(self, place: Place) -> float:
        """Height of the middle of a row above the lower edge of the figure."""
        return self.size[1] - self.top - place.row * self.pitch - (self.pitch - self.gap) / 2

    def box(self, place: Place, column: int, width: float, rows: int = 1) -> tuple[float, float, float, float]:
        """Rectangle from a cell to that `rows` - 1 below, in fractions of the figure, as matplotlib wants it."""
        (across, high), x, below = self.size, self.x(place, column), (rows - 1) * self.pitch
        bottom = self.middle(place) - self.cell[1] / 2 - below
        return x / across, bottom / high, width / across, (self.cell[1] + below) / high


def lay_out(texts: Texts, columns: int, size: Grid, template: Template) -> tuple[Layout, list[Label], list[str]]:
    """Fit `columns` images of `size` into a page; labels and captions come back in lines.

    A table is folded, as far as at most 6 pictures then stand side by side, where that makes the pictures larger.
    """
    most = max(1, min(ABREAST // columns, len(texts.labels)))
    tried = [_lay_out(texts, (columns, blocks), size, template) for blocks in range(1, most + 1)]
    return max(tried, key=lambda one: one[0].cell[0])


def _lay_out(texts: Texts, shape: Grid, size: Grid, template: Template) -> tuple[Layout, list[Label], list[str]]:
    columns, blocks = shape
    unit, rows = template.unit, 1 + math.ceil(len(texts.labels) / blocks)
    ticks = [(GAP + BAR + TICK) * unit + text_width(tick, template.small) for tick in texts.ticks]
    right, foot = MARGIN * unit + max(ticks, default=0.0), text_height(texts.foot, template.small)
    bottom = MARGIN * unit + (GAP * unit + foot if foot else 0.0)
    room = _Room(template, columns, blocks, rows, size)
    guess = room.cell(0.4 * unit + right, 0.3 * unit + bottom)
    turned = guess[1] >= TURNED * unit or not texts.labels
    labels = _break(texts.labels, template, guess[1] * 0.95 if turned else 0.8 * unit)
    across = [label.height(template) if turned else label.width(template) for label in labels]
    left = MARGIN * unit + max((2 * GAP * unit + one for one in across), default=0.0)
    heads, top = _heads(texts.captions, template, room.cell(left + right, 0.0)[0])
    cell = room.cell(left + right, top + bottom)
    heads, top = _heads(texts.captions, template, cell[0])  # narrower where the page is full
    pitch = GAP * unit + max([cell[1], *(label.height(template) for label in labels if not turned)])
    return Layout(template, left, top, right, bottom, cell, pitch, (rows, columns), turned, blocks), labels, heads


def _break(labels: Sequence[tuple[str, str]], template: Template, room: float) -> list[Label]:
    return [Label(wrap(name, template.text, room), wrap(note, template.small, room)) for name, note in labels]


def _heads(captions: Sequence[str], template: Template, width: float) -> tuple[list[str], float]:
    """Captions in lines, and the room that they take above the pictures."""
    heads = [wrap(caption, template.text, width) for caption in captions]
    rooms = [GAP * template.unit + text_height(head, template.text) for head in heads if head]
    return heads, MARGIN * template.unit + max(rooms, default=0.0)


class _Room(NamedTuple):
    template: Template
    columns: int
    blocks: int
    rows: int
    size: Grid

    def cell(self, beside: float, above: float) -> tuple[float, float]:
        """Width and height of a picture, beside and below what else takes of a block."""
        (height, width), unit, page = self.size, self.template.unit, self.template
        gap = GAP * unit
        widest = (page.width / self.blocks - beside + gap) / self.columns - gap
        highest = (page.height - above + gap) / self.rows - gap
        across = min(widest, highest * width / height, LARGEST * unit * width / max(self.size))
        across = max(across, SMALLEST * unit)
        return across, across * height / width
