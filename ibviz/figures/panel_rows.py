"""Rows of a panel: checked maps on the CPU, each with its scale and enlargement."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ibviz.errors import InputError, unknown
from ibviz.figures.drawing import Look, photo_interpolation
from ibviz.figures.scale import FloatArray, Scale, anchor_scale, attention_scale, fixed_scale, map_scale
from ibviz.types import AttentionMap, Boxes, Grid, Images, Masks

# Not `Maps`: each row has its own grid, and the error of a wrong batch size names the row.
RowMaps: TypeAlias = Float[Tensor, "_ _ _"] | AttentionMap
Shared: TypeAlias = str | tuple[float, float]  # name of a shared scale, or its limits

# Pixels of a photograph. The largest cell of a panel shows 800 at 300 dpi on slides and at 600 dpi on paper.
LARGEST_SIDE = 1000
TIMES = "\u00d7"


class RowContent(NamedTuple):
    """Contents of a row, before its scale is chosen."""

    label: str
    values: FloatArray  # (b, gh, gw)
    attention: bool  # attention, otherwise any other map
    fine: bool  # the grid is at least as fine as the photographs
    anchors: FloatArray | None = None  # of quantised attention


class PanelRow(NamedTuple):
    """Row of one method, ready to draw."""

    content: RowContent
    scale: Scale
    enlargement: str  # as the note names it
    interpolation: str  # matplotlib's name

    @property
    def note(self) -> str:
        """Note in small type beside the label."""
        grid = TIMES.join(map(str, self.content.values.shape[1:]))
        return ", ".join([self.enlargement.removesuffix(" blocks"), grid, *self.scale.remarks])

    def account(self) -> dict[str, Any]:
        """Return the facts of the row for the sidecar."""
        anchors = self.content.anchors
        return {
            "label": self.content.label,
            "grid": self.content.values.shape[1:],
            "enlargement": self.enlargement,
            "quantised": anchors is not None,
            "anchors": None if anchors is None else anchors.tolist(),
            **self.scale.account(),
        }


class Shown(NamedTuple):
    """Images, maps and outlines as they are drawn."""

    images: Images
    maps: dict[str, RowMaps]
    boxes: Boxes | None
    masks: Masks | None
    original_size: Grid | None  # of images that were made smaller
    channels: tuple[int, ...] | None = None  # drawn channels, if images have neither one nor three

    @property
    def size(self) -> Grid:
        """Height and width in pixels."""
        return self.images.shape[2], self.images.shape[3]


def downscaled(shown: Shown) -> Shown:
    """Downscale images with a side over `LARGEST_SIDE`, with the maps, boxes and masks on them."""
    height, width = shown.size
    share = LARGEST_SIDE / max(shown.size)
    if share >= 1:
        return shown
    size = max(1, round(share * height)), max(1, round(share * width))
    ratio = torch.tensor([size[1] / width, size[0] / height] * 2)
    return Shown(
        images=(_smaller(shown.images, size).clamp(0, 1) * 255).round() / 255,  # stored in 8 bits
        maps={label: _smaller_map(given, size) for label, given in shown.maps.items()},
        boxes=None if shown.boxes is None else shown.boxes * ratio.to(shown.boxes),
        masks=None if shown.masks is None else _smaller(shown.masks[:, None].float(), size)[:, 0] >= 0.5,
        original_size=shown.size,
        channels=shown.channels,
    )


def as_rgb(images: Images, channels: Sequence[int] | None) -> Float[Tensor, "b 3 h w"]:
    """Select `channels` of images as red, green and blue, or one channel as grey.

    >>> as_rgb(torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1, 1), (3, 2, 0)).flatten()
    tensor([0.4000, 0.3000, 0.1000])
    """
    count = images.shape[1]
    chosen = list(range(count)) if channels is None else list(channels)
    if len(chosen) not in (1, 3) or not all(0 <= channel < count for channel in chosen):
        raise InputError(
            f"images have {count} channels; say which three of 0 to {count - 1} are drawn as red, green "
            f"and blue, or which one as grey: channels=(2, 1, 0); got {channels}"
        )
    return images[:, chosen].expand(-1, 3, -1, -1)


def _smaller(images: Tensor, size: Grid) -> Tensor:
    return interpolate(images, size, mode="bilinear", antialias=True)


def _smaller_map(given: RowMaps, size: Grid) -> RowMaps:
    """Downscale a map finer than the downscaled images; leave coarser maps as they are."""
    if isinstance(given, AttentionMap) or given.shape[1] <= size[0] or given.shape[2] <= size[1]:
        return given
    return _smaller(given[:, None], size)[:, 0]


def check_look(look: Look) -> Look:
    """Raise `InputError` for fractions outside 0 to 1."""
    if not 0 <= look.blend <= 1:
        raise InputError(f"blend is the share of the map in an overlay, from 0 to 1; got {look.blend}")
    if not all(0 <= share <= 1 for share in look.contours):
        raise InputError(f"contours are shares of the scale, from 0 to 1; got {list(look.contours)}")
    return look


def check_panel_images(images: Images, beside: Mapping[str, Sequence[str] | Boxes | Masks | None]) -> None:
    """Raise `InputError` for images outside [0, 1] and for another number of captions, boxes or masks."""
    if not len(images):
        raise InputError("no images; a panel needs at least one")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN compares false
        raise InputError(f"images must be in [0, 1], before any normalisation; got values from {low:.3g} to {high:.3g}")
    for name, given in beside.items():
        if given is not None and len(given) != len(images):
            raise InputError(f"{name} are for {len(given)} images, but {len(images)} images are given")


def check_boxes(boxes: Boxes, size: Grid) -> None:
    """Raise `InputError` for boxes that are empty or exceed an image of `size`; a row of NaN means no box."""
    height, width = size
    x0, y0, x1, y1 = boxes.unbind(1)
    right = (x0 >= -1) & (x0 < x1) & (x1 <= width + 1) & (y0 >= -1) & (y0 < y1) & (y1 <= height + 1)  # 1: rounding
    wrong = (right | boxes.isnan().all(1)).logical_not().nonzero().flatten().tolist()
    if wrong:
        first = boxes[wrong[0]].tolist()
        raise InputError(
            f"boxes must be x0, y0, x1, y1 in pixels of the image as drawn, {width} wide and {height} high; "
            f"images {wrong} differ, the first with {first}"
        )


def rows_of(maps: Mapping[str, RowMaps], images: int, size: Grid, scales: Mapping[str, Shared]) -> list[PanelRow]:
    """Choose scale and enlargement of each row: nearest for anchors, none for pixels, bilinear for the rest.

    Args:
        maps: Maps or attention by row.
        images: Number of images.
        size: Height and width of the images in pixels.
        scales: Name or limits of a scale by row; rows with the same entry share it, rows without one have their own.
    """
    for label in scales:
        if label not in maps:
            raise unknown("row of scales", label, list(maps))
    contents = [_content(label, given, images, size) for label, given in maps.items()]
    groups: dict[object, list[RowContent]] = {}
    for content in contents:
        groups.setdefault(_group(content, scales), []).append(content)
    chosen = {group: _scale_of(members, scales.get(members[0].label)) for group, members in groups.items()}
    return [PanelRow(content, chosen[_group(content, scales)], *_enlargement(content, size)) for content in contents]


def _group(content: RowContent, scales: Mapping[str, Shared]) -> object:
    shared = scales.get(content.label)
    return ("own", content.label) if shared is None else ("shared", shared)


def _content(label: str, given: RowMaps, images: int, size: Grid) -> RowContent:
    attention, anchors = isinstance(given, AttentionMap), None
    maps = given.mean if isinstance(given, AttentionMap) else given
    if isinstance(given, AttentionMap) and given.index is not None and given.anchors is not None:
        anchors = given.anchors.detach().cpu().double().numpy()
        _check_anchors(label, anchors, given.index)
        maps = given.values()
    values = _values(label, maps, images)
    return RowContent(label, values, attention, values.shape[1] >= size[0] and values.shape[2] >= size[1], anchors)


def _scale_of(contents: list[RowContent], shared: Shared | None) -> Scale:
    """Choose the most specific scale that fits all contents, which may differ in kind."""
    values = np.concatenate([content.values.ravel() for content in contents])
    anchors = [content.anchors for content in contents if content.anchors is not None]
    limits = None if shared is None or isinstance(shared, str) else _limits(shared)
    if len(anchors) == len(contents):
        return anchor_scale(np.concatenate(anchors), limits)
    if limits is not None:
        return fixed_scale(limits, values)
    if all(content.attention for content in contents):
        return attention_scale(values)
    return map_scale(values, robust=all(content.fine for content in contents))


def _limits(given: tuple[float, float]) -> tuple[float, float]:
    low, high = given
    if not -np.inf < low < high < np.inf:
        raise InputError(f"limits of a scale are two ascending finite numbers, or a name that rows share; got {given}")
    return low, high


def _enlargement(content: RowContent, size: Grid) -> tuple[str, str]:
    """Return the name of the enlargement, and matplotlib's name for it."""
    if content.anchors is not None:
        return "nearest blocks", "nearest"
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
