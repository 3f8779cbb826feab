"""Tables of a comparison in six formats, as files and for the terminal, with the same content in each."""

import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ibviz.benchmark.summary import Summary, summarise
from ibviz.benchmark.table_text import table_sections
from ibviz.files import replacing
from ibviz.metrics.metric import MetricFacts
from ibviz.table_formats import TextTable, csv_rows, latex_of, latex_text, markdown_of, text_of

if TYPE_CHECKING:
    from pandas import DataFrame


NEEDS = "% needs \\usepackage{booktabs}"


class Tables(NamedTuple):
    """A summary, and the circumstances of its rows as `circumstances.json` has them."""

    summary: Summary
    circumstances: Mapping[str, Any]

    @property
    def page(self) -> list[TextTable | str]:
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
    return "\n\n".join(part if isinstance(part, str) else text_of(part) for part in tables.page) + "\n"


def markdown(tables: Tables) -> str:
    """Return pipe tables, with controls in italics."""
    return "\n\n".join(part if isinstance(part, str) else markdown_of(part) for part in tables.page) + "\n"


def latex(tables: Tables) -> str:
    """Return one `table*` per table, which needs `\\usepackage{booktabs}`, and the legend as paragraphs.

    No table is wider than the narrowest page of `figures.settings.TEMPLATES`; verdicts are marks.
    """
    page = table_sections(tables.summary, tables.circumstances, marks=True)
    parts = [latex_text(part) if isinstance(part, str) else latex_of(part) for part in page]
    return "\n\n".join([NEEDS, *parts]) + "\n"


def comma_separated(tables: Tables) -> str:
    """Return one record per line of the summary, at full precision; undefined values are empty."""
    records = _records(tables.summary.lines)
    return csv_rows(tables.summary.lines.columns, (record.values() for record in records))


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
