"""What a bottleneck does: how often each anchor is used, and by which class; and accuracy against the rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from ibviz.errors import InputError
from ibviz.figures.curves import COLOURS, add_legend, plain
from ibviz.figures.output import Panel, finished
from ibviz.figures.scale import Values, anchor_scale, level_labels, thinned
from ibviz.figures.settings import LEADING, Template, find_template, settings

# Rates `(points,)`, ascending or not, and of each the accuracy with its interval `(points, 3)`: value, low, high.
Tradeoff = tuple[Float[Tensor, " _"], Float[Tensor, "_ 3"]]

HEIGHT = 1.5  # inches of a histogram, on paper
LINE = 0.11  # of a class below it
LARGEST_HEAT = 4.0
SQUARE = 2.4
HEAT = colormaps["Greys"]  # colours are the anchors' own
MARKERS = "osD^v"
DEAD = "#D55E00"


def anchor_usage(
    usage: Num[Tensor, " _"],
    anchors: Float[Tensor, " _"],
    *,
    occupancy: Num[Tensor, "_ _"] | None = None,
    class_names: Sequence[str] = (),
    template: str = "ijcai column",
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw which share of all cells each anchor takes, in its own colour, with a cross where it takes none.

    `usage` counts cells, one number an anchor. Below it, each row of `occupancy` `(classes, anchors)`, cells of a class
    counted alike, is shown as shares of the class's cells. Anchors stand side by side in the order of their values.

    >>> import torch
    >>> anchor_usage(torch.tensor([3, 0, 1]), torch.tensor([0.1, 0.5, 0.9])).account["dead"]
    [1]
    """
    counts, table = _counts(usage, "usage"), anchors.detach().cpu().double().numpy()
    if len(counts) != len(table) or not np.isfinite(table).all():
        raise InputError(f"usage counts {len(counts)} anchors, but {len(table)} are given, all to be finite")
    rows = None if occupancy is None else _counts(occupancy, "occupancy")
    if rows is not None and (rows.shape[1] != len(counts) or len(class_names) not in (0, len(rows))):
        raise InputError(
            f"occupancy needs a row for each of {len(class_names)} class names and {len(counts)} columns; "
            f"got {rows.shape}"
        )
    order, page = np.argsort(table, kind="stable"), find_template(template)
    names = list(class_names) or [str(number) for number in range(0 if rows is None else len(rows))]
    with settings(page, names):
        figure = _draw_usage(counts[order], table[order], None if rows is None else rows[:, order], names, page)
    dead = np.flatnonzero(counts == 0).tolist()
    facts = {"dead": dead, "used": len(counts) - len(dead), "cells": float(counts.sum())}
    beside = {"occupancy": occupancy, "class_names": list(class_names), "template": template}
    return finished("anchor_usage", figure, facts, {"usage": usage, "anchors": anchors, **beside}, record)


def _counts(given: Tensor, name: str) -> Values:
    counts = given.detach().cpu().double().numpy()
    if not counts.size or not (np.isfinite(counts) & (counts >= 0)).all():
        raise InputError(
            f"{name} counts cells, zero or more for each anchor; got {counts.shape} from {counts.min():g}"
            if counts.size
            else f"{name} is empty; it needs a number for each anchor"
        )
    return counts


def _draw_usage(counts: Values, anchors: Values, rows: Values | None, names: list[str], page: Template) -> Figure:
    heights = [HEIGHT] if rows is None else [HEIGHT, min(LARGEST_HEAT, max(0.4, LINE * len(rows)))]
    figure = Figure(figsize=(page.width, (sum(heights) + 0.45) * page.unit), layout="constrained")
    places = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False, sharex=True)[:, 0]
    _draw_histogram(places[0], counts, anchors, page)
    if rows is not None:
        _draw_heat(places[1], rows, names, page)
    labels, room = level_labels(anchors), int(page.width / (0.32 * page.unit))
    places[-1].set_xticks(range(len(anchors)), thinned(labels, room))
    places[-1].set_xlabel("anchor value")
    places[-1].set_xlim(-0.5, len(anchors) - 0.5)
    return figure


