"""Pointing game (Zhang 2018): does the maximum of a map lie on the object? With ties, how often would it?"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ibviz.errors import InputError
from ibviz.metrics.grid import Enlargement, enlarged, finite, one_each
from ibviz.types import Grid, Labels, Maps, Masks, Scores

LESS_THAN_15 = 14.98  # squared distances between pixels are whole numbers, and 14.98 squared lies above 224
PIXELS_AT_ONCE = 2**22  # bounds memory, changes no number


class Pointing(NamedTuple):
    """Per image; NaN in all fields where the region is empty, for the caller to exclude and count."""

    hit: Scores  # share of the tied maximal pixels that hit: the expectation of a fair choice among them
    best: Scores  # 1 if any of them hits
    worst: Scores  # 1 if all of them hit
    chance: Scores  # what a uniformly drawn pixel would score


def pointing_game(
    maps: Maps, regions: Masks, *, tolerance: float | None = None, enlargement: Enlargement = "nearest"
) -> Pointing:
    """Hits of each map's maximum, enlarged to the region's size, within `tolerance` of the region.

    Tolerance is a Euclidean distance in pixels between pixel centres, by default 15 px at a shorter side of 224, scaled
    to the image; 0 asks for the region itself. A map finer than the image is averaged into pixels.

    >>> box = torch.tensor([[[True, False, False, False]]])
    >>> pointing_game(torch.tensor([[[0.7, 0.2]]]), box, tolerance=0.0)
    Pointing(hit=tensor([0.5000]), best=tensor([1.]), worst=tensor([0.]), chance=tensor([0.2500]))
    """
    one_each(maps, regions, "the regions")
    size = (regions.shape[1], regions.shape[2])
    distance = scaled_tolerance(size) if tolerance is None else tolerance
    at_once = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    pairs = zip(finite(maps).split(at_once), regions.split(at_once), strict=True)
    parts = [_pointed(enlarged(some, size, enlargement), there, within(there, distance)) for some, there in pairs]
    return Pointing(*(torch.cat(field) for field in zip(*parts, strict=True)))


def scaled_tolerance(size: Grid) -> float:
    """15 pixels at a shorter side of 224, in proportion.

    >>> scaled_tolerance((448, 224))
    15.0
    """
    return 15 * min(size) / 224


def within(regions: Masks, distance: float) -> Masks:
    """Pixels at most `distance` pixels from the region: a dilation by a disk, exact for any size and radius.

    >>> within(torch.tensor([[[True, False, False]]]), 1.0)
    tensor([[[ True,  True, False]]])
    """
    if not 0 <= distance < math.inf:
        raise InputError(f"tolerance must be 0 or more pixels; got {distance}")
    reach = min(int(distance), regions.shape[1] - 1)
    rows = pad(_squared_row_distance(regions), (0, 0, reach, reach), value=math.inf)
    near = torch.zeros_like(regions)
    for shift in range(-reach, reach + 1):
        near |= rows[:, reach + shift : reach + shift + regions.shape[1]] <= distance**2 - shift**2
    return near


def _squared_row_distance(regions: Masks) -> Float[Tensor, "b h w"]:
    columns = torch.arange(regions.shape[2], device=regions.device, dtype=torch.float32)
    left = torch.where(regions, columns, -math.inf).cummax(2).values
    right = torch.where(regions, columns, math.inf).flip(2).cummin(2).values.flip(2)
    return torch.minimum(columns - left, right - columns).square()


def torchray_pointing_game(maps: Maps, regions: Masks) -> Pointing:
    """TorchRay's rule: bilinear enlargement, the first maximum in row-major order, less than 15 px from the region.

    The 15 pixels are not scaled, so that on small images nearly every point hits. TorchRay reports the `macro` of
    `averages`, over images and the classes in them.

    >>> torchray_pointing_game(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[True, False]]])).hit
    tensor([1.])
    """
    one_each(maps, regions, "the regions")
    size = (regions.shape[1], regions.shape[2])
    values = enlarged(maps, size, "bilinear").flatten(1)
    first = torch.nn.functional.one_hot(values.argmax(1), values.shape[1]).float().unflatten(1, size)
    return _pointed(first, regions, within(regions, LESS_THAN_15))


# By the names of `ibviz.metrics.PRESETS`, the rules of curves; TorchRay has a pointing game alone.
POINTING_PRESETS: dict[str, Callable[[Maps, Masks], Pointing]] = {
    "default": pointing_game,
    "torchray": torchray_pointing_game,
}


class Averages(NamedTuple):
    """Means over images with a defined value; NaN where there is none."""

    micro: float  # over images
    macro: float  # over classes, of the mean of each
    n: int
    excluded: int  # images whose value is NaN


def averages(values: Scores, classes: Labels) -> Averages:
    """Mean over images and over classes of a per-image value, such as `pointing_game(...).hit`; NaN is left out.

    >>> averages(torch.tensor([1.0, 1.0, 0.0, math.nan]), torch.tensor([0, 0, 1, 1]))
    Averages(micro=0.6666666666666666, macro=0.5, n=3, excluded=1)
    """
    kept = ~values.isnan()
    found, classes = values[kept].double(), classes[kept]
    present = [found[classes == one].mean() for one in classes.unique()]
    macro = float(torch.stack(present).mean()) if present else math.nan
    return Averages(float(found.mean()), macro, len(found), len(values) - len(found))


def _pointed(values: Maps, regions: Masks, near: Masks) -> Pointing:
    values = values.flatten(1)
    top = values == values.amax(1, keepdim=True)
    hits = top & near.flatten(1)
    fields = (
        hits.sum(1) / top.sum(1),
        hits.any(1).float(),
        (hits == top).all(1).float(),
        near.flatten(1).float().mean(1),
    )
    empty = ~regions.flatten(1).any(1)
    return Pointing(*(field.masked_fill(empty, math.nan) for field in fields))
