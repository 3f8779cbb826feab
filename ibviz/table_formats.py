"""Tables of text, and their forms: aligned columns, Markdown, CSV, and LaTeX that fits a width."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

PAGE_WIDTH = 5.5  # inches: that of the narrowest page that a figure is drawn for
_SIZES = {  # points, in a text of 10 points, and how much wider small letters of Computer Modern are than large ones
    r"\small": (9.0, 1.03),
    r"\footnotesize": (8.0, 1.07),
    r"\scriptsize": (7.0, 1.15),
}
_BETWEEN = 6.0  # points between columns
_SHARES = (0.4, 0.3, 0.18)  # of the width, that the first column takes at most if its words fit; it is then broken
_POINTS = 72.27  # an inch in TeX
# Widths of letters in Computer Modern, which is wider than Times, in parts of the text size.
_WIDTHS = {
    **dict.fromkeys(".,;:!'|[]il", 0.29),
    **dict.fromkeys("()fjtrI- /", 0.4),
    **dict.fromkeys("mwMW%\u2212+=<>@\u00d7", 0.9),
    **dict.fromkeys("0123456789", 0.51),
}


class TextTable(NamedTuple):
    """A table as it is printed, with `notes` below; its last `controls` rows are controls, its title may be empty."""

    title: str
    header: list[str]
    cells: list[list[str]]
    controls: int = 0
    notes: Sequence[str] = ()

    @property
    def methods(self) -> int:
        """Number of rows that are no controls."""
        return len(self.cells) - self.controls


def text_of(table: TextTable) -> str:
    """Return aligned columns, with a rule below the header and one before the controls.

    >>> print(text_of(TextTable("", ["a", "b"], [["10", "2"]])))
    a   b
    -----
    10  2
    """
    widths = [max(map(len, column)) for column in zip(table.header, *table.cells, strict=True)]
    head, *body = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (table.header, *table.cells)
    ]
    rule = "-" * max(map(len, [head, *body]))
    second = [rule] if 0 < table.methods < len(body) else []
    lines = [*_title(table), head, rule, *body[: table.methods], *second, *body[table.methods :], *table.notes]
    return "\n".join(lines)


def markdown_of(table: TextTable) -> str:
    """Return a pipe table, with controls in italics.

    >>> print(markdown_of(TextTable("", ["a"], [["x|y"]])))
    | a |
    | --- |
    | x\\|y |
    """
    rows = [[row[0] if i < table.methods else f"*{row[0]}*", *row[1:]] for i, row in enumerate(table.cells)]
    lines = [table.header, ["---"] * len(table.header), *rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
    title = [f"**{line}**" for line in _title(table)]
    return "\n\n".join([*title, body, *(["\n".join(f"- {note}" for note in table.notes)] if table.notes else [])])


def csv_rows(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV, with None as an empty field.

    >>> csv_rows(["a", "b"], [[1, None]])
    'a,b\\n1,\\n'
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def latex_of(table: TextTable, *, width: float = PAGE_WIDTH, column: bool = False) -> str:
    """Return a table for booktabs that is at most `width` inches wide, with the notes below.

    The type becomes smaller, and a table that is still too wide has its columns one block below the other.

    Args:
        table: The table.
        width: Width of the page or column in inches.
        column: Let the table stand in one column of two; otherwise it takes the whole page.
    """
    fit = _fitted(table, width * _POINTS)
    place = "table" if column else "table*"
    return "\n".join(
        [
            rf"\begin{{{place}}}",
            rf"\centering{fit.size}\setlength{{\tabcolsep}}{{{_BETWEEN / 2:g}pt}}",
            *(rf"\caption{{{escape_latex(line)}}}" for line in _title(table)),
            "\n\\par\\medskip\n".join(_tabular(table, columns, fit) for columns in fit.blocks),
            *(rf"\par {{\raggedright {escape_latex(note)}\par}}" for note in table.notes),
            rf"\end{{{place}}}",
        ]
    )


def latex_text(text: str) -> str:
    """Return a paragraph in small type."""
    return rf"{{\small\sloppy {escape_latex(text)}\par}}"


def _title(table: TextTable) -> list[str]:
    return [table.title] if table.title else []


class _Fit(NamedTuple):
    """Type and columns of a table in LaTeX."""

    size: str
    widest: float  # points that a cell takes before it is broken
    blocks: list[list[int]]  # columns of each; the first column begins every block


def _fitted(table: TextTable, width: float) -> _Fit:
    """Choose the largest type in which all columns stand side by side; in the smallest the columns are split."""
    columns = list(range(len(table.header)))
    for share, size in product(_SHARES, _SIZES):
        most = max(share * width, _longest_word(table, size))
        if _width(_widths(table, size, most), columns) <= width:
            return _Fit(size, most, [columns])
    size = list(_SIZES)[-1]
    most = max(_SHARES[0] * width, _longest_word(table, size))
    widths, blocks = _widths(table, size, most), [[0]]
    for place in columns[1:]:
        if len(blocks[-1]) > 1 and _width(widths, [*blocks[-1], place]) > width:
            blocks.append([0])
        blocks[-1].append(place)
    return _Fit(size, most, blocks)


def _longest_word(table: TextTable, size: str) -> float:
    words = [word for row in table.cells for word in re.split(r"[ /_-]", row[0])]
    return max((_length(word, size) for word in words), default=0.0)


def _widths(table: TextTable, size: str, most: float) -> list[float]:
    """Return the width of each column in points; one with long texts is broken."""
    columns = zip(table.header, *table.cells, strict=True)
    first, *others = (max(_length(text, size) for text in column) for column in columns)
    return [min(first, most), *others]


def _width(widths: Sequence[float], columns: Sequence[int]) -> float:
    return sum(widths[column] for column in columns) + _BETWEEN * (len(columns) - 1)


def _length(text: str, size: str) -> float:
    points, factor = _SIZES[size]
    return factor * points * sum(_WIDTHS.get(letter, 0.74 if letter.isupper() else 0.52) for letter in text)


def _tabular(table: TextTable, columns: Sequence[int], fit: _Fit) -> str:
    def shown(row: Sequence[str]) -> list[str]:
        return [_cell(row[column], fit) if column == 0 else escape_latex(row[column]) for column in columns]

    rows = [" & ".join(shown(row)) + r" \\" for row in table.cells[: table.methods]]
    controls = [shown(row) for row in table.cells[table.methods :]]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{@{{}}{'l' * len(columns)}@{{}}}}",
            r"\toprule",
            " & ".join(shown(table.header)) + r" \\",
            r"\midrule",
            *rows,
            *([r"\midrule"] if rows and controls else []),
            *(rf"\textit{{{first}}} & {' & '.join(rest)} \\" for first, *rest in controls),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _cell(text: str, fit: _Fit) -> str:
    """Return an escaped cell, in several lines if it is wider than the fit allows."""
    escaped = escape_latex(text)
    if _length(text, fit.size) <= fit.widest:
        return escaped
    breakable = escaped.replace(r"\_", r"\_\allowbreak{}").replace("/", r"/\allowbreak{}")
    return rf"\parbox[t]{{{fit.widest:.0f}pt}}{{\raggedright {breakable}\strut}}"


SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\u00d7": r"$\times$",
    "Δ": r"$\Delta$",
    "\u2212": "$-$",
    "\u207a": "$^{+}$",
    "\u207b": "$^{-}$",
    "°": r"$^{\circ}$",
    "\u00a0": "~",
    "[": "{[}",
    "]": "{]}",
}


def escape_latex(words: str) -> str:
    r"""Escape text for LaTeX; a hyphen before a digit becomes a minus, and brackets are wrapped in braces.

    >>> escape_latex("A_1 -0.5 & 5%")
    'A\\_1 $-$0.5 \\& 5\\%'
    """
    escaped = "".join(SPECIAL.get(character, character) for character in words)
    return re.sub(r"(?<![\w$])-(?=\d)", "$-$", escaped)
