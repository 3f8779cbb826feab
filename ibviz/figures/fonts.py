"""Which fonts have the letters of a text: the ones asked for, or whatever this machine has, said once."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from warnings import warn

import matplotlib
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

INVISIBLE = ("Cf", "Mn", "Zl", "Zp")  # joiners, variation selectors: what no font needs to have


def families(wanted: tuple[str, ...], texts: Sequence[str]) -> list[str]:
    """The families of `wanted` and, where all lack a letter, an installed one that has it.

    What is not drawn as wanted is told in one warning: letters in the font of this machine, or as boxes.

    >>> families(("STIXGeneral", "DejaVu Sans"), ["cat", "\u05d7\u05ea\u05d5\u05dc"])
    ['STIXGeneral', 'DejaVu Sans']
    """
    lacking = {
        letter
        for letter in set("".join(texts)) - {"\n"}
        if unicodedata.category(letter) not in INVISIBLE and not any(letter in letters(one) for one in wanted)
    }
    if not lacking:
        return list(wanted)
    found = _installed(frozenset(lacking))
    boxes = lacking.difference(*(letters(one) for one in found))
    told = f"{', '.join(wanted)} lack {_shown(lacking)}"
    told += f"; drawn in {', '.join(found)}, which other machines may lack" if found else ""
    told += f"; {_shown(boxes)} drawn as boxes, as no installed TrueType font has them" if boxes else ""
    warn(told, UserWarning, stacklevel=2)
    return [*wanted, *found]


def _shown(letters: set[str]) -> str:
    """The first letters, by name where they cannot be seen."""
    first = sorted(letters)
    return " ".join(one if one.isprintable() else ascii(one) for one in first[:8]) + " ..." * (len(first) > 8)


@cache
def letters(family: str) -> frozenset[str]:
    """Letters that a family has in its upright style.

    >>> "a" in letters("STIXGeneral"), "\u65e5" in letters("STIXGeneral")
    (True, False)
    """
    return _letters_of(findfont(FontProperties(family=[family])))


def _letters_of(path: str) -> frozenset[str]:
    """Letters of a font file that a PDF can hold as TrueType, which are none of those with PostScript's outlines."""
    try:
        postscript = Path(path).read_bytes()[:4] == b"OTTO"
        font = get_font(path)
        return frozenset() if postscript or not font.scalable else frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError):  # a font that FreeType cannot read
        return frozenset()


@cache
def _installed(lacking: frozenset[str]) -> list[str]:
    """The installed family with most of these letters, if one has any; matplotlib's own has a box for each."""
    own = Path(matplotlib.get_data_path())
    upright = [one for one in fontManager.ttflist if one.style == one.variant == "normal" and one.weight == 400]
    paths = sorted((one.name, one.fname) for one in upright if own not in Path(one.fname).parents)
    counts = {name: len(lacking & _letters_of(path)) for name, path in paths}
    best = max(counts, key=counts.__getitem__, default=None)
    return [best] if best is not None and counts[best] else []
