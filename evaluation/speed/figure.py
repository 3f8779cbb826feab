"""One figure of all rows: ratios, error against time, growth."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from evaluation.speed.growth.catalogue import GROWTH
from evaluation.speed.records import Row
from evaluation.speed.table import exponents
from ibviz.files import replacing

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, FAINT = "#1a1a1a", "#8a8a8a"
RIVALS = {  # a word in the names of contestants, and its colour
    "TorchCAM": COLOURS[1],
    "grad-cam": COLOURS[2],
    "Captum": COLOURS[0],
    "Quantus": COLOURS[3],
    "TorchRay": COLOURS[4],
    "published": COLOURS[5],
}
GROUPS = ("samplers", "growth")  # that have panels of their own
STYLE: dict[Any, Any] = {"font.size": 7, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 8}


def draw(rows: Sequence[Row], order: Sequence[str], path: Path) -> None:
    """Draw the figure and save it as PNG; a part without rows is left out."""
    places = {name: place for place, name in enumerate(order)}
    ordered = sorted(rows, key=lambda row: places.get(row.case, len(places)))
    ratios = [row for row in ordered if row.ratio and row.case.partition("/")[0] not in GROUPS]
    samplers, growth = (_by_case(ordered, group) for group in GROUPS)
    growth = {case: members for case, members in growth.items() if case in GROWTH}
    cases = list(dict.fromkeys(row.case for row in ratios))
    with matplotlib.rc_context(STYLE):
        height = max(0.13 * len(cases) + 1, 3.2 * bool(samplers) + 2.2 * (-(-len(growth) // 4)), 2)
        figure = Figure((11, height), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.3))
        left, right = halves
        if cases:
            _draw_ratios(left.subplots(), ratios, cases)
        _draw_panels(right, samplers, growth)
        with replacing(path) as beside:
            figure.savefig(beside, dpi=150, format="png")


def _by_case(rows: Sequence[Row], group: str) -> dict[str, list[Row]]:
    """Return the rows with a size, by the name of their case in the group."""
    known: dict[str, list[Row]] = {}
    for row in rows:
        if row.case.startswith(f"{group}/") and row.size is not None:
            known.setdefault(row.case.partition("/")[2], []).append(row)
    return known


def _draw_ratios(axes: Axes, rows: Sequence[Row], cases: Sequence[str]) -> None:
    """A line per case, with a mark per contestant and the range of its rounds."""
    axes.axvline(1, color=FAINT, linewidth=0.8)
    shown = [row for row in rows if not (row.role == "limit" and row.case.startswith(("attribution", "information")))]
    for row in shown:
        height, limit = cases.index(row.case), row.role == "limit"
        colour = INK if limit else colour_of(row.contestant)
        axes.plot([min(row.ratio), max(row.ratio)], [height] * 2, color=colour, linewidth=0.7, alpha=0.6)
        axes.plot(median(row.ratio), height, "|" if limit else "o", color=colour, markersize=7 if limit else 3.5)
    for name, colour in {**RIVALS, "other": FAINT}.items():
        axes.plot([], [], "o", color=colour, markersize=3.5, label=name)
    axes.plot([], [], "|", color=INK, markersize=7, label="limit")
    axes.legend(frameon=False, fontsize=6, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, borderaxespad=4)
    axes.set(
        xscale="log",
        yticks=range(len(cases)),
        yticklabels=cases,
        ylim=(len(cases) - 0.5, -0.5),
        xlabel="time over ours",
    )
    axes.tick_params(axis="y", labelsize=5.5, length=0)
    ticks = [0.5, 1, 2, 5, 10, 20]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title("Rivals (dots) and limits (bars): right of the line, ours is faster", loc="left")


def colour_of(contestant: str) -> str:
    return next((colour for word, colour in RIVALS.items() if word in contestant), FAINT)


def _draw_panels(figure: Any, samplers: dict[str, list[Row]], growth: dict[str, list[Row]]) -> None:
    """Error against time, two panels a row; below, growth, four panels a row."""
    above, below = -(-len(samplers) // 2), -(-len(growth) // 4)
    if not above + below:
        return
    grid = figure.add_gridspec(above + below, 4, height_ratios=[1.4] * above + [1] * below)
    for place, (name, rows) in enumerate(samplers.items()):
        row, column = divmod(place, 2)
        _draw_errors(figure.add_subplot(grid[row, 2 * column : 2 * column + 2]), name, rows)
    for place, (name, rows) in enumerate(growth.items()):
        row, column = divmod(place, 4)
        _draw_growth(figure.add_subplot(grid[above + row, column]), name, rows)


def _draw_errors(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    for place, contestant in enumerate(dict.fromkeys(row.contestant for row in rows)):
        points = [row for row in rows if row.contestant == contestant]
        colour = COLOURS[place % len(COLOURS)]
        times, errors = [row.middle for row in points], [row.error or float("nan") for row in points]
        axes.plot(
            times, errors, "o-", color=colour, markersize=3, linewidth=1.6 if place == 0 else 0.9, label=contestant
        )
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="error")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{name}: error against time", loc="left")
    axes.legend(frameon=False, fontsize=6)


def _draw_growth(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    time, memory = exponents(name, rows)
    sizes = [row.size or 0.0 for row in rows]
    axes.plot(sizes, [row.least for row in rows], "o-", color=COLOURS[0], markersize=3)
    axes.set(xscale="log", yscale="log", xlabel=name)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    told = (f"{fit.value:.2f}" if fit else "-" for fit in (time, memory))
    axes.set_title("time {}\ndashed: MiB {}".format(*told), loc="left", fontsize=5.5)
    other = axes.twinx()
    other.plot(
        sizes, [row.memory or float("nan") for row in rows], "s--", color=COLOURS[1], markersize=2.5, linewidth=0.8
    )
    other.set_ylim(bottom=0)
    other.tick_params(axis="y", labelsize=5, colors=COLOURS[1])
