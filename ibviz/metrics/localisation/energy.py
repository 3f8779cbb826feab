"""Metrics of the part of a map that lies on the object: energy pointing game (Wang 2020), IoU, AUROC, precision."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ibviz.errors import InputError
from ibviz.metrics.grid import Enlargement, cell_areas, check_one_each, enlarged, finite, on_grid
from ibviz.types import Grid, Maps, Masks, Scores


class Energy(NamedTuple):
    """Share of a map that lies on the object, per image.

    All fields are NaN if the region is empty, two if the map has no positive value.
    """

    energy: Scores  # fraction of the map's positive mass that lies on the region
    chance: Scores  # fraction of the image that the region covers: the energy of a uniform map
    normalised: Scores  # (energy - chance) / (1 - chance): 0 for a uniform map, 1 for all mass inside


def energy_pointing_game(maps: Maps, regions: Masks, *, enlargement: Enlargement = "nearest") -> Energy:
    """Compute the fraction of each map's positive mass that lies on the region; higher is better.

    A region is the union of an image's boxes; for single boxes, repeat the map. `normalised` is NaN if the region fills
    the image.

    >>> box = torch.tensor([[[True, True, False, False]]])
    >>> energy_pointing_game(torch.tensor([[[0.6, 0.2]]]), box)
    Energy(energy=tensor([0.7500]), chance=tensor([0.5000]), normalised=tensor([0.5000]))
    """
    check_one_each(maps, regions, "the regions")
    mass = enlarged(maps, (regions.shape[1], regions.shape[2]), enlargement).clamp(min=0).flatten(1)
    inside = regions.flatten(1)
    mass = mass / mass.amax(1, keepdim=True)  # so that no sum overflows; 0 / 0 is NaN, as wanted
    energy = (mass * inside).sum(1) / mass.sum(1)
    chance = inside.float().mean(1)
    normalised = torch.where(chance < 1, (energy - chance) / (1 - chance), math.nan)
    return Energy(*(field.masked_fill(~inside.any(1), math.nan) for field in (energy, chance, normalised)))


def iou_at_quantile(maps: Maps, regions: Masks, *, quantile: float, enlargement: Enlargement = "nearest") -> Scores:
    """Intersection over union of the region with the pixels at or above the map's `quantile`, in [0, 1].

    Pixels tied with the quantile count as above it, so the value of a uniform map is the region's fraction of the
    image.

    Args:
        maps: One map per image.
        regions: Pixels of the object, one mask per image; NaN is returned for an empty one.
        quantile: Fraction of the map's pixels below the cut, in [0, 1].
        enlargement: Interpolation from the map to pixels.

    >>> box = torch.tensor([[[True, False, False, False]]])
    >>> iou_at_quantile(torch.tensor([[[0.9, 0.8, 0.1, 0.2]]]), box, quantile=0.5)
    tensor([0.5000])
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile must be in [0, 1]; got {quantile}")
    check_one_each(maps, regions, "the regions")
    values = enlarged(maps, (regions.shape[1], regions.shape[2]), enlargement).flatten(1)
    rank = min(values.shape[1] - 1, math.ceil(quantile * values.shape[1]))
    above, inside = values >= values.sort(1).values[:, rank, None], regions.flatten(1)
    iou = (above & inside).sum(1) / (above | inside).sum(1)
    return iou.masked_fill(~inside.any(1), math.nan)


def auroc(maps: Maps, regions: Masks, *, enlargement: Enlargement = "nearest") -> Scores:
    """Area under the ROC curve of each map as a detector of the region's pixels, in [0, 1].

    This is the probability that a pixel inside the region has a higher value than one outside, with ties counted half:
    0.5 for a uniform map, 1 if all pixels inside are higher. Unlike the pointing game, it uses the order of all pixels.
    The map is enlarged to the region's size; a finer map is averaged into pixels. NaN if the region is empty or fills
    the image.

    >>> auroc(torch.tensor([[[0.9, 0.5, 0.5, 0.1]]]), torch.tensor([[[True, True, False, False]]]))
    tensor([0.8750])
    """
    check_one_each(maps, regions, "the regions")
    size = (regions.shape[1], regions.shape[2])
    if enlargement == "bilinear" or maps.shape[1] > size[0] or maps.shape[2] > size[1]:
        maps = enlarged(maps, size, enlargement)
    areas, covered = _covered(regions, (maps.shape[1], maps.shape[2]))
    ordered, order = finite(maps).flatten(1).sort(1)
    inside = covered.gather(1, order).double()
    outside = areas[order].double() - inside
    below = torch.nn.functional.pad(outside.cumsum(1), (1, 0))  # pixels outside the region in lower-ranked cells
    first, after = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))
    wins = (inside * (below.gather(1, first) + below.gather(1, after)) / 2).sum(1)  # Mann and Whitney 1947
    return (wins / (inside.sum(1) * outside.sum(1))).float()  # 0 / 0 is NaN, as wanted


def top_cell_precision(maps: Maps, regions: Masks, *, cells: int = 1) -> Scores:
    """Fraction of the pixels of a map's `cells` highest cells that lie on the region; NaN for an empty region.

    If cells are tied, this is the expected number of pixels on the region over the expected number of pixels; with
    cells of one size, the expected fraction.

    >>> top_cell_precision(torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[True, False, False, False]]]))
    tensor([0.5000])
    """
    check_one_each(maps, regions, "the regions")
    values, grid = finite(maps).flatten(1), (maps.shape[1], maps.shape[2])
    if not 1 <= cells <= values.shape[1]:
        raise InputError(f"cells must be 1 to {values.shape[1]}, the cells of the map; got {cells}")
    last = values.topk(cells, dim=1).values[:, -1:]
    above, tied = values > last, values == last
    chosen = above + tied * ((cells - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True))
    areas, covered = _covered(regions, grid)
    precision = (chosen * covered).sum(1) / (chosen * areas).sum(1)
    return precision.masked_fill(~regions.flatten(1).any(1), math.nan)


def _covered(regions: Masks, grid: Grid) -> tuple[Float[Tensor, " cells"], Float[Tensor, "b cells"]]:
    """Count the pixels of each cell, and those of them on the region."""
    size = (regions.shape[1], regions.shape[2])
    areas = cell_areas(grid, size).to(regions.device)
    cell = on_grid(torch.arange(len(areas), device=regions.device).view(1, *grid).float(), size).long().flatten()
    covered = torch.zeros(len(regions), len(areas), device=regions.device)
    return areas.float(), covered.index_add_(1, cell, regions.flatten(1).float())
