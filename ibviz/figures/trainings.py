"""Several trainings of a recipe: each training as a point, beside the spread over all of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ibviz.errors import InputError
from ibviz.figures.curves import COLOURS, GREYS, add_legend, plain
from ibviz.figures.scale import FloatArray
from ibviz.figures.settings import Page, Template, find_template, settings
from ibviz.figures.sidecar import Panel, build_panel

Interval = Float[Tensor, " 3"]  # mean, low and high
_PITCH = 3.2  # distance of methods over the text size
_AROUND = 0.55  # inches for the axis and its label
_SPREAD = 0.5  # share of a row that the trainings take


def trainings(  # noqa: PLR0913 - what is drawn, its texts and its page
    single: Mapping[str, Float[Tensor, "_ 3"]],
    overall: Mapping[str, Interval],
    *,
    controls: Mapping[str, Interval] | None = None,
    axis: str = "",
    title: str = "",
    template: Page = "ijcai column",
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw each training as a point with its interval over images, and the mean with its interval over trainings.

    Args:
        single: Mean, low and high of each training `(trainings, 3)`, by method; the intervals are those over images.
        overall: Mean, low and high over trainings and images, by method.
        controls: Mean, low and high of each control, drawn as bands.
        axis: Label of the axis.
        title: Text above the figure.
        template: Page that the figure is drawn for, a name of `settings.TEMPLATES` or a `Template`.
        record: Facts to repeat in the sidecar.

    Raises:
        InputError: No method is given, a method lacks its mean, or a mean is not finite.

    >>> import torch
    >>> one = torch.tensor([[0.4, 0.3, 0.5], [0.5, 0.4, 0.6]])
    >>> trainings({"attention": one}, {"attention": torch.tensor([0.45, 0.2, 0.7])}).account["trainings"]
    {'attention': 2}
    """
    if not single or set(single) != set(overall):
        raise InputError(f"each method needs its trainings and their mean; got {list(single)} and {list(overall)}")
    arrays = {name: _array(name, given) for name, given in single.items()}
    means = {name: _array(name, overall[name][None])[0] for name in single}
    bands = {name: _array(name, given[None])[0] for name, given in (controls or {}).items()}
    page = find_template(template)
    with settings(page, [*single, *bands, axis, title]):
        height = _PITCH * page.text / 72 * len(single) + _AROUND * page.unit
        figure = Figure(figsize=(page.width, height), layout="constrained")
        axes = figure.subplots()
        handles = _draw(axes, arrays, means, bands, page)
        axes.set(xlabel=axis, title=title)
        add_legend(figure, handles, page)
    counts = {name: len(values) for name, values in arrays.items()}
    arguments = {"single": dict(single), "overall": dict(overall), "controls": dict(controls or {})}
    return build_panel(
        "trainings",
        figure,
        {"trainings": counts},
        {**arguments, "axis": axis, "title": title, "template": template},
        record,
    )


def _array(name: str, given: Tensor) -> FloatArray:
    values = given.detach().cpu().double().numpy()
    if values.ndim != 2 or values.shape[1:] != (3,) or not len(values) or not np.isfinite(values[:, 0]).all():
        raise InputError(f"{name!r} needs rows of a finite mean, a low and a high; got {values.tolist()}")
    return values


def _draw(
    axes: Axes,
    arrays: Mapping[str, FloatArray],
    means: Mapping[str, FloatArray],
    bands: Mapping[str, FloatArray],
    page: Template,
) -> dict[str, Any]:
    """Draw bands, trainings and means, and return what the legend explains."""
    handles: dict[str, Any] = {}
    known = any(np.isfinite(mean).all() for mean in means.values())
    every = "all trainings and images" if known else "all trainings, no interval"
    for number, (name, (mean, low, high)) in enumerate(bands.items()):
        grey = GREYS[number % len(GREYS)]
        if np.isfinite([low, high]).all():
            axes.axvspan(low, high, color=grey, alpha=0.18, linewidth=0, zorder=0)
        dashes = ("solid", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))[number % 4]
        handles[name] = axes.axvline(mean, color=grey, linewidth=0.6 * page.unit, linestyle=dashes, zorder=1)
    for row, (name, values) in enumerate(arrays.items()):
        places = row + np.linspace(0, _SPREAD, len(values) + 1)[1:]
        thin = {"elinewidth": 0.5 * page.unit, "linestyle": "none", "zorder": 2}
        own = _with_interval(axes, values, places, "o", {"color": COLOURS[4], "markersize": 2.5 * page.unit, **thin})
        thick = {"elinewidth": 1.2 * page.unit, "linestyle": "none", "zorder": 3}
        thick |= {"color": COLOURS[0], "markersize": 4 * page.unit}
        mean = _with_interval(axes, means[name][None], np.array([row - 0.15]), "D", thick)
        handles = {every: mean, "a training, over images": own} | handles
    axes.set_yticks(range(len(arrays)), list(arrays))
    axes.set_ylim(len(arrays) - 0.3, -0.6)
    plain(axes, page.unit)
    return handles


def _with_interval(axes: Axes, values: FloatArray, places: FloatArray, marker: str, style: dict[str, Any]) -> Any:
    """Draw means with their intervals; an interval that is not defined is left out."""
    mean, low, high = values.T
    reach = np.nan_to_num(np.stack([mean - low, high - mean]), nan=0.0).clip(min=0)
    return axes.errorbar(mean, places, xerr=reach, marker=marker, **style).lines[0]
