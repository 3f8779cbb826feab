"""Tables of a comparison in six formats, as files and for the terminal, with the same content in each."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ibviz.benchmark.summary import Summary, summarise
from ibviz.benchmark.table_text import Sheet, table_sections
from ibviz.files import replacing
from ibviz.metrics.metric import MetricFacts

if TYPE_CHECKING:
    from pandas import DataFrame


class Tables(NamedTuple):
    """A summary, and the circumstances of its rows as `circumstances.json` has them."""

    summary: Summary
    circumstances: Mapping[str, Any]

    @property
    def page(self) -> list[Sheet | str]:
        """All tables with their notes, and the legend."""
        return table_sections(self.summary, self.circumstances)


def tabulate(rows: "DataFrame", circumstances: Mapping[str, Any]) -> Tables:
    """Summarise the rows of a comparison; `circumstances` must have `protocols`, the protocol cards by label."""
    models = circumstances.get("models", {})
    recipes = {model: facts["recipe"] for model, facts in models.items() if facts.get("recipe")}
    return Tables(summarise(rows, recipes, read_metrics(circumstances)), circumstances)


def read_metrics(circumstances: Mapping[str, Any]) -> dict[str, MetricFacts]:
    """Return the metrics that the circumstances describe; older results do not describe those of ibviz."""
    return {name: MetricFacts(**facts) for name, facts in circumstances.get("metrics", {}).items()}


def write_tables(folder: Path, tables: Tables) -> None:
    """Write `table.md`, `.tex`, `.csv`, `.json`, `.parquet` and `.txt`, each whole or not at all."""
    contents = {suffix: render(tables) for suffix, render in TABLE_FORMATS.items()}
    for suffix, content in contents.items():
        with replacing(folder / f"table.{suffix}") as beside:
            beside.write_bytes(content if isinstance(content, bytes) else content.encode())


def text(tables: Tables) -> str:
    """Return aligned columns for a terminal; a rule separates the controls."""
    return "\n\n".join(part if isinstance(part, str) else _aligned(part) for part in tables.page) + "\n"


def markdown(tables: Tables) -> str:
    """Return pipe tables, with controls in italics."""
    return "\n\n".join(part if isinstance(part, str) else _piped(part) for part in tables.page) + "\n"


def latex(tables: Tables) -> str:
    """Return one `table*` per table, which needs `\\usepackage{booktabs}`, and the legend as paragraphs."""
    parts = [_escaped(part) if isinstance(part, str) else _latex_table(part) for part in tables.page]
    return "\n\n".join(["% needs \\usepackage{booktabs}", *parts]) + "\n"


def comma_separated(tables: Tables) -> str:
    """Return one record per line of the summary, at full precision; undefined values are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    records = _records(tables.summary.lines)
    writer.writerow(records[0])
    writer.writerows(record.values() for record in records)
    return out.getvalue()


def as_json(tables: Tables) -> str:
    """Return circumstances, lines and agreement as JSON, at full precision; undefined values are null."""
    summary = tables.summary
    content = {
        "circumstances": tables.circumstances,
        "lines": _records(summary.lines),
        "agreement": _records(summary.agreement),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def parquet(tables: Tables) -> bytes:
    """Return the lines of the summary as the bytes of a Parquet file."""
    out = io.BytesIO()
    tables.summary.lines.to_parquet(out, index=False)
    return out.getvalue()


TABLE_FORMATS: dict[str, Callable[[Tables], str | bytes]] = {
    "txt": text,
    "md": markdown,
    "tex": latex,
    "csv": comma_separated,
    "json": as_json,
    "parquet": parquet,
}


def _records(frame: "DataFrame") -> list[dict[str, Any]]:
    """Return rows as plain Python values, with None for undefined ones."""
    plain = frame.astype(object).to_dict("records")
    return [{str(key): None if _undefined(value) else value for key, value in row.items()} for row in plain]


def _undefined(value: Any) -> bool:
    from pandas import NA

    return value is None or value is NA or (isinstance(value, float) and math.isnan(value))


def _title(sheet: Sheet) -> list[str]:
    return [sheet.title] if sheet.title else []


def _aligned(sheet: Sheet) -> str:
    cells = [sheet.header, *sheet.cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *body = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    rule = "-" * max(map(len, [head, *body]))
    methods = len(body) - sheet.controls
    second = [rule] if 0 < methods < len(body) else []
    return "\n".join([*_title(sheet), head, rule, *body[:methods], *second, *body[methods:], *sheet.notes])


def _piped(sheet: Sheet) -> str:
    methods = len(sheet.cells) - sheet.controls
    rows = [[row[0] if i < methods else f"*{row[0]}*", *row[1:]] for i, row in enumerate(sheet.cells)]
    lines = [sheet.header, ["---"] * len(sheet.header), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
    title = [f"**{line}**" for line in _title(sheet)]
    return "\n\n".join([*title, table, *(["\n".join(f"- {note}" for note in sheet.notes)] if sheet.notes else [])])


def _latex_table(sheet: Sheet) -> str:
    """Return a table for booktabs, with a rule before the controls and the notes below."""
    methods = len(sheet.cells) - sheet.controls
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in sheet.cells]
    controls = [
        rf"\textit{{{_escaped(row[0])}}} & " + " & ".join(map(_escaped, row[1:])) + r" \\"
        for row in sheet.cells[methods:]
    ]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\small",
            *(rf"\caption{{{_escaped(line)}}}" for line in _title(sheet)),
            rf"\begin{{tabular}}{{{'l' * len(sheet.header)}}}",
            r"\toprule",
            " & ".join(map(_escaped, sheet.header)) + r" \\",
            r"\midrule",
            *rows[:methods],
            *([r"\midrule"] if methods and controls else []),
            *controls,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par {_escaped(note)}" for note in sheet.notes),
            r"\end{table*}",
        ]
    )


SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "≤": r"$\leq$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "[": "{[}",
    "]": "{]}",
}


def _escaped(words: str) -> str:
    r"""Escape text for LaTeX; a hyphen before a digit becomes a minus, and brackets are wrapped in braces.

    >>> _escaped("A_1 -0.5 & 5%")
    'A\\_1 $-$0.5 \\& 5\\%'
    """
    escaped = "".join(SPECIAL.get(character, character) for character in words)
    return re.sub(r"(?<![\w$])-(?=\d)", "$-$", escaped)