def _draw_histogram(axes: Axes, counts: Values, anchors: Values, page: Template) -> None:
    scale, places, dead = anchor_scale(anchors), np.arange(len(counts)), counts == 0
    shades = scale.colours(scale.norm(anchors))
    axes.bar(places, 100 * counts / max(counts.sum(), 1), width=0.86, color=shades, linewidth=0)
    axes.set_ylabel("share of cells (%)")
    axes.set_ylim(bottom=0)
    plain(axes, page.unit)
    axes.tick_params(axis="x", length=0)
    if dead.any():
        style: dict[str, Any] = {"color": DEAD, "markersize": 0.5 * page.text, "markeredgewidth": 0.1 * page.text}
        axes.plot(places[dead], np.full(dead.sum(), 0.04), "x", transform=axes.get_xaxis_transform(), **style)
        axes.set_title(
            f"\u00d7 {dead.sum()} of {len(dead)} never used", color=DEAD, loc="right", fontsize=page.small, pad=2
        )


def _draw_heat(axes: Axes, rows: Values, names: list[str], page: Template) -> None:
    shares = 100 * rows / np.maximum(rows.sum(1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap=HEAT, vmin=0, aspect="auto", interpolation="nearest")
    high = min(LARGEST_HEAT, LINE * len(rows)) * 72
    axes.set_yticks(
        range(len(names)), thinned(tuple(names), max(2, int(high / (0.75 * page.text * LEADING / page.unit))))
    )
    axes.set_ylabel("class")
    axes.tick_params(length=0)
    axes.spines[:].set_linewidth(0.4 * page.unit)
    assert isinstance(axes.figure, Figure)
    bar = axes.figure.colorbar(shown, ax=axes, aspect=12, pad=0.02)
    bar.outline.set_linewidth(0.4 * page.unit)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=1.5 * page.unit, width=0.4 * page.unit)
    bar.set_label("of the class (%)", fontsize=page.small)


def rate_accuracy(
    points: Mapping[str, Tradeoff],
    *,
    rate: str = "rate (bits per image)",
    accuracy: str = "accuracy",
    template: str = "ijcai column",
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw accuracy, with its interval, against rate: a line through the points of each network, in order of rate.

    The axis of rates is logarithmic where they span a factor of 20 and more.

    >>> import torch
    >>> one = torch.tensor([8.0, 64.0]), torch.tensor([[0.5, 0.4, 0.6], [0.8, 0.7, 0.9]])
    >>> rate_accuracy({"VGG": one}).account["points"]
    {'VGG': 2}
    """
    if not points:
        raise InputError("no points; a rate-accuracy figure needs those of at least one network")
    arrays, page = {name: _tradeoff(name, *given) for name, given in points.items()}, find_template(template)
    with settings(page, [*points, rate, accuracy]):
        figure = Figure(figsize=(page.width, SQUARE * page.unit), layout="constrained")
        axes = figure.subplots()
        lines = {
            name: _draw_tradeoff(axes, number, *one, page.unit) for number, (name, one) in enumerate(arrays.items())
        }
        axes.set(xlabel=rate, ylabel=accuracy)
        rates = np.concatenate([one[0] for one in arrays.values()])
        if rates.min() > 0 and rates.max() >= 20 * rates.min():
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the default would be in mathematical type
            axes.xaxis.set_minor_formatter(NullFormatter())
        plain(axes, page.unit)
        if len(lines) > 1:
            add_legend(figure, lines, page)
    facts = {"points": {name: len(one[0]) for name, one in arrays.items()}}
    arguments = {"points": points, "rate": rate, "accuracy": accuracy, "template": template}
    return finished("rate_accuracy", figure, facts, arguments, record)


def _tradeoff(name: str, rates: Tensor, accuracies: Tensor) -> tuple[Values, Values]:
    """Rates and accuracies in order of rate, checked."""
    x, y = (part.detach().cpu().double().numpy() for part in (rates, accuracies))
    if y.shape != (len(x), 3) or not len(x):
        raise InputError(
            f"{name!r} needs a rate and three accuracies (value, low, high) for each point; got {x.shape} and {y.shape}"
        )
    if not (
        np.isfinite(x).all() and np.isfinite(y).all() and (y[:, 1] <= y[:, 0]).all() and (y[:, 0] <= y[:, 2]).all()
    ):
        raise InputError(f"{name!r} needs finite rates, and accuracies as value, low, high with low <= value <= high")
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def _draw_tradeoff(axes: Axes, number: int, rates: Values, accuracies: Values, unit: float) -> Artist:
    value, low, high = accuracies.T
    marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
    axes.errorbar(rates, value, [value - low, high - value], fmt="none", ecolor=colour, elinewidth=0.8 * unit)
    style: dict[str, Any] = {"marker": marker, "markersize": 3.5 * unit, "linewidth": 0.9 * unit, "color": colour}
    return axes.plot(rates, value, markeredgecolor="white", markeredgewidth=0.4 * unit, **style)[0]
