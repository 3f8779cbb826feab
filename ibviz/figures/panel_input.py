"""Images, maps and outlines of a panel as they are given, checked and, if they are large, made smaller."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ibviz.arrays import as_tensor
from ibviz.errors import InputError
from ibviz.figures.drawing import Look
from ibviz.figures.panel_rows import RowMaps
from ibviz.types import AttentionMap, Boxes, Given, Grid, Images, Masks

# Pixels of a photograph. The largest cell of a panel shows 800 at 300 dpi on slides and at 600 dpi on paper.
LARGEST_SIDE = 1000


def panel_images(given: Given, beside: Mapping[str, Sequence[str] | Tensor | None]) -> Images:
    """Return images as a tensor; raise `InputError` for anything but `(b, channels, h, w)` in [0, 1].

    Args:
        given: The images, a tensor or a NumPy array.
        beside: Captions, boxes and masks, of which there must be as many as images.
    """
    images = as_tensor(given, "images")
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images must be a batch (b, channels, h, w) of floating-point numbers in [0, 1]; got {images.dtype} of "
            f"shape {tuple(images.shape)}; of bytes, ibviz.data.to_float(images), of one image, images[None]"
        )
    if not images.numel():
        raise InputError("no images; a panel needs at least one")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN compares false
        last = "; channels come before rows: images.transpose(0, 3, 1, 2)" if images.shape[3] <= 4 else ""
        raise InputError(
            f"images must be in [0, 1], before any normalisation; got values from {low:.3g} to {high:.3g}{last}"
        )
    for name, own in beside.items():
        if own is not None and len(own) != len(images):
            raise InputError(f"{name} are for {len(own)} images, but {len(images)} images are given")
    return images


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


def panel_maps(maps: Mapping[str, RowMaps | Given]) -> dict[str, RowMaps]:
    """Return the maps of each row as tensors or attention."""
    return {
        label: given if isinstance(given, AttentionMap) else as_tensor(given, f"the maps of {label!r}")
        for label, given in maps.items()
    }
