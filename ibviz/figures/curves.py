"""Deletion, insertion and similar curves: the mean per method with a bootstrap band over images."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from ibviz.errors import InputError, unknown
from ibviz.figures.scale import FloatArray
from ibviz.figures.settings import DEFAULT_TEMPLATE, Page, Template, find_template, settings, text_width
from ibviz.figures.sidecar import Panel, build_panel
from ibviz.statistics import RESAMPLES, bootstrap_interval

# Ascending fractions, `(points,)` for all images or `(n, points)` for each, and scores `(n, points)`; n and points may
# differ between methods.
CurveData = tuple[Float[Tensor, "..."], Float[Tensor, "_ _"]]

POINTS = 101  # common fractions of images whose own differ
AXES_HEIGHT = 2.0  # inches, on paper
_WIDE = 5.0  # inches; on a narrower page the legend is below the axes
_PITCH = 1.55  # line spacing of a legend over the text size
BANDED = 8  # bands at most; more would hide one another
# Okabe and Ito's colours without yellow, which is barely visible on white; from the 8th method on, dashes differ.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_METHOD_DASHES = ("solid", (0, (5, 1)), (0, (1, 1)), (0, (6, 1, 1, 1)))
_CONTROL_DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (8, 2)))
_MARKS = ("o", "s", "^", "D", "v", "x", "+")
_SIZES = ("linewidth", "markersize", "markeredgewidth")  # in points, on paper
GREYS = ("#555555", "#888888", "#AAAAAA")
XLABELS = {"deletion": "fraction removed", "insertion": "fraction inserted"}


def curves(  # noqa: PLR0913 - everything drawn on and beside the lines is an argument
    sides: Mapping[str, Mapping[str, CurveData]],
    *,
    controls: Collection[str] = (),
    control_bands: bool = False,
    score: str = "probability",
    title: str = "",
    template: Page = DEFAULT_TEMPLATE,
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw the mean curve of each method over images with a 95 % percentile bootstrap band, one plot per side.

    Images are resampled 2000 times from a fixed seed, alike for every method. With more than 8 methods there are no
    bands. The axis of scores begins at zero, from which areas are measured, or below it if a mean is negative.

    Args:
        sides: Curves of each method by the name of the plot, such as "deletion" and "insertion".
        controls: Methods drawn thin, in grey and with marks.
        control_bands: Draw bands of the controls too, if there are at most 8 lines.
        score: Label of the vertical axis.
        title: Text above the figure.
        template: Page that the figure is drawn for, a name of `settings.TEMPLATES` or a `Template`.
        record: Facts to repeat in the sidecar.

    Raises:
        InputError: If a plot has no curves, or a curve is not finite or its fractions do not ascend.

    >>> import torch
    >>> fractions = torch.linspace(0, 1, 5)
    >>> drawn = curves({"deletion": {"Grad-CAM": (fractions, torch.rand(8, 5))}})
    >>> drawn.account["sides"]["deletion"]["Grad-CAM"]["images"]
    8
    """
    if not sides or not all(sides.values()):
        raise InputError(f"each side needs at least one curve; got { {side: list(sides[side]) for side in sides} }")
    styles = line_styles([name for given in sides.values() for name in given], controls)
    banded = _banded(list(styles), controls, control_bands=control_bands)
    lines = {
        side: {name: _line(side, name, given[name], banded=name in banded) for name in given}
        for side, given in sides.items()
    }
    page = find_template(template)
    with settings(page, [*styles, *sides, score, title]):
        figure = _draw(lines, styles, page)
        figure.axes[0].set_ylabel(score)
        if title:
            figure.suptitle(title, fontsize=page.text)
    facts = {
        side: {name: {"images": line.images, "points": len(line.mean)} for name, line in given.items()}
        for side, given in lines.items()
    }
    bands = {"interval": [2.5, 97.5], "resamples": RESAMPLES, "seed": 0, "of": banded}
    arguments = {"sides": sides, "controls": list(controls), "score": score, "template": template}
    arguments |= {"control_bands": control_bands, "title": title}
    return build_panel("curves", figure, {"bands": bands, "sides": facts}, arguments, record)


class _Line(NamedTuple):
    """The mean curve of a method over images, and its band if one is drawn."""

    fractions: FloatArray
    mean: FloatArray
    band: FloatArray | None
    images: int


def _line(side: str, name: str, curve: CurveData, *, banded: bool) -> _Line:
    """Return the line of one method; the curves of its images are not kept."""
    fractions, scores = _arrays(side, name, curve)
    return _Line(fractions, scores.mean(0), bootstrap_interval(scores) if banded else None, len(scores))


def _draw(lines: Mapping[str, Mapping[str, _Line]], styles: Mapping[str, dict[str, Any]], page: Template) -> Figure:
    figure = Figure(figsize=(page.width, AXES_HEIGHT * page.unit), layout=ConstrainedLayoutEngine(wspace=0.06))
    places = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for axes, (side, given) in zip(places, lines.items(), strict=True):
        axes.set(title=side, xlabel=XLABELS.get(side, "fraction"), xlim=(0, 1))
        _draw_side(axes, given, styles, page.unit)
    low, high = places[0].get_ylim()
    least = min(axes.dataLim.y0 for axes in places)
    places[0].set_ylim(low if least < 0 else 0, max(high, 0))
    drawn = {str(line.get_label()): line for axes in places for line in axes.get_lines()}
    add_legend(figure, {name: drawn[name] for name in styles}, page)
    return figure


