"""Where the pictures, labels and colour bars of a panel are, in inches."""

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


class Layout(NamedTuple):
    """A table of cells, the first row being the plain images."""

    left: float  # room for the labels
    top: float  # room for the captions
    right: float  # room for the colour bars
    cell: tuple[float, float]  # width, height
    pitch: float  # from row to row
    shape: Grid
    turned: bool  # labels read upwards

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        rows, columns = self.shape
        width = self.left + columns * (self.cell[0] + GAP) - GAP + self.right
        return width, self.top + rows * self.pitch - GAP + MARGIN

    def x(self, column: int) -> float:
        """Left edge of a column; the one after the last is for colour bars."""
        return self.left + column * (self.cell[0] + GAP)

    def middle(self, row: int) -> float:
        """Height of the middle of a row above the lower edge of the figure."""
        return self.size[1] - self.top - row * self.pitch - (self.pitch - GAP) / 2

    def box(self, row: int, x: float, width: float) -> tuple[float, float, float, float]:
        """Rectangle as high as a cell, in fractions of the figure, as matplotlib wants it."""
        across, high = self.size
        return x / across, (self.middle(row) - self.cell[1] / 2) / high, width / across, self.cell[1] / high


def lay_out(
    labels: Sequence[tuple[str, str]], ticks: Sequence[str], captions: Sequence[str], columns: int, size: Grid
) -> tuple[Layout, list[Label], list[str]]:
    """Fit `columns` images of `size` into the width of a page; labels and captions come back in lines."""
    right = MARGIN + max((GAP + BAR + TICK + text_width(tick, SMALL) for tick in ticks), default=0.0)
    guess = _cell(0.4, right, columns, size)
    turned = guess[1] >= TURNED or not labels
    room = guess[1] * 0.95 if turned else 0.8
    broken = [Label(wrap(name, TEXT, room), wrap(note, SMALL, room)) for name, note in labels]
    left = MARGIN + max((2 * GAP + (label.height if turned else label.width) for label in broken), default=0.0)
    cell = _cell(left, right, columns, size)
    heads = [wrap(caption, TEXT, cell[0]) for caption in captions]
    top = MARGIN + max((GAP + text_height(head, TEXT) for head in heads if head), default=0.0)
    pitch = GAP + max([cell[1], *(label.height for label in broken if not turned)])
    return Layout(left, top, right, cell, pitch, (1 + len(labels), columns), turned), broken, heads


def _cell(left: float, right: float, columns: int, size: Grid) -> tuple[float, float]:
    height, width = size
    across = min((WIDTH - left - right + GAP) / columns - GAP, LARGEST * width / max(size))
    across = max(across, SMALLEST)
    return across, across * height / width
