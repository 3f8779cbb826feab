"""Backgrounds of the embedded digits: crops of bundled photographs, or synthetic dead leaves."""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.nn import functional

from ibviz.data.config import Background
from ibviz.data.listing import Split
from ibviz.types import Images

Span = tuple[float, float]  # low (included), high (excluded)

SIDE = 48
LUMA = torch.tensor([0.299, 0.587, 0.114])
LEAVES = 64  # per image; on 7 % of the canvas only the first is seen, which covers all of it
_RADII = (3.0, 20.0)  # pixels; less than half the side, as a leaf that crosses an edge continues on the opposite side
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": ("astronaut", "flower.jpg", "stereo_motorcycle", "hubble_deep_field", "retina"),
    "validation": ("rocket", "immunohistochemistry"),
    "test": ("chelsea", "china.jpg", "coffee"),
}
PHOTOGRAPH_HEIGHT = 144  # pixels; crops of 48 to 108 pixels of it are resized to the canvas


class BackgroundKind(NamedTuple):
    """A kind of background, and the sizes of the digits and strokes drawn on it."""

    shape: tuple[int, ...]  # of the uniform random numbers per image
    draw: Callable[[Float64[Tensor, "n *shape"], Split], Images]
    clusters: Callable[[Float64[Tensor, "n *shape"], Split], tuple[str, ...]] | None  # None: independent images
    digit: Span  # height of a digit's 8 rows in pixels, about nine tenths of which are ink
    length: Span  # length of a stroke in pixels
    thickness: Span  # half the width of a stroke in pixels


def leaves(uniform: Float64[Tensor, "n k 8"], split: Split) -> Images:
    """Draw dead leaves: opaque shapes that occlude one another (Lee 2001; as training images Baradad 2021).

    Every second leaf is a rectangle, the others are ellipses. The density of their radii falls with the third power,
    so that the amplitude spectrum falls about as 1/f, like that of photographs (slopes of -1.14 here, -1.26 to -1.34 of
    the bundled photographs). Leaves wrap around the edges of the canvas. A row of `uniform` determines the radius,
    flatness, direction, x, y, hue, saturation and luma of each leaf.

    Returns:
        Images of 48 px in [0, 1]; image i depends on row i of `uniform` alone, and on no split.
    """
    del split
    radius, flatness, direction, x, y, hue, saturation, luma = uniform.unbind(-1)
    smallest, largest = _RADII
    radius = smallest / (1 - radius * (1 - (smallest / largest) ** 2)).sqrt()
    hue = hue[:, :1] + to_range(hue, -0.25, 0.25)  # similar to that of the first leaf
    palette = colours_of_luma(hue.flatten(), 0.5 * saturation.flatten(), to_range(luma.flatten(), 0.25, 0.75)).float()
    top = _topmost(radius, to_range(flatness, 0.5, 1.0), math.pi * direction, torch.stack([x, y]))
    chosen = top.flatten(1).long()[..., None].expand(-1, -1, 3)
    return palette.view(*hue.shape, 3).gather(1, chosen).view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)


def _topmost(
    radius: Float64[Tensor, "n k"],
    flatness: Float64[Tensor, "n k"],
    direction: Float64[Tensor, "n k"],
    place: Float64[Tensor, "2 n k"],
) -> UInt8[Tensor, "n 48 48"]:
    """Index of the last leaf that covers each pixel."""
    half = SIDE / 2
    right, down = (torch.arange(SIDE) + 0.5 - SIDE * place[..., None] + half) % SIDE - half
    cos, sin = ((turn / radius)[..., None] for turn in (direction.cos(), direction.sin()))
    wide = flatness[..., None]
    terms = (cos * right, sin * down, -sin * right / wide, cos * down / wide)
    along_x, along_y, across_x, across_y = (term.float().unbind(1) for term in terms)
    top = torch.zeros(len(radius), SIDE, SIDE, dtype=torch.uint8)
    for leaf in range(1, radius.shape[1]):
        along = along_x[leaf][:, None, :] + along_y[leaf][:, :, None]
        across = across_x[leaf][:, None, :] + across_y[leaf][:, :, None]
        ellipse = leaf % 2 == 0
        reach = along.square_() + across.square_() if ellipse else torch.maximum(along.abs_(), across.abs_())
        top.masked_fill_(reach < 1, leaf)
    return top


