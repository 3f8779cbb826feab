"""From what is given to what is drawn: checked, on the CPU, with a scale and a named enlargement."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ibviz.errors import InputError
from ibviz.figures.overlay import photo_interpolation
from ibviz.figures.scale import Scale, Values, anchor_scale, attention_scale, map_scale
from ibviz.types import AttentionMap, Boxes, Grid, Images, Masks

# `Maps`, but each row has its own grid, and a wrong batch is answered with the name of the row.
RowMaps: TypeAlias = Float[Tensor, "_ _ _"] | AttentionMap

TIMES = "\u00d7"


class Row(NamedTuple):
    """One method, ready to draw: values `(b, gh, gw)`, their scale and how they are enlarged."""

    label: str
    values: Values
    scale: Scale
    enlargement: str
    interpolation: str
    anchors: list[float] | None = None

    @property
    def note(self) -> str:
        """What stands in small type beside the label."""
        grid = TIMES.join(map(str, self.values.shape[1:]))
        return ", ".join([self.enlargement.removesuffix(" blocks"), grid, *self.scale.remarks])

    def account(self) -> dict[str, Any]:
        """Facts for the sidecar."""
        return {
            "label": self.label,
            "grid": self.values.shape[1:],
            "enlargement": self.enlargement,
            "quantised": self.anchors is not None,
            "anchors": self.anchors,
            **self.scale.account(),
        }


def check_images(images: Images, beside: Mapping[str, Sequence[str] | Boxes | Masks | None]) -> None:
    """Refuse images outside [0, 1] and captions, boxes or masks of another number."""
    if not len(images):
        raise InputError("no images; a panel needs at least one")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also where they are NaN
        raise InputError(f"images must be in [0, 1], before any normalisation; got values from {low:.3g} to {high:.3g}")
    for name, given in beside.items():
        if given is not None and len(given) != len(images):
            raise InputError(f"{name} are for {len(given)} images, but {len(images)} images are given")


def check_boxes(boxes: Boxes, size: Grid) -> None:
    """Refuse boxes that are empty or leave an image of `size`, as those of an uncropped image do; NaN is no box."""
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


def row_of(label: str, given: RowMaps, images: int, size: Grid) -> Row:
    """Choose scale and enlargement: anchors in nearest blocks, pixels as they are, the rest bilinear."""
    if not isinstance(given, AttentionMap):
        values = _values(label, given, images)
        return _continuous(label, values, map_scale(values, robust=_fine(values, size)), size)
    if given.index is None or given.anchors is None:
        values = _values(label, given.mean, images)
        return _continuous(label, values, attention_scale(values), size)
    anchors = given.anchors.detach().cpu().double().numpy()
    _check_anchors(label, anchors, given.index)
    values = _values(label, given.values(), images)
    return Row(label, values, anchor_scale(anchors), "nearest blocks", "nearest", anchors.tolist())


def _continuous(label: str, values: Values, scale: Scale, size: Grid) -> Row:
    if _fine(values, size):
        return Row(label, values, scale, "pixels", photo_interpolation(size))
    return Row(label, values, scale, "bilinear", "bilinear")


def _fine(values: Values, size: Grid) -> bool:
    return values.shape[1] >= size[0] and values.shape[2] >= size[1]


def _check_anchors(label: str, anchors: Values, index: Tensor) -> None:
    if not (len(anchors) and np.isfinite(anchors).all()):
        raise InputError(f"row {label!r} needs at least one anchor, all finite; got {anchors.tolist()}")
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= len(anchors):
        raise InputError(f"row {label!r} has {len(anchors)} anchors, but its cells name anchors {low} to {high}")


def _values(label: str, maps: Tensor, images: int) -> Values:
    if maps.ndim != 3 or len(maps) != images or not maps.numel():
        shape = tuple(maps.shape)
        raise InputError(f"row {label!r} needs one map (rows, columns) for each of {images} images; got shape {shape}")
    broken = maps.isfinite().logical_not().flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise InputError(f"row {label!r} holds NaN or infinite values in images {broken}; leave those images out")
    return maps.detach().cpu().double().numpy()
