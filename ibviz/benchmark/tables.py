"""Rows of single images as one line a method: for the terminal, Markdown and CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from ibviz.benchmark.statistics import Estimate, estimate

Row = dict[str, Any]

METRICS = {"srg": "SRG ↑", "deletion": "Deletion ↓", "insertion": "Insertion ↑", "pointing_game": "Pointing ↑"}


class Line(NamedTuple):
    """One method's estimates by metric."""

    method: str
    control: bool
    estimates: dict[str, Estimate]
    tie_fraction: float  # share of cells whose value another cell has too, mean over images


def summarize(rows: Sequence[Row]) -> list[Line]:
    """One line for each method, in order of appearance, controls last."""
    methods = list(dict.fromkeys((row["method"], row["control"]) for row in rows))
    lines = [_line(method, control, rows) for method, control in methods]
    return sorted(lines, key=lambda line: line.control)


def _line(method: str, control: bool, rows: Sequence[Row]) -> Line:
    own = [row for row in rows if row["method"] == method]
    values = {name: [row["value"] for row in own if row["metric"] == name] for name in METRICS}
    ties = [row["tie_fraction"] for row in own]
    return Line(method, control, {name: estimate(v) for name, v in values.items() if v}, sum(ties) / len(ties))


def text(lines: Sequence[Line]) -> str:
    """Aligned columns for a terminal; a rule separates the controls."""
    cells = [_header(lines), *(_cells(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    printed = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    rule = "-" * max(map(len, printed))
    first_control = next((i for i, line in enumerate(lines, 1) if line.control), len(printed))
    return "\n".join([printed[0], rule, *printed[1:first_control], *([rule] if first_control < len(printed) else []),
                      *printed[first_control:]])  # fmt: skip


def markdown(lines: Sequence[Line]) -> str:
    """A pipe table; controls in italics."""
    header = _header(lines)
    rows = [_cells(line) for line in lines]
    named = [[f"*{row[0]}*" if line.control else row[0], *row[1:]] for row, line in zip(rows, lines, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *named])


def comma_separated(lines: Sequence[Line]) -> str:
    """One record for each method and metric, at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "control", "metric", *Estimate._fields])
    for line in lines:
        writer.writerows([line.method, line.control, metric, *one] for metric, one in line.estimates.items())
    return out.getvalue()


def _header(lines: Sequence[Line]) -> list[str]:
    return ["method", *(METRICS[metric] for metric in lines[0].estimates), "tied cells"]


def _cells(line: Line) -> list[str]:
    numbers = [_interval(one) for one in line.estimates.values()]
    return [line.method, *numbers, f"{line.tie_fraction:.0%}"]


def _interval(one: Estimate) -> str:
    mean, low, high = (f"{value:.3f}".replace("-0.000", "0.000") for value in (one.mean, one.low, one.high))
    return f"{mean} [{low}, {high}]"
