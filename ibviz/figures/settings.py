"""Widths, fonts, sizes and colours of all figures, independent of the user's matplotlib settings."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple
from warnings import catch_warnings, filterwarnings

import matplotlib
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import TextToPath

from ibviz.errors import InputError, did_you_mean
from ibviz.figures.fonts import font_families
from ibviz.pages import PAGE_SIZES, page_size

# Both are bundled with matplotlib, so that a figure looks the same on every machine: a Times, as papers use, and a
# sans serif for slides.
SERIF, SANS = "STIXGeneral", "DejaVu Sans"


class Template(NamedTuple):
    """Page that a figure is drawn for: width and largest height in inches, font, and size of text in points.

    >>> Template(3.25, 8.875).small
    6.0
    """

    width: float  # inches
    height: float  # inches, at most
    font: str = SERIF
    text: float = 8.0  # points

    @property
    def small(self) -> float:
        """Size of ticks and notes in points."""
        return 0.75 * self.text

    @property
    def unit(self) -> float:
        """Scale of gaps, bars and lines relative to a paper."""
        return self.text / 8


TEMPLATES = {name: Template(*size) for name, size in PAGE_SIZES.items()}
TEMPLATES["slides"] = Template(*PAGE_SIZES["slides"], SANS, 16.0)
DEFAULT_TEMPLATE = "ijcai"
HINTING = 1.03
_LARGEST = 100  # inches of a page, and points of text; bounds memory
LEADING = 1.15  # line spacing over font size
WORDS = re.compile("[ ]*[^ ]*")  # no-break spaces do not break
PIECES = re.compile("[ ]*[^ _/-]*[_/-]*")  # of a word that is wider than a line
INK = "#1a1a1a"
FAINT = "#666666"
SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "pdf.fonttype": 42,  # TrueType: some publishers refuse matplotlib's default, Type 3
    "svg.fonttype": "path",  # a reader's browser may lack the font
    "svg.hashsalt": "ibviz",  # identifiers are random otherwise
    "text.color": INK,
    "text.parse_math": False,  # a class name may contain a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
}


Page = str | Template  # a name of `TEMPLATES`, or a page of one's own


def find_template(page: Page) -> Template:
    """Look up one of `TEMPLATES`, or check a page of the user's own.

    >>> find_template("cvpr column").width
    3.25
    """
    if isinstance(page, str):
        page_size(page)
        return TEMPLATES[page]
    sizes = (page.width, page.height, page.text)
    if not all(0 < size <= _LARGEST for size in sizes):
        raise InputError(
            f"a page has a width and a height in inches and a text size in points, above 0 and up to {_LARGEST}; got "
            f"{sizes}"
        )
    known = fontManager.get_font_names()
    if page.font not in known:
        raise InputError(f"no installed font is called {page.font!r}{did_you_mean(page.font, known)}")
    return page


@contextmanager
def settings(template: Template = TEMPLATES[DEFAULT_TEMPLATE], texts: Sequence[str] = ()) -> Iterator[None]:
    """Set matplotlib for drawing or saving, with fonts that contain the letters of `texts`; undone on exit.

    >>> with settings():
    ...     matplotlib.rcParams["pdf.fonttype"]
    42
    """
    sizes: dict[Any, Any] = {
        "axes.labelsize": template.text,
        "axes.linewidth": 0.4 * template.unit,
        "axes.titlesize": template.text,
        "font.family": font_families(tuple(dict.fromkeys((template.font, SANS))), texts),
        "font.size": template.text,
        "xtick.labelsize": template.small,
        "ytick.labelsize": template.small,
    }
    with matplotlib.rc_context(), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")  # `font_families` has warned of it
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS | sizes)
        yield


def text_width(text: str, size: float) -> float:
    """Width of one line in inches in the current font, plus 3 % because hinting widens letters on a screen.

    >>> text_width("mm", 10.0) == 2 * text_width("m", 10.0)
    True
    """
    return _text_width(text, FontProperties(size=size))


@lru_cache(maxsize=2**14)  # a layout is tried in many widths, each of which asks for the same pieces of text
def _text_width(text: str, font: FontProperties) -> float:
    return HINTING * TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def wrap_text(text: str, size: float, width: float) -> str:
    """Break lines to at most `width` inches, and inside a word only if the word alone is wider: after "_", "/" or "-".

    >>> wrap_text("Integrated gradients", 8.0, 0.6)
    'Integrated\\ngradients'
    """
    return "\n".join(_wrap_line(line, size, width) for line in text.splitlines())


def _wrap_line(line: str, size: float, width: float) -> str:
    lines = [""]
    for piece in _pieces(line, size, width):
        if lines[-1] and text_width(lines[-1] + piece, size) > width:
            lines.append("")
        for letter in piece if lines[-1] else piece.lstrip():
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(lines)


def _pieces(line: str, size: float, width: float) -> Iterator[str]:
    for word in WORDS.findall(line):
        yield from [word] if text_width(word.lstrip(), size) <= width else PIECES.findall(word)


def text_height(text: str, size: float) -> float:
    """Height of a block of lines in inches; an empty text has none.

    >>> text_height("", 8.0), round(text_height("one\\ntwo", 8.0), 3)
    (0.0, 0.256)
    """
    return len(text.splitlines()) * size * LEADING / 72