def add_legend(figure: Figure, handles: Mapping[str, Artist], page: Template) -> None:
    """Add a legend beside the axes or, if there is no room, in columns below, which makes the figure higher."""
    style: dict[str, Any] = {"frameon": False, "handlelength": 2.5}
    pitch = _PITCH * page.text / 72
    if page.width / page.unit >= _WIDE and len(handles) * pitch <= figure.get_figheight():
        figure.legend(list(handles.values()), list(handles), loc="outside right center", **style)
        return
    columns = _columns([text_width(name, page.text) + 5.5 * page.text / 72 for name in handles], page.width)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, **style)
    figure.set_figheight(figure.get_figheight() + -(-len(handles) // columns) * pitch)


def _columns(widths: Sequence[float], most: float) -> int:
    """Return the number of columns, filled one after the other, in which entries of these widths fit into `most`.

    >>> _columns([2.0, 2.0, 1.0, 1.0], 3.5), _columns([5.0], 3.5)
    (2, 1)
    """
    fitting = (n for n in range(len(widths), 1, -1) if sum(map(max, np.array_split(widths, n))) <= most)
    return next(fitting, 1)


def _arrays(side: str, name: str, curve: CurveData) -> tuple[FloatArray, FloatArray]:
    """Return fractions `(points,)` and scores `(n, points)`, interpolated to common fractions if those differ."""
    fractions, scores = (part.detach().cpu().double().numpy() for part in curve)
    if scores.ndim != 2 or not scores.size or fractions.shape not in (scores.shape, scores.shape[1:]):
        raise InputError(
            f"{side} of {name!r} needs scores (images, points) and fractions (points) or one for each score; "
            f"got {scores.shape} and {fractions.shape}"
        )
    if not (np.isfinite(scores).all() and (np.diff(fractions) >= 0).all()):
        raise InputError(f"{side} of {name!r} needs finite scores at ascending fractions; leave failed images out")
    if fractions.ndim == 1:
        return fractions, scores
    common = np.linspace(0, 1, POINTS)
    table = np.empty((len(scores), POINTS))
    for row, *image in zip(table, fractions, scores, strict=True):
        row[:] = np.interp(common, *image)
    return common, table


def line_styles(names: list[str], controls: Collection[str]) -> dict[str, dict[str, Any]]:
    """Assign a line style to each name, methods before controls, so that all plots share one legend."""
    names = list(dict.fromkeys(names))
    for control in controls:
        if control not in names:
            raise unknown("control", control, names)
    methods = [name for name in names if name not in controls]
    styles = {name: _method_style(number) for number, name in enumerate(methods)}
    return styles | {name: _control_style(number) for number, name in enumerate(n for n in names if n in controls)}


def _banded(names: list[str], controls: Collection[str], *, control_bands: bool) -> list[str]:
    """Select the lines that have a band: all of them if asked for, else the methods, else none, and at most 8."""
    methods = [name for name in names if name not in controls]
    wanted = [names, methods, []] if control_bands else [methods, []]
    return next(lines for lines in wanted if len(lines) <= BANDED)


def _method_style(number: int) -> dict[str, Any]:
    round_, place = divmod(number, len(COLOURS))
    return {
        "color": COLOURS[place],
        "linestyle": _METHOD_DASHES[round_ % len(_METHOD_DASHES)],
        "linewidth": 1.1,
        "zorder": 3,
    }


def _control_style(number: int) -> dict[str, Any]:
    """Style a control by dashes and marks; the marks of neighbours lie at different fractions."""
    grey, dashes = GREYS[number // len(_CONTROL_DASHES) % len(GREYS)], _CONTROL_DASHES[number % len(_CONTROL_DASHES)]
    places = (0.02 + 0.03 * (number % 5), 0.2)
    marks = {"marker": _MARKS[number % len(_MARKS)], "markevery": places, "markersize": 2.5, "markerfacecolor": "white"}
    return {"color": grey, "linestyle": dashes, "linewidth": 0.6, "zorder": 2, "markeredgewidth": 0.5, **marks}


def _draw_side(
    axes: Axes,
    given: Mapping[str, _Line],
    styles: Mapping[str, dict[str, Any]],
    unit: float,
) -> None:
    for name, (fractions, mean, band, _) in given.items():
        style = styles[name] | {size: styles[name][size] * unit for size in _SIZES if size in styles[name]}
        axes.plot(fractions, mean, label=name, **style)
        if band is not None:
            axes.fill_between(fractions, *band, color=style["color"], alpha=0.18, linewidth=0, zorder=1)
    plain(axes, unit)


def plain(axes: Axes, unit: float) -> None:
    """Leave two thin axes with short ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", length=2 * unit, width=0.4 * unit)
