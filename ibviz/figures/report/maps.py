"""Maps as the text that a page unpacks: anchors exactly, all else in 255 steps of its scale, for display only."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray

from ibviz.errors import InputError
from ibviz.figures.report.contents import Effect, Subject
from ibviz.figures.report.inline import as_text, interval
from ibviz.figures.rows import TIMES, Row, RowMaps, rows_of
from ibviz.figures.scale import Scale, Values, level_labels, thinned
from ibviz.types import AttentionMap, Grid

SHADES = 256
SIDES = (64, 32, 16)  # the most cells a side that continuous maps are shown with: as many as the budget allows
BUDGET = 9_000_000  # bytes of all maps of a model; a third more as text
TICKS = 5


class Drawn(NamedTuple):
    """A method's maps, as a printed row would show them; of failed images there is none."""

    row: Row
    given: RowMaps  # of the images that are there
    present: Bool[np.ndarray, " n"]

    @property
    def label(self) -> str:
        """Name of the method."""
        return self.row.content.label

    @property
    def grid(self) -> Grid:
        """Rows and columns."""
        _, rows, columns = self.row.content.values.shape
        return rows, columns

    @property
    def anchors(self) -> Values | None:
        """Value of each anchor by its number, where the map has anchors."""
        return self.row.content.anchors


def pack_maps(name: str, subject: Subject, size: Grid) -> list[dict[str, Any]]:
    """Maps of a model for pictures of `size`; a method all of whose maps are missing is left out."""
    found = [_drawn(label, given, len(subject.predictions), size) for label, given in subject.maps.items()]
    drawn = [one for one in found if one is not None]
    side = display_side([one.grid for one in drawn if one.anchors is None], len(subject.predictions))
    with_anchors = [one.label for one in drawn if one.anchors is not None]
    for label in subject.effects:
        if label not in with_anchors:
            known = ", ".join(with_anchors) or "none"
            raise InputError(f"model {name!r} has effects of {label!r}, which has no anchors; with anchors: {known}")
    return [_pack(one, side, subject.effects) for one in drawn]


def display_side(grids: Sequence[Grid], images: int) -> int:
    """Most cells a side at which maps of these grids fit into the budget.

    >>> display_side([(224, 224)] * 8, 200), display_side([(224, 224)] * 30, 200)
    (64, 32)
    """
    fits = (side for side in SIDES if images * sum(math.prod(_reduced(grid, side)) for grid in grids) <= BUDGET)
    return next(fits, SIDES[-1])


def _reduced(grid: Grid, side: int) -> Grid:
    """A grid whose cells are blocks of whole cells, at most `side` each way."""
    block = max(1, math.ceil(max(grid) / side))
    return math.ceil(grid[0] / block), math.ceil(grid[1] / block)


def _drawn(label: str, given: RowMaps, count: int, size: Grid) -> Drawn | None:
    """The row of a method without the images whose maps are NaN, as those of a method that failed there."""
    present = np.ones(count, dtype=np.bool_)
    if not isinstance(given, AttentionMap) and len(given) == count:
        present = ~given.isnan().flatten(1).any(1).cpu().numpy()
        given = given[torch.from_numpy(present)]
    if not present.any():
        return None
    [row] = rows_of({label: given}, int(present.sum()), size, {})
    return Drawn(row, given, present)


def _pack(one: Drawn, side: int, effects: Mapping[str, Effect]) -> dict[str, Any]:
    shared = {"method": one.label, "missing": np.flatnonzero(~one.present).tolist()}
    if one.anchors is None:
        return shared | _pack_continuous(one, side)
    effect = _pack_effect(one.label, effects.get(one.label), len(one.anchors))
    return shared | _pack_quantised(one, one.anchors) | {"effect": effect}


def _pack_continuous(one: Drawn, side: int) -> dict[str, Any]:
    """Values between the limits of the scale, in 255 steps."""
    row, (low, high) = one.row, one.row.scale.limits
    shown, values = _reduced(one.grid, side), row.content.values
    if shown != one.grid:
        values = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(values), shown).numpy()
    steps = np.rint((values - low) / (high - low) * (SHADES - 1)).clip(0, SHADES - 1).astype(np.uint8)
    remarks = [f"shown as means over {shown[0]}{TIMES}{shown[1]} cells"] if shown != one.grid else []
    return {
        "note": _note(one, remarks),
        "grid": shown,
        "cells": _cells(steps, one.present),
        "bytes": 1,
        "smooth": row.interpolation != "nearest" or shown != one.grid,
        "colours": _colours(row.scale, np.linspace(low, high, SHADES)),
        "ticks": _even_ticks(row.scale),
        "anchors": None,
        "effect": None,
    }


def _even_ticks(scale: Scale) -> list[tuple[float, str]]:
    """Both ends and the middle; an end at which values were cut says so."""
    low, middle, high = scale.labels
    low, high = (f"≤ {low}" if scale.extend == "both" else low), (f"≥ {high}" if scale.extend != "neither" else high)
    return [(0.0, low), (0.5, middle), (1.0, high)]


def _pack_quantised(one: Drawn, anchors: Values) -> dict[str, Any]:
    """Anchor numbers exactly as they are, and the anchors they stand for."""
    assert isinstance(one.given, AttentionMap)
    assert one.given.index is not None
    kind = np.dtype("u1") if len(anchors) <= SHADES else np.dtype("<u2")
    levels = np.unique(anchors)
    labels = dict(zip(levels.tolist(), level_labels(levels), strict=True))
    middles = (np.arange(len(levels)) + 0.5) / len(levels)
    ticks = zip(middles.tolist(), thinned(tuple(labels.values()), TICKS), strict=True)
    return {
        "note": _note(one, []),
        "grid": one.grid,
        "cells": _cells(one.given.index.cpu().numpy().astype(kind), one.present),
        "bytes": kind.itemsize,
        "smooth": False,
        "colours": _colours(one.row.scale, anchors),
        "ticks": [tick for tick in ticks if tick[1]],
        "anchors": [{"value": value, "label": labels[value]} for value in anchors.tolist()],
    }


def _note(one: Drawn, remarks: Sequence[str]) -> str:
    grid = TIMES.join(map(str, one.grid))
    return "; ".join([f"{grid} cells, {one.row.enlargement}", f"scale: {one.row.scale.rule}", *remarks])


def _cells(present: NDArray[Any], where: Bool[np.ndarray, " n"]) -> str:
    """Cells of all images, 0 where a map is missing."""
    cells = np.zeros((len(where), *present.shape[1:]), present.dtype)
    cells[where] = present
    return as_text(cells.tobytes())


def _pack_effect(label: str, effect: Effect | None, anchors: int) -> dict[str, Any] | None:
    if effect is None:
        return None
    if len(effect.estimates) != anchors:
        raise InputError(f"{label!r} has {anchors} anchors, but effects of {len(effect.estimates)}")
    return {"what": effect.what, "estimates": [interval(one) for one in effect.estimates]}


def _colours(scale: Scale, values: Values) -> str:
    """Red, green and blue of each value, three bytes each."""
    shades: NDArray[Any] = np.asarray(scale.colours(scale.norm(values)))[:, :3]
    return as_text(np.rint(255 * shades).astype(np.uint8).tobytes())
