"""Energy pointing game (Wang 2020), and what else can be said of how much of a map lies on the object."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ibviz.errors import InputError
from ibviz.metrics.grid import Enlargement, cell_areas, enlarged, finite, on_grid, one_each
from ibviz.types import Grid, Maps, Masks, Scores


class Energy(NamedTuple):
    """Per image; NaN in all fields where the region is empty, and in two where a map has no positive value."""

    energy: Scores  # share of the map's positive mass that lies on the region
    chance: Scores  # the region's share of the image: the energy of a uniform map
    normalised: Scores  # (energy - chance) / (1 - chance): 0 for a uniform map, 1 for all mass inside


def energy_pointing_game(maps: Maps, regions: Masks, *, enlargement: Enlargement = "nearest") -> Energy:
    """Share of each map's mass on the region, negative values counted as 0; higher is better.

    Regions are the union of an image's boxes; for single boxes, give a map once for each. `normalised` is NaN where the
    region fills the image.

    >>> box = torch.tensor([[[True, True, False, False]]])
    >>> energy_pointing_game(torch.tensor([[[0.6, 0.2]]]), box)
    Energy(energy=tensor([0.7500]), chance=tensor([0.5000]), normalised=tensor([0.5000]))
    """
    one_each(maps, regions, "the regions")
    mass = enlarged(maps, (regions.shape[1], regions.shape[2]), enlargement).clamp(min=0).flatten(1)
    inside = regions.flatten(1)
    mass = mass / mass.amax(1, keepdim=True)  # 0 / 0 is NaN, as wanted; and no sum overflows
    energy = (mass * inside).sum(1) / mass.sum(1)
    chance = inside.float().mean(1)
    normalised = torch.where(chance < 1, (energy - chance) / (1 - chance), math.nan)
    return Energy(*(field.masked_fill(~inside.any(1), math.nan) for field in (energy, chance, normalised)))


def iou_at_quantile(maps: Maps, regions: Masks, *, quantile: float, enlargement: Enlargement = "nearest") -> Scores:
    """Intersection over union of the region with the pixels at or above the map's `quantile`; NaN for an empty region.

    All pixels tied with the quantile are taken, so a uniform map takes the image and scores the region's share.

    >>> box = torch.tensor([[[True, False, False, False]]])
    >>> iou_at_quantile(torch.tensor([[[0.9, 0.8, 0.1, 0.2]]]), box, quantile=0.5)
    tensor([0.5000])
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile must be in [0, 1]; got {quantile}")
    one_each(maps, regions, "the regions")
    values = enlarged(maps, (regions.shape[1], regions.shape[2]), enlargement).flatten(1)
    place = min(values.shape[1] - 1, math.ceil(quantile * values.shape[1]))
    taken, inside = values >= values.sort(1).values[:, place, None], regions.flatten(1)
    ratio = (taken & inside).sum(1) / (taken | inside).sum(1)
    return ratio.masked_fill(~inside.any(1), math.nan)


def auroc(maps: Maps, regions: Masks) -> Scores:
    """Return the chance that a pixel of the region has a higher value than one outside, ties counted half, in [0, 1].

    It is the area under the ROC curve of the map as a detector of the region, for each image: 0.5 for a uniform map, 1
    if every pixel of the region is above every other. Unlike the pointing game it looks at the whole order. A map finer
    than the image is averaged into pixels first. NaN for a region that is empty or fills the image.

    >>> auroc(torch.tensor([[[0.9, 0.5, 0.5, 0.1]]]), torch.tensor([[[True, True, False, False]]]))
    tensor([0.8750])
    """
    one_each(maps, regions, "the regions")
    size = (regions.shape[1], regions.shape[2])
    if maps.shape[1] > size[0] or maps.shape[2] > size[1]:
        maps = enlarged(maps, size, "nearest")
    areas, covered = _covered(regions, (maps.shape[1], maps.shape[2]))
    ordered, order = finite(maps).flatten(1).sort(1)
    inside = covered.gather(1, order).double()
    outside = areas[order].double() - inside
    below = torch.nn.functional.pad(outside.cumsum(1), (1, 0))  # pixels outside, in the cells below each place
    first, after = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))
    wins = (inside * (below.gather(1, first) + below.gather(1, after)) / 2).sum(1)  # Mann and Whitney 1947
    return (wins / (inside.sum(1) * outside.sum(1))).float()  # 0 / 0 is NaN, as wanted


def top_cell_precision(maps: Maps, regions: Masks, *, cells: int = 1) -> Scores:
    """Share of the pixels of a map's `cells` highest cells that lie on the region; NaN for an empty region.

    With ties, the expected number of pixels on the region over the expected number taken. Where cells are of one size,
    this is the expected share.

    >>> top_cell_precision(torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[True, False, False, False]]]))
    tensor([0.5000])
    """
    one_each(maps, regions, "the regions")
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
    """Pixels of each cell, and those of them on the region."""
    size = (regions.shape[1], regions.shape[2])
    areas = cell_areas(grid, size).to(regions.device)
    cell = on_grid(torch.arange(len(areas), device=regions.device).view(1, *grid).float(), size).long().flatten()
    covered = torch.zeros(len(regions), len(areas), device=regions.device)
    return areas.float(), covered.index_add_(1, cell, regions.flatten(1).float())
