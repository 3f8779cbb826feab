"""The figure and the tables of `evaluation/results/passes`, from the record that `passes` writes."""

import math
from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ibviz.figures.curves import COLOURS
from ibviz.figures.settings import DEFAULT_TEMPLATE, TEMPLATES, settings
from ibviz.figures.sidecar import Panel, account

PUBLISHED = 4000  # masks of RISE on ImageNet, as published
AT_MOST = 200
MARKERS = {"plain": "o", "paired": "s"}


class Runs(NamedTuple):
    """The mean squared error over seeds of one method on one photograph and network, by sampling and passes."""

    photograph: str
    network: str
    method: str
    squared: dict[tuple[str, int], float]

    def error(self, sampling: str, passes: int) -> float:
        """Relative error; 0 if the mean of squares is below 0, as it can be by chance."""
        return math.sqrt(max(0.0, self.squared[sampling, passes]))

    def gain(self, passes: int) -> float:
        """Plain passes per paired pass at the same error: the squared error of plain draws is a constant over their
        number, which all plain runs estimate together."""
        constants = [count * value for (sampling, count), value in self.squared.items() if sampling == "plain"]
        own = passes * self.squared["paired", passes]
        return mean(constants) / own if own > 0 else math.inf


def runs_of(record: dict[str, Any]) -> list[Runs]:
    """Return what was run, each job with its mean squared errors."""
    found = []
    for job in record["jobs"].values():
        values: dict[tuple[str, int], list[float]] = {}
        for row in job["rows"]:
            values.setdefault((row["sampling"], row["passes"]), []).append(row["squared"])
        squared = {key: mean(some) for key, some in values.items()}
        found.append(Runs(job["photograph"], job["network"], job["rows"][0]["method"], squared))
    return found


def draw(record: dict[str, Any]) -> Panel:
    """Draw the median relative error of RISE against passes, with the middle half, and the gain of every method."""
    runs = runs_of(record)
    rise = [run for run in runs if run.method == "RISE"]
    with settings():
        figure = Figure(figsize=(TEMPLATES[DEFAULT_TEMPLATE].width, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for number, sampling in enumerate(MARKERS):
            _draw_errors(left, rise, sampling, COLOURS[number])
        left.set(xscale="log", yscale="log", xlabel="passes", ylabel="error relative to the map's size", title="RISE")
        _tick(left.xaxis, (32, 128, 512, 2048))
        _tick(left.yaxis, (0.1, 0.2, 0.5, 1, 2))
        left.legend(frameon=False)
        _draw_gains(right, runs)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
    return Panel(figure, account("passes", {}, {name: record[name] for name in ("command", "versions", "device")}))


def _draw_errors(axes: Axes, runs: Sequence[Runs], sampling: str, colour: str) -> None:
    counts = sorted({passes for run in runs for own, passes in run.squared if own == sampling})
    errors = [sorted(run.error(sampling, passes) for run in runs) for passes in counts]
    quarters = [[some[round(share * (len(some) - 1))] for some in errors] for share in (0.25, 0.5, 0.75)]
    axes.fill_between(counts, quarters[0], quarters[2], color=colour, alpha=0.15, linewidth=0)
    axes.plot(counts, [median(some) for some in errors], MARKERS[sampling] + "-", color=colour, label=sampling, ms=3)


def _draw_gains(axes: Axes, runs: Sequence[Runs]) -> None:
    """Draw the gain of each photograph and network at the largest paired number, one row per method."""
    methods = list(dict.fromkeys(run.method for run in runs))
    for row, method in enumerate(methods):
        gains = [run.gain(largest(run)) for run in runs if run.method == method]
        axes.plot(gains, [row] * len(gains), "o", color=COLOURS[0], alpha=0.4, ms=3)
        axes.plot([median(gains)], [row], "|", color="black", ms=9)
    axes.axvline(1, color="grey", linewidth=0.5)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="plain passes per paired pass\nat the same error")
    _tick(axes.xaxis, (0.5, 1, 2, 5, 10, 100, 1000))


def _tick(axis: Axis, values: Sequence[float]) -> None:
    """Label these values of a logarithmic axis with plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_ticks([value for value in values if low <= value <= high])
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def largest(run: Runs) -> int:
    """Return the largest number of paired passes of a run."""
    return max(passes for sampling, passes in run.squared if sampling == "paired")


def tables(record: dict[str, Any]) -> list[str]:
    """Return the tables of the README."""
    runs = runs_of(record)
    rise = [run for run in runs if run.method == "RISE"]
    networks = list(dict.fromkeys(run.network for run in runs))
    return [
        _table(["RISE, passes", *(f"{sampling}, {name}" for name in networks for sampling in MARKERS)], _rise(rise)),
        _table(
            [
                "method",
                "network",
                "n",
                "draws",
                "error, plain",
                "error, paired, half",
                "error, paired",
                "gain [least, most]",
            ],
            _others([run for run in runs if run.method != "RISE"]),
        ),
        _table(
            ["photograph", "network", "published 4,000 masks", "paired 200", "paired masks for the same"], _race(rise)
        ),
    ]


def _rise(runs: Sequence[Runs]) -> list[list[str]]:
    """Return the median error over photographs at each number of passes."""
    networks = list(dict.fromkeys(run.network for run in runs))
    rows = []
    for passes in sorted({passes for run in runs for _, passes in run.squared}):
        cells = [
            [run.error(sampling, passes) for run in runs if run.network == name and (sampling, passes) in run.squared]
            for name in networks
            for sampling in MARKERS
        ]
        rows.append([str(passes), *(f"{median(errors):.2f}" if errors else "-" for errors in cells)])
    return rows


def _others(runs: Sequence[Runs]) -> list[list[str]]:
    rows = []
    for method, network in dict.fromkeys((run.method, run.network) for run in runs):
        own = [run for run in runs if (run.method, run.network) == (method, network)]
        half, most = sorted(passes for sampling, passes in own[0].squared if sampling == "paired")
        errors = [
            median(run.error(*key) for run in own) for key in (("plain", most), ("paired", half), ("paired", most))
        ]
        rows.append(
            [method, network, str(len(own)), str(most), *(f"{error:.2f}" for error in errors), _gains(own, most)]
        )
    return rows


def _gains(runs: Iterable[Runs], passes: int) -> str:
    gains = sorted(run.gain(passes) for run in runs)
    return f"{median(gains):.2g} [{gains[0]:.2g}, {gains[-1]:.2g}]"


def _race(runs: Sequence[Runs]) -> list[list[str]]:
    """Return, per photograph and network, the error of 4,000 plain masks and how many paired ones it takes.

    The plain error follows from all plain runs, as its square is inversely proportional to their number; so does the
    number of paired masks, from the largest number that was run.
    """
    rows = []
    for run in runs:
        most = largest(run)
        error = math.sqrt(max(0.0, most * run.squared["paired", most] * run.gain(most) / PUBLISHED))
        rows.append(
            [
                run.photograph,
                run.network,
                f"{error:.2f}",
                f"{run.error('paired', AT_MOST):.2f}",
                f"{PUBLISHED / run.gain(most):,.0f}",
            ]
        )
    return rows


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
