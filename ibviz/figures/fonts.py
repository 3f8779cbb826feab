"""Fonts that contain the letters of a text: the requested ones, or installed ones with a warning."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from warnings import warn

import matplotlib
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

INVISIBLE = ("Cf", "Mn", "Zl", "Zp")  # Unicode categories that a font need not contain, such as joiners


def font_families(wanted: tuple[str, ...], texts: Sequence[str]) -> list[str]:
    """Return the families of `wanted`, followed by an installed one if they lack letters.

    One warning names the letters that are drawn in another font or as boxes.

    >>> font_families(("STIXGeneral", "DejaVu Sans"), ["cat", "\u05d7\u05ea\u05d5\u05dc"])
    ['STIXGeneral', 'DejaVu Sans']
    """
    lacking = {
        letter
        for letter in set("".join(texts)) - {"\n"}
        if unicodedata.category(letter) not in INVISIBLE and not any(letter in letters(family) for family in wanted)
    }
    if not lacking:
        return list(wanted)
    installed = _installed(frozenset(lacking))
    boxes = lacking.difference(*(letters(family) for family in installed))
    message = f"{', '.join(wanted)} lack {_shown(lacking)}"
    message += f"; drawn in {', '.join(installed)}, which other machines may lack" if installed else ""
    message += f"; {_shown(boxes)} drawn as boxes, as no installed TrueType font has them" if boxes else ""
    warn(message, UserWarning, stacklevel=2)
    return [*wanted, *installed]


def _shown(letters: set[str]) -> str:
    """List the first eight letters, escaped if they are not printable."""
    ordered = sorted(letters)
    shown = [letter if letter.isprintable() else ascii(letter) for letter in ordered[:8]]
    return " ".join(shown) + " ..." * (len(ordered) > 8)


@cache
def letters(family: str) -> frozenset[str]:
    """Return the letters of a family's upright font.

    >>> "a" in letters("STIXGeneral"), "\u65e5" in letters("STIXGeneral")
    (True, False)
    """
    return _letters_of(findfont(FontProperties(family=[family])))


def _letters_of(path: str) -> frozenset[str]:
    """Return the letters of a font file; none for PostScript outlines, which a PDF cannot embed as TrueType."""
    try:
        postscript = Path(path).read_bytes()[:4] == b"OTTO"
        font = get_font(path)
        return frozenset() if postscript or not font.scalable else frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError):  # a font that FreeType cannot read
        return frozenset()


@cache
def _installed(lacking: frozenset[str]) -> list[str]:
    """Find the installed family with most of these letters, except matplotlib's own, which draws a box for each."""
    bundled = Path(matplotlib.get_data_path())
    upright = [font for font in fontManager.ttflist if font.style == font.variant == "normal" and font.weight == 400]
    paths = sorted((font.name, font.fname) for font in upright if bundled not in Path(font.fname).parents)
    counts = {name: len(lacking & _letters_of(path)) for name, path in paths}
    best = max(counts, key=counts.__getitem__, default=None)
    return [best] if best is not None and counts[best] else []
