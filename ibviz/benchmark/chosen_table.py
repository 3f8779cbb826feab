"""Tables of some metrics and rows of a result; ranks and tests stay those of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ibviz.benchmark.ranking import Frame
from ibviz.benchmark.summary import ALL_IMAGES
from ibviz.benchmark.table_notes import COMPARED, sample_size
from ibviz.benchmark.table_text import main_sheets
from ibviz.benchmark.tables import NEEDS, TABLE_FORMATS, Tables
from ibviz.errors import InputError, unknown
from ibviz.pages import COLUMN, page_size
from ibviz.table_formats import TextTable, latex_of, markdown_of, text_of

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

PAGE = "cvpr"  # on which a table in LaTeX stands if no other is named
GREY, BOLD = "color: #666666", "font-weight: bold"


def chosen(tables: Tables, metrics: Sequence[str] = (), rows: Sequence[str] = ()) -> Tables:
    """Return tables of some metrics and methods in the given order, on all images and the common grid.

    Args:
        tables: The tables of a result.
        metrics: Names of metrics, or their beginnings; by default all.
        rows: Names or labels of methods and controls; by default all.

    Raises:
        InputError: A metric or a row is unknown, or no row is left.
    """
    lines: Frame = tables.summary.lines
    lines = lines[(lines["stratum"] == ALL_IMAGES) & ~lines["native"].astype(bool)]
    compared = lines.groupby(["protocol", "model", "metric"])["mean"].transform("count")
    lines = lines.assign(**{COMPARED: compared})
    measured, judged = list(lines["metric"].unique()), list(lines["method"].unique())
    wanted = [_metric(name, measured) for name in metrics] or measured
    labels = _labels(tables.circumstances, judged)
    for name in rows:
        if name not in labels:
            raise unknown("row", name, list(labels))
    kept = [labels[name] for name in rows] or judged
    lines = lines[lines["metric"].isin(wanted) & lines["method"].isin(kept)]
    if lines.empty:
        raise InputError(f"no row is left: none of {', '.join(kept)} was judged by {', '.join(wanted)}")
    order = lines["metric"].map(wanted.index) * len(kept) + lines["method"].map(kept.index)
    lines = lines.assign(order=order).sort_values("order", kind="stable").drop(columns="order")
    return tables._replace(summary=replace(tables.summary, lines=lines.reset_index(drop=True)))


def _metric(name: str, measured: Sequence[str]) -> str:
    """Return the metric with this name, or the only one that begins so."""
    alike = [name] if name in measured else [metric for metric in measured if metric.startswith(name)]
    if len(alike) != 1:
        raise unknown("metric", name, list(measured))
    return alike[0]


def _labels(circumstances: Mapping[str, Any], judged: Sequence[str]) -> dict[str, str]:
    """Return the label of each method in the rows, by label and by name."""
    names = {facts.get("method"): label for label, facts in circumstances.get("methods", {}).items() if label in judged}
    return {label: label for label in judged} | {name: label for name, label in names.items() if name}


def render_chosen(tables: Tables, form: str, *, template: str = PAGE) -> str:
    """Return chosen tables as text.

    Args:
        tables: Tables of `chosen`.
        form: "txt", "md", "tex", "csv" or "json".
        template: For "tex": name of the page or column, of `ibviz.pages.PAGE_SIZES`, that the table has to fit.
    """
    if form not in FORMS:
        raise unknown("format", form, list(FORMS))
    if form in ("csv", "json"):
        summary = replace(tables.summary, lines=tables.summary.lines.drop(columns=COMPARED))
        return str(TABLE_FORMATS[form](tables._replace(summary=summary)))
    parts = [part for _, part in tables.summary.lines.groupby(["protocol", "model"], sort=False)]
    bare = main_sheets(tables.summary, {}, marks=form == "tex", ties=False)
    sheets = [_with_sample(sheet, part, tables.summary.lines) for sheet, part in zip(bare, parts, strict=True)]
    if form == "tex":
        (width, _), column = page_size(template), template.endswith(COLUMN)
        return "\n\n".join([NEEDS, *(latex_of(sheet, width=width, column=column) for sheet in sheets)]) + "\n"
    render: Callable[[TextTable], str] = text_of if form == "txt" else markdown_of
    return "\n\n".join(map(render, sheets)) + "\n"


FORMS = ("txt", "md", "tex", "csv", "json")


def _with_sample(sheet: TextTable, lines: Frame, of_all: Frame) -> TextTable:
    """Add the sample size, the meaning of ranks, and the protocols, which for a mean of trainings are those of all."""
    hashes = [own["hash"].dropna().unique() for own in (lines, of_all)]
    ranks = " Ranks in parentheses are among all lines of the result." if lines["rank"].notna().any() else ""
    note = f"{sample_size(lines)}{ranks} Protocol {', '.join(hashes[0] if len(hashes[0]) else hashes[1])}."
    return sheet._replace(notes=[note, *(own for own in sheet.notes if own != sample_size(lines))])


def styled(tables: Tables) -> "Styler":
    """Return the first table for a notebook: best estimates in bold, controls in grey."""
    from pandas import DataFrame

    sheet, lines = main_sheets(tables.summary, {}, marks=True, ties=False)[0], tables.summary.lines
    frame = DataFrame(sheet.cells, columns=sheet.header).set_index(sheet.header[0])
    first = lines[(lines["model"] == lines["model"].iloc[0]) & (lines["protocol"] == lines["protocol"].iloc[0])]
    leading = first[(first["rank"] == 1) & (first["stratum"] == ALL_IMAGES) & ~first["native"].astype(bool)]
    headings = [tables.summary.metrics[metric].heading for metric in leading["metric"]]
    best = set(zip(leading["method"], headings, strict=True))
    controls = set(first["method"][first["control"].astype(bool)])

    def style(column: Any) -> list[str]:
        return ["; ".join([GREY] * (row in controls) + [BOLD] * ((row, column.name) in best)) for row in column.index]

    return frame.style.apply(style).set_caption(" ".join(sheet.notes))