def photographs(uniform: Float64[Tensor, "n 5"], split: Split) -> Images:
    """Crop the photographs of a split; a row of `uniform` determines the photograph, x, y, scale and mirroring.

    Returns:
        Images of 48 px in [0, 1].
    """
    panorama, edges = _panorama(split)
    index, half = _photograph_index(uniform, split), to_range(uniform[:, 3], 24.0, 54.0)
    height, width = panorama.shape[-2:]
    left, right = edges[index] + half, edges[index + 1] - half
    x = (left + uniform[:, 1] * (right - left)) * 2 / width - 1
    y = (half + uniform[:, 2] * (height - 2 * half)) * 2 / height - 1
    flip, zero = torch.where(uniform[:, 4] < 0.5, -1, 1), torch.zeros_like(x)
    theta = torch.stack([flip * half * 2 / width, zero, x, zero, half * 2 / height, y], dim=1).view(-1, 2, 3)
    return sample(panorama.expand(len(uniform), -1, -1, -1), theta, "bilinear")


def photograph_names(uniform: Float64[Tensor, "n 5"], split: Split) -> tuple[str, ...]:
    """Name the photograph behind each image: its cluster, since images of one photograph are not independent.

    >>> photograph_names(torch.tensor([[0.5, 0, 0, 0, 0]], dtype=torch.float64), "test")
    ('china.jpg',)
    """
    return tuple(PHOTOGRAPHS[split][index] for index in _photograph_index(uniform, split).tolist())


def _photograph_index(uniform: Float64[Tensor, "n 5"], split: Split) -> Tensor:
    return (uniform[:, 0] * len(PHOTOGRAPHS[split])).long()


@cache  # the result is small, and decoding the photographs takes a second
def _panorama(split: Split) -> tuple[Images, Float64[Tensor, " edges"]]:
    """Return the photographs of a split side by side, and the column at which each begins."""
    parts = [_photograph(name) for name in PHOTOGRAPHS[split]]
    edges = torch.tensor([0, *(part.shape[-1] for part in parts)], dtype=torch.float64).cumsum(0)
    return torch.cat(parts, dim=-1), edges


def _photograph(name: str) -> Images:
    photograph = torch.from_numpy(np.array(_bundled(name)())[..., :3]).permute(2, 0, 1)[None].float() / 255
    size = (PHOTOGRAPH_HEIGHT, round(PHOTOGRAPH_HEIGHT * photograph.shape[3] / photograph.shape[2]))
    return functional.interpolate(photograph, size, mode="bilinear", antialias=True)


def _bundled(name: str) -> Callable[[], np.ndarray]:
    from skimage import data
    from sklearn.datasets import load_sample_image

    if name == "stereo_motorcycle":
        return lambda: data.stereo_motorcycle()[0]
    return (lambda: load_sample_image(name)) if name.endswith(".jpg") else getattr(data, name)


def to_range(uniform: Float64[Tensor, "*n"], low: float, high: float) -> Float64[Tensor, "*n"]:
    """Map uniform numbers from [0, 1) to [low, high)."""
    return low + (high - low) * uniform


def sample(source: Tensor, theta: Float64[Tensor, "n 2 3"], mode: str) -> Tensor:
    """Sample a canvas from `source` under the affine transforms `theta`."""
    grid = functional.affine_grid(theta.float(), [len(theta), 1, SIDE, SIDE], align_corners=False)
    return functional.grid_sample(source, grid, mode=mode, align_corners=False)


def colours_of_luma(
    hue: Float64[Tensor, " n"], saturation: Float64[Tensor, " n"], luma: Float64[Tensor, " n"]
) -> Float64[Tensor, "n 3"]:
    """Return RGB colours of exactly this luma: the pure hue mixed with white or black, then with grey."""
    pure = (((hue[:, None] * 6 + torch.tensor([0, 4, 2])) % 6 - 3).abs() - 1).clamp(0, 1)
    own, luma = (pure * LUMA).sum(1, keepdim=True), luma[:, None]
    mixed = torch.where(luma < own, pure * luma / own, 1 - (1 - pure) * (1 - luma) / (1 - own))
    return luma + saturation[:, None] * (mixed - luma)


BACKGROUNDS: dict[Background, BackgroundKind] = {
    "photographs": BackgroundKind((5,), photographs, photograph_names, (18.0, 27.0), (9.0, 18.0), (1.2, 2.0)),
    "leaves": BackgroundKind((LEAVES, 8), leaves, None, (14.0, 20.0), (7.0, 14.0), (0.9, 1.5)),
}
