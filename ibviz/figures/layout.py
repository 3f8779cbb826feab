"""Where the pictures, labels and colour bars of a panel are, in inches."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ibviz.figures.settings import SMALL, TEXT, WIDTH, text_height, text_width, wrap
from ibviz.types import Grid

LARGEST = 1.3  # longer side of a cell: one image does not fill a page
SMALLEST = 0.3
GAP = 0.03
BAR = 0.07
TICK = 0.04  # from a colour bar to its labels
TURNED = 0.6  # a row at least this high has its label turned
MARGIN = 0.02
PAGE = 9.0  # inches; a figure that would be higher is folded
ABREAST = 6  # pictures side by side in a folded figure


class Label(NamedTuple):
    """Name of a row and, in small type, what a reader must know of it; both in lines."""

    name: str
    note: str

    @property
    def height(self) -> float:
        """Inches across the lines."""
        return text_height(self.name, TEXT) + text_height(self.note, SMALL)

    @property
    def width(self) -> float:
        """Inches along the longest line."""
        lines = [(line, TEXT) for line in self.name.splitlines()] + [(line, SMALL) for line in self.note.splitlines()]
        return max(text_width(line, size) for line, size in lines)


class Place(NamedTuple):
    """A row of a block; row 0 has the plain images."""

    block: int
    row: int


class Layout(NamedTuple):
    """A table of cells, the first row being the plain images; long tables are folded into blocks side by side."""

    left: float  # room for the labels
    top: float  # room for the captions
    right: float  # room for the colour bars
    cell: tuple[float, float]  # width, height
    pitch: float  # from row to row
    shape: Grid  # rows, with the plain images, and columns of a block
    turned: bool  # labels read upwards
    blocks: int = 1

    @property
    def width(self) -> float:
        """Width of a block."""
        return self.left + self.shape[1] * (self.cell[0] + GAP) - GAP + self.right

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        return self.blocks * self.width, self.top + self.shape[0] * self.pitch - GAP + MARGIN

    def place(self, number: int) -> Place:
        """Where the overlays of a method are, the first being number 0."""
        block, row = divmod(number, self.shape[0] - 1)
        return Place(block, row + 1)

    def x(self, place: Place, column: int) -> float:
        """Left edge of a column; the one after the last is for colour bars."""
        return place.block * self.width + self.left + column * (self.cell[0] + GAP)

    def middle(self, place: Place) -> float:
        """Height of the middle of a row above the lower edge of the figure."""
        return self.size[1] - self.top - place.row * self.pitch - (self.pitch - GAP) / 2

    def box(self, place: Place, column: int, width: float) -> tuple[float, float, float, float]:
        """Rectangle as high as a cell, in fractions of the figure, as matplotlib wants it."""
        (across, high), x = self.size, self.x(place, column)
        return x / across, (self.middle(place) - self.cell[1] / 2) / high, width / across, self.cell[1] / high


def lay_out(
    labels: Sequence[tuple[str, str]], ticks: Sequence[str], captions: Sequence[str], columns: int, size: Grid
) -> tuple[Layout, list[Label], list[str]]:
    """Fit `columns` images of `size` into the width of a page; labels and captions come back in lines.

    A table higher than a page is folded, as far as at most 6 pictures then stand side by side.
    """
    most = max(1, min(ABREAST // columns, len(labels)))
    tried = [_lay_out(labels, ticks, captions, (columns, blocks), size) for blocks in range(1, most + 1)]
    return next((one for one in tried if one[0].size[1] <= PAGE), tried[-1])


def _lay_out(
    labels: Sequence[tuple[str, str]], ticks: Sequence[str], captions: Sequence[str], shape: Grid, size: Grid
) -> tuple[Layout, list[Label], list[str]]:
    columns, blocks = shape
    right = MARGIN + max((GAP + BAR + TICK + text_width(tick, SMALL) for tick in ticks), default=0.0)
    guess = _cell(0.4 + right, shape, size)
    turned = guess[1] >= TURNED or not labels
    room = guess[1] * 0.95 if turned else 0.8
    broken = [Label(wrap(name, TEXT, room), wrap(note, SMALL, room)) for name, note in labels]
    left = MARGIN + max((2 * GAP + (label.height if turned else label.width) for label in broken), default=0.0)
    cell = _cell(left + right, shape, size)
    heads = [wrap(caption, TEXT, cell[0]) for caption in captions]
    top = MARGIN + max((GAP + text_height(head, TEXT) for head in heads if head), default=0.0)
    pitch = GAP + max([cell[1], *(label.height for label in broken if not turned)])
    rows = 1 + math.ceil(len(labels) / blocks)
    return Layout(left, top, right, cell, pitch, (rows, columns), turned, blocks), broken, heads


def _cell(sides: float, shape: Grid, size: Grid) -> tuple[float, float]:
    """Width and height of a picture beside labels and bars that take `sides` of a block."""
    (height, width), (columns, blocks) = size, shape
    across = min((WIDTH / blocks - sides + GAP) / columns - GAP, LARGEST * width / max(size))
    across = max(across, SMALLEST)
    return across, across * height / width
