"""Tables of text, and their forms: aligned columns, Markdown, CSV, and LaTeX that fits a width."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

PAGE_WIDTH = 5.5  # inches: that of the narrowest page that a figure is drawn for
_SIZES = {r"\small": 9.0, r"\footnotesize": 8.0, r"\scriptsize": 7.0}  # points, in a text of 10 points
_BETWEEN = 6.0  # points between columns
_WIDEST = 0.4  # share of the width that a column takes before its text is broken
_POINTS = 72.27  # an inch in TeX
# Widths of letters in Computer Modern, which is wider than Times, in parts of the text size.
_WIDTHS = {**dict.fromkeys("fijltrI.,;:!'|()[]", 0.4), **dict.fromkeys("mwMW%\u2212+=<>@", 0.95), " ": 0.35}


class Sheet(NamedTuple):
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


def text_sheet(sheet: Sheet) -> str:
    """Return aligned columns, with a rule below the header and one before the controls.

    >>> print(text_sheet(Sheet("", ["a", "b"], [["10", "2"]])))
    a   b
    -----
    10  2
    """
    widths = [max(map(len, column)) for column in zip(sheet.header, *sheet.cells, strict=True)]
    head, *body = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (sheet.header, *sheet.cells)
    ]
    rule = "-" * max(map(len, [head, *body]))
    second = [rule] if 0 < sheet.methods < len(body) else []
    lines = [*_title(sheet), head, rule, *body[: sheet.methods], *second, *body[sheet.methods :], *sheet.notes]
    return "\n".join(lines)


def markdown_sheet(sheet: Sheet) -> str:
    """Return a pipe table, with controls in italics.

    >>> print(markdown_sheet(Sheet("", ["a"], [["x|y"]])))
    | a |
    | --- |
    | x\\|y |
    """
    rows = [[row[0] if i < sheet.methods else f"*{row[0]}*", *row[1:]] for i, row in enumerate(sheet.cells)]
    lines = [sheet.header, ["---"] * len(sheet.header), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
    title = [f"**{line}**" for line in _title(sheet)]
    return "\n\n".join([*title, table, *(["\n".join(f"- {note}" for note in sheet.notes)] if sheet.notes else [])])


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


def latex_sheet(sheet: Sheet, *, width: float = PAGE_WIDTH, column: bool = False) -> str:
    """Return a table for booktabs that is at most `width` inches wide, with the notes below.

    The type becomes smaller, and a table that is still too wide has its columns one block below the other.

    Args:
        sheet: The table.
        width: Width of the page or column in inches.
        column: Let the table stand in one column of two; otherwise it takes the whole page.
    """
    size, blocks = _fitted(sheet, width * _POINTS)
    place = "table" if column else "table*"
    return "\n".join(
        [
            rf"\begin{{{place}}}",
            rf"\centering{size}\setlength{{\tabcolsep}}{{{_BETWEEN / 2:g}pt}}",
            *(rf"\caption{{{escape_latex(line)}}}" for line in _title(sheet)),
            "\n\\par\\medskip\n".join(_tabular(sheet, columns, _SIZES[size], width * _POINTS) for columns in blocks),
            *(rf"\par {{\raggedright {escape_latex(note)}\par}}" for note in sheet.notes),
            rf"\end{{{place}}}",
        ]
    )


def latex_text(text: str) -> str:
    """Return a paragraph in small type."""
    return rf"{{\small\sloppy {escape_latex(text)}\par}}"


def _title(sheet: Sheet) -> list[str]:
    return [sheet.title] if sheet.title else []


def _fitted(sheet: Sheet, width: float) -> tuple[str, list[list[int]]]:
    """Return the size of the type, and the columns of each block; the first column begins every block."""
    columns = list(range(len(sheet.header)))
    for size, points in _SIZES.items():
        if _width(_widths(sheet, points, width), columns) <= width:
            return size, [columns]
    widths, blocks = _widths(sheet, points, width), [[0]]
    for place in columns[1:]:
        if len(blocks[-1]) > 1 and _width(widths, [*blocks[-1], place]) > width:
            blocks.append([0])
        blocks[-1].append(place)
    return size, blocks


def _widths(sheet: Sheet, points: float, width: float) -> list[float]:
    """Return the width of each column in points; one with long texts is broken."""
    columns = zip(sheet.header, *sheet.cells, strict=True)
    return [min(_WIDEST * width, max(_length(text, points) for text in column)) for column in columns]


def _width(widths: Sequence[float], columns: Sequence[int]) -> float:
    return sum(widths[column] for column in columns) + _BETWEEN * len(columns)


def _length(text: str, points: float) -> float:
    parts = sum(_WIDTHS.get(letter, 0.76 if letter.isupper() else 0.53) for letter in text)
    return 1.02 * points * parts


def _tabular(sheet: Sheet, columns: Sequence[int], points: float, width: float) -> str:
    def shown(row: Sequence[str]) -> list[str]:
        return [_cell(row[column], points, _WIDEST * width) for column in columns]

    rows = [" & ".join(shown(row)) + r" \\" for row in sheet.cells[: sheet.methods]]
    controls = [shown(row) for row in sheet.cells[sheet.methods :]]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
            r"\toprule",
            " & ".join(shown(sheet.header)) + r" \\",
            r"\midrule",
            *rows,
            *([r"\midrule"] if rows and controls else []),
            *(rf"\textit{{{first}}} & {' & '.join(rest)} \\" for first, *rest in controls),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _cell(text: str, points: float, most: float) -> str:
    """Return an escaped cell, in lines of at most `most` points."""
    escaped = escape_latex(text)
    if _length(text, points) <= most:
        return escaped
    breakable = escaped.replace(r"\_", r"\_\allowbreak{}").replace("/", r"/\allowbreak{}")
    return rf"\parbox[t]{{{most:.0f}pt}}{{\raggedright {breakable}}}"


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
