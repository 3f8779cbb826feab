"""Encoding of maps for display in a page: anchors exactly, other maps in 255 steps of their scale."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from ibviz.errors import InputError
from ibviz.figures.panel_rows import TIMES, PanelRow, RowMaps, ScaleChoice, pooled_maxima, rows_of
from ibviz.figures.report.contents import Effect, ReportModel
from ibviz.figures.report.inline import as_text, packed_interval
from ibviz.figures.scale import ROBUST, FloatArray, Scale, level_labels, thinned
from ibviz.types import AttentionMap, Grid

SHADES = 256
SIDES = (64, 32, 16)  # cells per side of a continuous map at most; the first within the budget is taken
BUDGET = 9_000_000  # bytes of all maps of a model; their text is a third longer
TICKS = 5  # at most


class MethodMaps(NamedTuple):
    """Maps of a method as the page shows them, with the scale of a row of a panel."""

    row: PanelRow
    given: RowMaps  # of the images that have a map, on the grid that is shown
    present: Bool[np.ndarray, " n"]  # images that have a map
    grid: Grid  # rows and columns of the method itself
    blocks: int = 1  # side of the blocks of which a pixel map shows the value of greatest magnitude

    @property
    def label(self) -> str:
        """Name of the method."""
        return self.row.content.label

    @property
    def anchors(self) -> FloatArray | None:
        """Value of each anchor, if the map has anchors."""
        return self.row.content.anchors


def pack_maps(name: str, subject: ReportModel, size: Grid) -> list[dict[str, Any]]:
    """Encode the maps of a model for pictures of `size`; a method without any map is left out."""
    continuous = [_grid(given) for given in subject.maps.values() if not _has_index(given)]
    side = display_side(continuous, len(subject.predictions))
    rows = [_method_maps(label, subject, size, side) for label in subject.maps]
    methods = [row for row in rows if row is not None]
    with_anchors = [method.label for method in methods if method.anchors is not None]
    for label in subject.effects:
        if label not in with_anchors:
            known = ", ".join(with_anchors) or "none"
            raise InputError(f"model {name!r} has effects of {label!r}, which has no anchors; with anchors: {known}")
    return [_pack(method, subject.effects) for method in methods]


def _has_index(given: RowMaps) -> bool:
    return isinstance(given, AttentionMap) and given.index is not None and given.anchors is not None


def _grid(given: RowMaps) -> Grid:
    _, rows, columns = (given.mean if isinstance(given, AttentionMap) else given).shape
    return rows, columns


def display_side(grids: Sequence[Grid], images: int) -> int:
    """Return the number of cells per side with which maps of these grids fit into the budget.

    >>> display_side([(224, 224)] * 8, 200), display_side([(224, 224)] * 30, 200)
    (64, 32)
    """
    fits = (side for side in SIDES if images * sum(math.prod(_reduced(grid, side)) for grid in grids) <= BUDGET)
    return next(fits, SIDES[-1])


def _reduced(grid: Grid, side: int) -> Grid:
    """Return a grid of at most `side` cells per side, each a block of whole cells of `grid`."""
    block = max(1, math.ceil(max(grid) / side))
    return math.ceil(grid[0] / block), math.ceil(grid[1] / block)


def _method_maps(label: str, subject: ReportModel, size: Grid, side: int) -> MethodMaps | None:
    """Create the row of a method without the images whose maps are NaN, on which the method failed.

    Continuous maps with more than `side` cells are reduced first: pixel maps to the value of greatest magnitude in each
    block, as in printed figures, others to means.
    """
    given, count = subject.maps[label], len(subject.predictions)
    grid = _grid(given)
    shown = grid if _has_index(given) else _reduced(grid, side)
    pixels = grid[0] >= size[0] and grid[1] >= size[1]
    blocks = math.ceil(max(grid) / side) if pixels and shown != grid else 1
    given = given if shown == grid else _smaller(given, shown, blocks)
    present = np.ones(count, dtype=np.bool_)
    if not isinstance(given, AttentionMap) and len(given) == count:
        present = ~given.isnan().flatten(1).any(1).cpu().numpy()
        given = given[torch.from_numpy(present)]
    if not present.any():
        return None
    choice = ScaleChoice(limit=ROBUST if blocks > 1 else None, from_least=subject.from_least)
    [row] = rows_of({label: given}, int(present.sum()), size, choice)
    return MethodMaps(row, given, present, grid, blocks)


def _smaller(given: RowMaps, shown: Grid, blocks: int) -> RowMaps:
    """Return continuous maps on a coarser grid: of the values of greatest magnitude in blocks, or of means."""
    if isinstance(given, AttentionMap):
        mean, deviation = (_fewer_cells(own, shown, blocks) for own in (given.mean, given.deviation))
        return AttentionMap(mean, deviation, None, None)
    return _fewer_cells(given, shown, blocks)


def _fewer_cells(maps: Tensor, shown: Grid, blocks: int) -> Tensor:
    if blocks > 1:
        return torch.from_numpy(pooled_maxima(maps.detach().cpu().numpy(), blocks))
    return torch.nn.functional.adaptive_avg_pool2d(maps, shown)


def _pack(method: MethodMaps, effects: Mapping[str, Effect]) -> dict[str, Any]:
    shared = {"method": method.label, "missing": np.flatnonzero(~method.present).tolist()}
    if method.anchors is None:
        return shared | _pack_continuous(method)
    effect = _pack_effect(method.label, effects.get(method.label), len(method.anchors))
    return shared | _pack_quantised(method, method.anchors) | {"effect": effect}


def _pack_continuous(method: MethodMaps) -> dict[str, Any]:
    """Encode values in 255 steps between the limits of the scale."""
    row, (low, high) = method.row, method.row.scale.limits
    values = row.content.values
    steps = np.rint((values - low) / (high - low) * (SHADES - 1)).clip(0, SHADES - 1).astype(np.uint8)
    return {
        "note": _note(method),
        "grid": values.shape[1:],
        "cells": _cells(steps, method.present),
        "bytes": 1,
        "smooth": row.interpolation != "nearest" and method.blocks == 1,
        "colours": _colours(row.scale, np.linspace(low, high, SHADES)),
        "ticks": _even_ticks(row.scale),
        "limits": (float(low), float(high)),
        "anchors": None,
        "effect": None,
    }


def _even_ticks(scale: Scale) -> list[tuple[float, str]]:
    """Return ticks at both ends and the middle, marked if values lie beyond an end."""
    low, middle, high = scale.labels
    low, high = (f"≤ {low}" if scale.extend == "both" else low), (f"≥ {high}" if scale.extend != "neither" else high)
    return [(0.0, low), (0.5, middle), (1.0, high)]


def _pack_quantised(method: MethodMaps, anchors: FloatArray) -> dict[str, Any]:
    """Encode the anchor index of each cell, and the values of the anchors."""
    assert isinstance(method.given, AttentionMap)
    assert method.given.index is not None
    kind = np.dtype("u1") if len(anchors) <= SHADES else np.dtype("<u2")
    levels = np.unique(anchors)
    labels = dict(zip(levels.tolist(), level_labels(levels), strict=True))
    middles = (np.arange(len(levels)) + 0.5) / len(levels)
    ticks = zip(middles.tolist(), thinned(tuple(labels.values()), TICKS), strict=True)
    return {
        "note": _note(method),
        "grid": method.grid,
        "cells": _cells(method.given.index.cpu().numpy().astype(kind), method.present),
        "bytes": kind.itemsize,
        "smooth": False,
        "colours": _colours(method.row.scale, anchors),
        "ticks": [tick for tick in ticks if tick[1]],
        "anchors": [{"value": value, "label": labels[value]} for value in anchors.tolist()],
    }


def _note(method: MethodMaps) -> str:
    shown, blocks = method.row.content.values.shape[1:], method.blocks
    drawn = method.row.enlargement if blocks == 1 else f"max of {blocks}{TIMES}{blocks}"
    means = blocks == 1 and shown != method.grid
    remarks = [f"shown as means over {shown[0]}{TIMES}{shown[1]} cells"] if means else []
    grid = TIMES.join(map(str, method.grid))
    return "; ".join([f"{grid} cells, {drawn}", f"scale: {method.row.scale.rule}", *remarks])


def _cells(present: NDArray[Any], where: Bool[np.ndarray, " n"]) -> str:
    """Encode the cells of all images, 0 for missing maps."""
    cells = np.zeros((len(where), *present.shape[1:]), present.dtype)
    cells[where] = present
    return as_text(cells.tobytes())


def _pack_effect(label: str, effect: Effect | None, anchors: int) -> dict[str, Any] | None:
    if effect is None:
        return None
    if len(effect.estimates) != anchors:
        raise InputError(f"{label!r} has {anchors} anchors, but effects of {len(effect.estimates)}")
    return {"what": effect.what, "estimates": [packed_interval(estimate) for estimate in effect.estimates]}


def _colours(scale: Scale, values: FloatArray) -> str:
    """Encode the colour of each value as three bytes."""
    shades: NDArray[Any] = np.asarray(scale.colours(scale.norm(values)))[:, :3]
    return as_text(np.rint(255 * shades).astype(np.uint8).tobytes())
