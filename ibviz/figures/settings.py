"""Widths, fonts, sizes and inks that every figure shares, whatever the reader's own matplotlib settings."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from warnings import catch_warnings, filterwarnings

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from ibviz.errors import unknown
from ibviz.figures.fonts import families

# Both are shipped by matplotlib, so that a figure looks the same on every machine: a Times, as papers are set in, and
# a sans for screens.
SERIF, SANS = "STIXGeneral", "DejaVu Sans"


class Template(NamedTuple):
    """Where a figure will stand: its width and greatest height in inches, its font, and points of normal text."""

    width: float
    height: float
    font: str = SERIF
    text: float = 8.0

    @property
    def small(self) -> float:
        """Points of ticks and notes."""
        return 0.75 * self.text

    @property
    def unit(self) -> float:
        """How many times larger than in a paper gaps, bars and lines are."""
        return self.text / 8


# From the style files: full text width, and one column where there are two.
TEMPLATES: dict[str, Template] = {
    "neurips": Template(5.5, 9.0),
    "cvpr": Template(6.875, 8.875),
    "cvpr column": Template(3.25, 8.875),
    "ijcai": Template(7.0, 9.0),
    "ijcai column": Template(3.375, 9.0),
    "slides": Template(13.33, 7.5, SANS, 16.0),
}
DEFAULT = "ijcai"
HINTING = 1.03
LEADING = 1.15  # line pitch over font size
PIECES = re.compile("[ ]*[^ _/-]*[_/-]*")  # class names break after underscores; a hard space holds
INK = "#1a1a1a"
FAINT = "#666666"
SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "pdf.fonttype": 42,  # TrueType: some publishers refuse matplotlib's default, Type 3
    "svg.fonttype": "path",  # a reader's browser may lack the font
    "svg.hashsalt": "ibviz",  # else identifiers are drawn at random
    "text.color": INK,
    "text.parse_math": False,  # a class name may hold a dollar
    "xtick.color": INK,
    "ytick.color": INK,
}


def find_template(name: str) -> Template:
    """Look up one of `TEMPLATES`.

    >>> find_template("cvpr column").width
    3.25
    """
    if name not in TEMPLATES:
        raise unknown("template", name, list(TEMPLATES))
    return TEMPLATES[name]


@contextmanager
def settings(template: Template = TEMPLATES[DEFAULT], texts: Sequence[str] = ()) -> Iterator[None]:
    """Draw or save over matplotlib's defaults, in fonts that have the letters of `texts`; the reader's own come back.

    >>> with settings():
    ...     matplotlib.rcParams["pdf.fonttype"]
    42
    """
    sizes: dict[Any, Any] = {
        "axes.labelsize": template.text,
        "axes.linewidth": 0.4 * template.unit,
        "axes.titlesize": template.text,
        "font.family": families(tuple(dict.fromkeys((template.font, SANS))), texts),
        "font.size": template.text,
        "xtick.labelsize": template.small,
        "ytick.labelsize": template.small,
    }
    with matplotlib.rc_context(), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")  # `families` has said so, once
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS | sizes)
        yield


def text_width(text: str, size: float) -> float:
    """Width of one line in inches, in the font of the settings; a little more, as hinting widens letters on a screen.

    >>> text_width("mm", 10.0) == 2 * text_width("m", 10.0)
    True
    """
    font = FontProperties(size=size)
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
