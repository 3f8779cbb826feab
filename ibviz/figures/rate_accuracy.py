"""Accuracy against the rate of a bottleneck, one line per network."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from ibviz.errors import InputError
from ibviz.figures.curves import COLOURS, add_legend, plain
from ibviz.figures.scale import FloatArray
from ibviz.figures.settings import Page, find_template, settings
from ibviz.figures.sidecar import Panel, build_panel

# Rates `(points,)` in any order, and the accuracy at each with its interval `(points, 3)`: value, low, high.
Tradeoff = tuple[Float[Tensor, " _"], Float[Tensor, "_ 3"]]

_SQUARE = 2.4  # inches, on paper
_MARKERS = "osD^v"


def rate_accuracy(
    points: Mapping[str, Tradeoff],
    *,
    rate: str = "rate (bits per image)",
    accuracy: str = "accuracy",
    template: Page = "ijcai column",
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw accuracy with its interval against rate, with a line through the points of each network in order of rate.

    The axis of rates is logarithmic if they span a factor of at least 20.

    Args:
        points: Rates `(points,)` and accuracies `(points, 3)` as value, low, high, by network.
        rate: Label of the horizontal axis.
        accuracy: Label of the vertical axis.
        template: Page that the figure is drawn for, a name of `settings.TEMPLATES` or a `Template`.
        record: Facts to repeat in the sidecar.

    Raises:
        InputError: If there are no points, a value is not finite, or an accuracy lies outside its interval.

    >>> import torch
    >>> points = torch.tensor([8.0, 64.0]), torch.tensor([[0.5, 0.4, 0.6], [0.8, 0.7, 0.9]])
    >>> rate_accuracy({"VGG": points}).account["points"]
    {'VGG': 2}
    """
    if not points:
        raise InputError("no points; a rate-accuracy figure needs those of at least one network")
    arrays, page = {name: _tradeoff(name, *given) for name, given in points.items()}, find_template(template)
    with settings(page, [*points, rate, accuracy]):
        figure = Figure(figsize=(page.width, _SQUARE * page.unit), layout="constrained")
        axes = figure.subplots()
        lines = {
            name: _draw_tradeoff(axes, number, *tradeoff, page.unit)
            for number, (name, tradeoff) in enumerate(arrays.items())
        }
        axes.set(xlabel=rate, ylabel=accuracy)
        rates = np.concatenate([rates for rates, _ in arrays.values()])
        if rates.min() > 0 and rates.max() >= 20 * rates.min():
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the default is set as mathematics
            axes.xaxis.set_minor_formatter(NullFormatter())
        plain(axes, page.unit)
        if len(lines) > 1:
            add_legend(figure, lines, page)
    facts = {"points": {name: len(rates) for name, (rates, _) in arrays.items()}}
    arguments = {"points": points, "rate": rate, "accuracy": accuracy, "template": template}
    return build_panel("rate_accuracy", figure, facts, arguments, record)


def _tradeoff(name: str, rates: Tensor, accuracies: Tensor) -> tuple[FloatArray, FloatArray]:
    """Check rates and accuracies and sort them by rate."""
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


def _draw_tradeoff(axes: Axes, number: int, rates: FloatArray, accuracies: FloatArray, unit: float) -> Artist:
    value, low, high = accuracies.T
    marker, colour = _MARKERS[number % len(_MARKERS)], COLOURS[number % len(COLOURS)]
    axes.errorbar(rates, value, [value - low, high - value], fmt="none", ecolor=colour, elinewidth=0.8 * unit)
    style: dict[str, Any] = {"marker": marker, "markersize": 3.5 * unit, "linewidth": 0.9 * unit, "color": colour}
    return axes.plot(rates, value, markeredgecolor="white", markeredgewidth=0.4 * unit, **style)[0]
