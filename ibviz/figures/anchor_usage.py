"""Histogram of the cells at each anchor, and their share by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ibviz.errors import InputError
from ibviz.figures.curves import plain
from ibviz.figures.scale import FloatArray, anchor_scale, level_labels, thinned
from ibviz.figures.settings import LEADING, Page, Template, find_template, settings
from ibviz.figures.sidecar import Panel, build_panel

# Inches on paper
_HISTOGRAM_HEIGHT = 1.5
_CLASS_HEIGHT = 0.11  # row of a class in the heat map
_MAX_HEAT_HEIGHT = 4.0
_HEAT_COLOURS = colormaps["Greys"]  # other colours stand for anchors
_DEAD = "#D55E00"


def anchor_usage(
    usage: Num[Tensor, " _"],
    anchors: Float[Tensor, " _"],
    *,
    occupancy: Num[Tensor, "_ _"] | None = None,
    class_names: Sequence[str] = (),
    template: Page = "ijcai column",
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw the share of all cells that each anchor takes, in the anchor's colour, and a cross for unused anchors.

    Args:
        usage: Number of cells per anchor.
        anchors: Value of each anchor, by which the bars are sorted.
        occupancy: Number of cells per class and anchor `(classes, anchors)`, drawn below as shares of the class.
        class_names: Names of the rows of `occupancy`; numbers by default.
        template: Page that the figure is drawn for, a name of `settings.TEMPLATES` or a `Template`.
        record: Facts to repeat in the sidecar.

    Raises:
        InputError: If the shapes do not agree, a count is negative or an anchor is not finite.

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
    return build_panel("anchor_usage", figure, facts, {"usage": usage, "anchors": anchors, **beside}, record)


def _counts(given: Tensor, name: str) -> FloatArray:
    counts = given.detach().cpu().double().numpy()
    if not counts.size or not (np.isfinite(counts) & (counts >= 0)).all():
        raise InputError(
            f"{name} counts cells, zero or more for each anchor; got {counts.shape} from {counts.min():g}"
            if counts.size
            else f"{name} is empty; it needs a number for each anchor"
        )
    return counts


def _draw_usage(
    counts: FloatArray, anchors: FloatArray, rows: FloatArray | None, names: list[str], page: Template
) -> Figure:
    heights = (
        [_HISTOGRAM_HEIGHT]
        if rows is None
        else [_HISTOGRAM_HEIGHT, min(_MAX_HEAT_HEIGHT, max(0.4, _CLASS_HEIGHT * len(rows)))]
    )
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


def _draw_histogram(axes: Axes, counts: FloatArray, anchors: FloatArray, page: Template) -> None:
    scale, places, dead = anchor_scale(anchors), np.arange(len(counts)), counts == 0
    shades = scale.colours(scale.norm(anchors))
    axes.bar(places, 100 * counts / max(counts.sum(), 1), width=0.86, color=shades, linewidth=0)
    axes.set_ylabel("share of cells (%)")
    axes.set_ylim(bottom=0)
    plain(axes, page.unit)
    axes.tick_params(axis="x", length=0)
    if dead.any():
        style: dict[str, Any] = {
            "color": _DEAD,
            "markersize": 0.5 * page.text,
            "markeredgewidth": 0.1 * page.text,
        }
        axes.plot(places[dead], np.full(dead.sum(), 0.04), "x", transform=axes.get_xaxis_transform(), **style)
        axes.set_title(
            f"\u00d7 {dead.sum()} of {len(dead)} never used",
            color=_DEAD,
            loc="right",
            fontsize=page.small,
            pad=2,
        )


def _draw_heat(axes: Axes, rows: FloatArray, names: list[str], page: Template) -> None:
    shares = 100 * rows / np.maximum(rows.sum(1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap=_HEAT_COLOURS, vmin=0, aspect="auto", interpolation="nearest")
    high = min(_MAX_HEAT_HEIGHT, _CLASS_HEIGHT * len(rows)) * 72
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
