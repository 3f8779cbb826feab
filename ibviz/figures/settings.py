"""Fonts, sizes and inks that every figure shares, whatever the reader's own matplotlib settings."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

WIDTH = 7.0  # inches; the text width of a two-column paper
FONT = "STIXGeneral"  # a Times that matplotlib ships, so that a figure looks the same on every machine
TEXT = 8.0  # points
SMALL = 6.0
HINTING = 1.03
LEADING = 1.15  # line pitch over font size
PIECES = re.compile("[ ]*[^ _/-]*[_/-]*")  # class names break after underscores; a hard space holds
INK = "#1a1a1a"
FAINT = "#666666"
SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT,
    "axes.linewidth": 0.4,
    "axes.titlesize": TEXT,
    "font.family": FONT,
    "font.size": TEXT,
    "pdf.fonttype": 42,  # TrueType: some publishers refuse matplotlib's default, Type 3
    "svg.fonttype": "path",  # a reader's browser may lack the font
    "svg.hashsalt": "ibviz",  # else identifiers are drawn at random
    "text.color": INK,
    "text.parse_math": False,  # a class name may hold a dollar
    "xtick.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.color": INK,
    "ytick.labelsize": SMALL,
}


@contextmanager
def settings() -> Iterator[None]:
    """Draw and save under `SETTINGS` over matplotlib's defaults; what was set before comes back.

    >>> with settings():
    ...     matplotlib.rcParams["pdf.fonttype"]
    42
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def text_width(text: str, size: float) -> float:
    """Width of one line in inches, at a font size in points; a little more, as hinting widens letters on a screen.

    >>> text_width("mm", 10.0) == 2 * text_width("m", 10.0)
    True
    """
    font = FontProperties(family=FONT, size=size)
    return HINTING * TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def wrap(text: str, size: float, width: float) -> str:
    """Break lines to at most `width` inches, inside a word only where the word alone is wider.

    >>> wrap("Integrated gradients", 8.0, 0.6)
    'Integrated\\ngradients'
    """
    return "\n".join(_wrap_line(line, size, width) for line in text.splitlines())


def _wrap_line(line: str, size: float, width: float) -> str:
    lines = [""]
    for piece in PIECES.findall(line):
        if lines[-1] and text_width(lines[-1] + piece, size) > width:
            lines.append("")
        for letter in piece if lines[-1] else piece.lstrip():
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(lines)


def text_height(text: str, size: float) -> float:
    """Height of a block of lines in inches; an empty text has none.

    >>> text_height("", 8.0), round(text_height("one\\ntwo", 8.0), 3)
    (0.0, 0.256)
    """
    return len(text.splitlines()) * size * LEADING / 72
