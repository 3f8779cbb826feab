"""Rows of a panel: checked maps on the CPU, each with its scale and enlargement."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ibviz.errors import InputError, unknown
from ibviz.figures.drawing import photo_interpolation
from ibviz.figures.scale import (
    ROBUST,
    FloatArray,
    Scale,
    anchor_scale,
    attention_scale,
    check_colours,
    fixed_scale,
    is_constant,
    least_scale,
    map_scale,
    own_scale,
    recoloured,
    short,
    unit_scale,
)
from ibviz.types import AttentionMap, Grid

# Not `Maps`: each row has its own grid, and the error of a wrong batch size names the row.
RowMaps: TypeAlias = Float[Tensor, "_ _ _"] | AttentionMap
Shared: TypeAlias = str | tuple[float, float]  # name of a shared scale, or its limits
ScaleRule: TypeAlias = Literal["shared", "image", "fixed"]

TIMES = "\u00d7"
MOST_BLOCKS = 64  # per side of a pixel map; in a picture of 0.6 inches a block then is 0.7 points wide


class RowContent(NamedTuple):
    """Contents of a row, before its scale is chosen."""

    label: str
    values: FloatArray  # (b, gh, gw)
    attention: bool  # attention, otherwise any other map
    fine: bool  # the grid is at least as fine as the photographs
    anchors: FloatArray | None = None  # of quantised attention
    blocks: int = 1  # side of the blocks, in pixels, of which a fine map shows the greatest value
    constants: tuple[str, ...] = ()  # what to write on each image whose map has a single value; empty for the others


class PanelRow(NamedTuple):
    """Row of one method, ready to draw."""

    content: RowContent
    scale: Scale
    enlargement: str  # as the note names it
    interpolation: str  # matplotlib's name

    @property
    def note(self) -> str:
        """Note in small type beside the label."""
        grid, side = TIMES.join(map(str, self.content.values.shape[1:])), self.content.blocks
        drawn = self.enlargement.removesuffix(" blocks") if side == 1 else f"max of {side}{TIMES}{side}"
        return ", ".join([drawn, grid, *self.scale.remarks])

    def account(self) -> dict[str, Any]:
        """Return the facts of the row for the sidecar."""
        anchors = self.content.anchors
        return {
            "label": self.content.label,
            "grid": self.content.values.shape[1:],
            "enlargement": self.enlargement,
            "blocks": self.content.blocks,
            "quantised": anchors is not None,
            "anchors": None if anchors is None else anchors.tolist(),
            **self.scale.account(),
        }


class ScaleChoice(NamedTuple):
    """The rule by which the scales of a panel are chosen, and its exceptions."""

    rule: ScaleRule = "shared"
    by_row: Mapping[str, Shared] = {}  # name or limits of a scale, in place of the rule
    limit: float | None = None  # percentile of |values| at which the scales of maps end
    cmap: str | None = None
    most_blocks: int | None = None  # per side, of which a pixel map shows the greatest values; None: every value
    from_least: Collection[str] = ()  # rows in which zero has no meaning

    def checked(self, rows: Sequence[str]) -> "ScaleChoice":
        """Return the choice; raise `InputError` for an unknown rule, row or colour map, or a limit out of range."""
        if self.rule not in get_args(ScaleRule):
            raise unknown("scale", str(self.rule), list(get_args(ScaleRule)))
        for what, labels in (("scales", self.by_row), ("from_least", self.from_least)):
            for label in labels:
                if label not in rows:
                    raise unknown(f"row of {what}", label, list(rows))
        if self.limit is not None and not 0 < self.limit <= 100:
            raise InputError(f"limit is a percentile of |values|, above 0 and up to 100; got {self.limit}")
        if self.cmap is not None:
            check_colours(self.cmap)
        return self


def rows_of(maps: Mapping[str, RowMaps], images: int, size: Grid, choice: ScaleChoice) -> list[PanelRow]:
    """Choose scale and enlargement of each row: nearest for anchors, none for pixels, bilinear for the rest.

    Args:
        maps: Maps or attention by row.
        images: Number of images.
        size: Height and width of the images in pixels.
        choice: The rule of the scales; rows with the same entry in `by_row` share a scale.
    """
    contents = [_content(label, given, images, size, choice.most_blocks) for label, given in maps.items()]
    groups: dict[object, list[RowContent]] = {}
    for content in contents:
        groups.setdefault(_group(content, choice), []).append(content)
    scales = {group: _coloured(_scale_of(members, choice), choice) for group, members in groups.items()}
    return [
        PanelRow(
            _drawn(content, groups[_group(content, choice)], choice),
            scales[_group(content, choice)],
            *_enlargement(content, size),
        )
        for content in contents
    ]


def _group(content: RowContent, choice: ScaleChoice) -> object:
    shared = choice.by_row.get(content.label)
    return ("own", content.label) if shared is None else ("shared", shared)


def _drawn(content: RowContent, members: list[RowContent], choice: ScaleChoice) -> RowContent:
    """Return a row as it is drawn on the scale of its group."""
    return _per_image(content, from_least=_from_least(members, choice)) if _by_image(members, choice) else content


def _by_image(members: list[RowContent], choice: ScaleChoice) -> bool:
    """Return True if each map of a group has its own scale: by the rule, or since none has a meaningful zero."""
    shared = choice.by_row.get(members[0].label)
    if choice.rule == "image" and shared is None:
        return True
    several = sum(len(own.values) for own in members) > 1
    offset = all(own.label in choice.from_least for own in members)
    return offset and several and choice.rule != "fixed" and not isinstance(shared, tuple)


def _from_least(members: list[RowContent], choice: ScaleChoice) -> bool:
    return all(own.attention or own.label in choice.from_least for own in members)


def _coloured(scale: Scale, choice: ScaleChoice) -> Scale:
    return scale if choice.cmap is None else recoloured(scale, choice.cmap)


def _per_image(content: RowContent, *, from_least: bool) -> RowContent:
    """Divide each map by its greatest |value|, or stretch it from its least to its greatest value."""
    flat = content.values.reshape(len(content.values), -1)
    low = flat.min(1) if from_least else np.zeros(len(flat))
    spread = np.abs(flat - low[:, None]).max(1)
    stretched = (content.values - low[:, None, None]) / np.where(spread > 0, spread, 1.0)[:, None, None]
    return content._replace(values=stretched)


def _content(label: str, given: RowMaps, images: int, size: Grid, most_blocks: int | None) -> RowContent:
    attention, anchors = isinstance(given, AttentionMap), None
    maps = given.mean if isinstance(given, AttentionMap) else given
    if isinstance(given, AttentionMap) and given.index is not None and given.anchors is not None:
        anchors = given.anchors.detach().cpu().double().numpy()
        _check_anchors(label, anchors, given.index)
        maps = given.values()
    values = _values(label, maps, images)
    fine = values.shape[1] >= size[0] and values.shape[2] >= size[1]
    pooled = most_blocks is not None and fine and anchors is None
    blocks = math.ceil(max(values.shape[1:]) / most_blocks) if pooled else 1
    constants = tuple(_constant(own) for own in values)
    return RowContent(label, block_maxima(values, blocks), attention, fine, anchors, blocks, constants)


def _constant(values: FloatArray) -> str:
    """Return what a map with a single value says of itself; nothing for any other."""
    if not is_constant(values):
        return ""
    return f"constant {short(float(values.mean()))}" if values.any() else "all zero"


def block_maxima(values: FloatArray, side: int) -> FloatArray:
    """Replace each value by the one of greatest magnitude in its block of `side` x `side` values.

    >>> block_maxima(np.array([[[1.0, -2.0, 3.0]]]), 2).tolist()
    [[[-2.0, -2.0, 3.0]]]
    """
    if side == 1:
        return values
    _, height, width = values.shape
    return pooled_maxima(values, side).repeat(side, 1).repeat(side, 2)[:, :height, :width]


def pooled_maxima(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the value of greatest magnitude in each block of `side` x `side` values; the last blocks may be smaller.

    >>> pooled_maxima(np.array([[[1.0, -2.0, 3.0]]]), 2).tolist()
    [[[-2.0, 3.0]]]
    """
    count, height, width = values.shape
    rows, columns = -(-height // side), -(-width // side)
    if (rows * side, columns * side) != (height, width):
        values = np.pad(values, ((0, 0), (0, rows * side - height), (0, columns * side - width)))
    lines = values.reshape(count, rows, side, columns * side)  # first down, then across: several times faster than both
    high, low = (own.reshape(count, rows, columns, side) for own in (lines.max(2), lines.min(2)))
    high, low = high.max(3), low.min(3)
    return np.where(high >= -low, high, low)


def _scale_of(contents: list[RowContent], choice: ScaleChoice) -> Scale:
    """Choose the most specific scale that fits all contents, which may differ in kind."""
    values = np.concatenate([content.values.ravel() for content in contents])
    anchors = [content.anchors for content in contents if content.anchors is not None]
    shared, signed = choice.by_row.get(contents[0].label), bool(values.min() < 0)
    limits = None if shared is None or isinstance(shared, str) else _limits(shared)
    if _by_image(contents, choice):
        from_least = _from_least(contents, choice)
        return own_scale(signed=signed and not from_least, from_least=from_least)
    if len(anchors) == len(contents):
        return anchor_scale(np.concatenate(anchors), limits or ((0.0, 1.0) if choice.rule == "fixed" else None))
    if limits is not None:
        return fixed_scale(limits, values)
    if choice.rule == "fixed":
        return unit_scale(values, signed=signed)
    if all(content.attention for content in contents):
        return attention_scale(values)
    limit = choice.limit or (ROBUST if all(content.blocks > 1 for content in contents) else None)
    if all(content.label in choice.from_least for content in contents) and not is_constant(values):
        return least_scale(values)
    return map_scale(values, robust=all(content.fine for content in contents), limit=limit)


def _limits(given: tuple[float, float]) -> tuple[float, float]:
    low, high = given
    if not -np.inf < low < high < np.inf:
        raise InputError(f"limits of a scale are two ascending finite numbers, or a name that rows share; got {given}")
    return low, high


def _enlargement(content: RowContent, size: Grid) -> tuple[str, str]:
    """Return the name of the enlargement, and matplotlib's name for it."""
    if content.anchors is not None:
        return "nearest blocks", "nearest"
    if content.blocks > 1:
        return "pixels", "nearest"
    return ("pixels", photo_interpolation(size)) if content.fine else ("bilinear", "bilinear")


def _check_anchors(label: str, anchors: FloatArray, index: Tensor) -> None:
    if not (len(anchors) and np.isfinite(anchors).all()):
        raise InputError(f"row {label!r} needs at least one anchor, all finite; got {anchors.tolist()}")
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= len(anchors):
        raise InputError(f"row {label!r} has {len(anchors)} anchors, but its cells name anchors {low} to {high}")


def _values(label: str, maps: Tensor, images: int) -> FloatArray:
    if maps.ndim != 3 or len(maps) != images or not maps.numel():
        shape = tuple(maps.shape)
        raise InputError(f"row {label!r} needs one map (rows, columns) for each of {images} images; got shape {shape}")
    broken = maps.isfinite().logical_not().flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise InputError(f"row {label!r} holds NaN or infinite values in images {broken}; leave those images out")
    return maps.detach().cpu().double().numpy()
