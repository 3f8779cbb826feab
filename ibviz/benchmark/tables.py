"""Rows of single images as one line a method: for the terminal, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ibviz.metrics.protocol import Card, CurveProtocol
from ibviz.statistics import Estimate, estimate

Row = dict[str, Any]

METRICS = {"srg": "SRG ↑", "deletion": "Deletion ↓", "insertion": "Insertion ↑", "pointing_game": "Pointing ↑"}


class Line(NamedTuple):
    """One method's estimates by metric, and what says how far to trust them."""

    method: str
    control: bool
    estimates: dict[str, Estimate]
    pointing_macro: float | None  # mean over true classes of their mean hit; None without objects or labels
    tie_sd: float  # of SRG between single tie orders, mean over images
    tie_fraction: float  # share of cells whose value another cell has too, mean over images


def summarize(rows: Sequence[Row]) -> list[Line]:
    """One line for each method, in order of appearance, controls last."""
    methods = list(dict.fromkeys((row["method"], row["control"]) for row in rows))
    lines = [_line(method, control, rows) for method, control in methods]
    return sorted(lines, key=lambda line: line.control)


def _line(method: str, control: bool, rows: Sequence[Row]) -> Line:
    own = [row for row in rows if row["method"] == method]
    by_metric = {name: [row for row in own if row["metric"] == name] for name in METRICS}
    estimates = {name: estimate([row["value"] for row in some]) for name, some in by_metric.items() if some}
    tie_sd, ties = (fmean(row[key] for row in by_metric["srg"]) for key in ("tie_sd", "tie_fraction"))
    return Line(method, control, estimates, macro_mean(by_metric["pointing_game"]), tie_sd, ties)


def macro_mean(rows: Sequence[Row]) -> float | None:
    """Mean over true classes of the mean value of each; None where no row has a class and a value.

    >>> macro_mean([{"label": 0, "value": 1.0}, {"label": 0, "value": 1.0}, {"label": 1, "value": 0.0}])
    0.5
    """
    classes: dict[int, list[float]] = {}
    for row in rows:
        if row["label"] is not None and not math.isnan(row["value"]):
            classes.setdefault(row["label"], []).append(row["value"])
    return fmean(map(fmean, classes.values())) if classes else None


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


def legend(rows: Sequence[Row], card: Card) -> str:
    """What the numbers of a comparison rest on, in words."""
    protocol = card.protocol
    first = [row for row in rows if (row["method"], row["metric"], row["native"]) == (rows[0]["method"], "srg", False)]
    at_baseline, by_chance = (fmean(row[key] for row in first) for key in ("f_baseline", "random_order"))
    lines = [
        f"n = {len(first)} images; 95 % bootstrap intervals. SRG = insertion - deletion; a random order has 0.",
        f"{_replacement(protocol)}, {_ties(protocol)};",
        f"{_judged(protocol)}, {at_baseline:.3f} on the baseline alone; area of a random order {by_chance:.3f}.",
        f"Protocol {card.hash}.",
    ]
    pointing = [row["value"] for row in rows if row["metric"] == "pointing_game" and row["method"] == rows[0]["method"]]
    if pointing:
        excluded = sum(math.isnan(value) for value in pointing)
        lines.append(
            "Pointing game: expected hit over tied maxima, at most 15/224 of the side from the object;\n"
            f"{excluded} images without an object excluded; 'uniform' is the chance rate; macro: mean over classes.",
        )
    return "\n".join(lines)


def _replacement(protocol: CurveProtocol) -> str:
    colour = ", ".join(f"{part:.2f}" for part in protocol.colour)
    names = [f"RGB ({colour})" if name == "mean_colour" else name.replace("_", " ") for name in protocol.baselines]
    unit = "Cells" if protocol.unit == "cell" else "Pixels of maps"
    assert protocol.grid is not None
    grid = f"{unit} of {protocol.grid[0]} x {protocol.grid[1]}"
    return f"{grid} replaced by {names[0]}" + ("" if names[0] == names[1] else f" (insertion: {names[1]})")


def _ties(protocol: CurveProtocol) -> str:
    return {
        "expected": f"mean of {protocol.orders} tie orders (tie sd: their spread in SRG)",
        "group": "level by level",
        "index": "ties row by row",
        "reverse": "ties row by row backwards",
    }[protocol.ties]


def _judged(protocol: CurveProtocol) -> str:
    target = {
        "contrast": "the predicted class less that of the runner-up",
        "runner_up": "the runner-up class",
    }.get(protocol.target, f"the {protocol.target} class")
    return f"{protocol.score.replace('_', ' ')} of {target}"


def _header(lines: Sequence[Line]) -> list[str]:
    macro = [] if lines[0].pointing_macro is None else ["macro"]
    return ["method", *(METRICS[metric] for metric in lines[0].estimates), *macro, "tie sd", "tied cells"]


def _cells(line: Line) -> list[str]:
    numbers = [_interval(one) for one in line.estimates.values()]
    macro = [] if line.pointing_macro is None else [f"{line.pointing_macro:.3f}"]
    return [line.method, *numbers, *macro, f"{line.tie_sd:.3f}", f"{line.tie_fraction:.0%}"]


def _interval(one: Estimate) -> str:
    mean, low, high = (f"{value:.3f}".replace("-0.000", "0.000") for value in (one.mean, one.low, one.high))
    return f"{mean} [{low}, {high}]"
