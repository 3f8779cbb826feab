"""Pointing game (Zhang 2018): a hit if the maximum of a map lies on the object, its expectation if pixels are tied."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ibviz.errors import InputError
from ibviz.metrics.grid import Enlargement, check_one_each, enlarged, finite
from ibviz.types import Grid, Labels, Maps, Masks, Scores

LESS_THAN_15 = 14.98  # stands for "< 15": squared pixel distances are integers, and 224 < 14.98 squared < 225
PIXELS_AT_ONCE = 2**22  # pixels of the maps enlarged at once; bounds memory, changes no number


class Pointing(NamedTuple):
    """Hits per image; all fields are NaN if the region is empty."""

    hit: Scores  # fraction of the tied maximal pixels that hit: the expectation of a random choice among them
    best: Scores  # 1 if any of them hits, otherwise 0
    worst: Scores  # 1 if all of them hit, otherwise 0
    chance: Scores  # expected hit of a pixel drawn at random from the image


def pointing_game(
    maps: Maps, regions: Masks, *, tolerance: float | None = None, enlargement: Enlargement = "nearest"
) -> Pointing:
    """Score a hit if the maximum of a map lies within `tolerance` of the region.

    Args:
        maps: One map per image, enlarged to the region's size; a finer map is averaged into pixels.
        regions: Pixels of the object, one mask per image.
        tolerance: Euclidean distance between pixel centres in pixels; by default 15 at a shorter side of 224, scaled
            to the image. With 0 the maximum must lie on the region itself.
        enlargement: Interpolation from the map to pixels.

    >>> box = torch.tensor([[[True, False, False, False]]])
    >>> pointing_game(torch.tensor([[[0.7, 0.2]]]), box, tolerance=0.0)
    Pointing(hit=tensor([0.5000]), best=tensor([1.]), worst=tensor([0.]), chance=tensor([0.2500]))
    """
    check_one_each(maps, regions, "the regions")
    size = (regions.shape[1], regions.shape[2])
    distance = scaled_tolerance(size) if tolerance is None else tolerance
    at_once = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    pairs = zip(finite(maps).split(at_once), regions.split(at_once), strict=True)
    parts = [_hits(enlarged(batch, size, enlargement), region, within(region, distance)) for batch, region in pairs]
    return Pointing(*(torch.cat(field) for field in zip(*parts, strict=True)))


def scaled_tolerance(size: Grid) -> float:
    """Return the default tolerance in pixels: 15 at a shorter side of 224, scaled to the image.

    >>> scaled_tolerance((448, 224))
    15.0
    """
    return 15 * min(size) / 224


def within(regions: Masks, distance: float) -> Masks:
    """Dilate regions by a disk with a radius of `distance` pixels, exactly for any size and radius.

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
    """Score a hit by TorchRay's rule: the first bilinear maximum in row-major order, less than 15 px from the region.

    The 15 pixels are not scaled to the image, so that nearly every point of a small image hits. TorchRay reports the
    `macro` of `averages`.

    >>> torchray_pointing_game(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[True, False]]])).hit
    tensor([1.])
    """
    check_one_each(maps, regions, "the regions")
    size = (regions.shape[1], regions.shape[2])
    values = enlarged(maps, size, "bilinear").flatten(1)
    first = torch.nn.functional.one_hot(values.argmax(1), values.shape[1]).float().unflatten(1, size)
    return _hits(first, regions, within(regions, LESS_THAN_15))


# Rules of the pointing game by name, as `ibviz.metrics.PRESETS` holds those of curves; TorchRay has no curves.
POINTING_PRESETS: dict[str, Callable[[Maps, Masks], Pointing]] = {
    "default": pointing_game,
    "torchray": torchray_pointing_game,
}


class Averages(NamedTuple):
    """Means over images with a defined value; NaN if there are none."""

    micro: float  # mean over images
    macro: float  # mean over classes of each class's mean
    n: int  # images with a value
    excluded: int  # images whose value is NaN


def averages(values: Scores, classes: Labels) -> Averages:
    """Average a value per image, such as `pointing_game(...).hit`, over images and over classes; NaN is left out.

    >>> averages(torch.tensor([1.0, 1.0, 0.0, math.nan]), torch.tensor([0, 0, 1, 1]))
    Averages(micro=0.6666666666666666, macro=0.5, n=3, excluded=1)
    """
    kept = ~values.isnan()
    defined, classes = values[kept].double(), classes[kept]
    class_means = [defined[classes == label].mean() for label in classes.unique()]
    macro = float(torch.stack(class_means).mean()) if class_means else math.nan
    return Averages(float(defined.mean()), macro, len(defined), len(values) - len(defined))


def _hits(values: Maps, regions: Masks, near: Masks) -> Pointing:
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
