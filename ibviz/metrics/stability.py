"""Do a map's sums follow the score, is the kept part enough, and how concentrated is the map?"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ibviz.errors import InputError
from ibviz.metrics.curves import BATCH
from ibviz.metrics.grid import cell_areas, enlarged, finite, one_each, paint, unit
from ibviz.types import Images, Maps, Score, Scores


class SensitivityN(NamedTuple):
    """Per image: how well the sum of a map over removed cells foretells the loss of score."""

    correlation: Scores  # Pearson's, -1 to 1; NaN where sums or losses do not vary
    subsets: int


@torch.no_grad()
def sensitivity_n(  # noqa: PLR0913 - what is drawn and what stands in for it
    score: Score,
    images: Images,
    maps: Maps,
    baselines: Images,
    *,
    n: int,
    subsets: int = 100,
    seed: int = 0,
    batch_size: int = BATCH,
) -> SensitivityN:
    """Correlation, over random subsets of `n` cells, of a map's sum with the fall of the score (Ancona 2018).

    Cells are those of the map's own grid; removed ones show `baselines`, an image for each image. The same subsets are
    drawn for every image. Maps are signed and used as they are. One masked image is scored for each
    subset and image, `batch_size` at once.

    >>> images, maps = torch.rand(1, 3, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    >>> def score(states, rows):
    ...     return (states.mean(1) * maps[rows]).sum((1, 2))
    >>> found = sensitivity_n(score, images, images.mean(1) * maps, torch.zeros_like(images), n=2)
    >>> found.correlation.round(decimals=3)
    tensor([1.])
    """
    one_each(maps, images, "the images")
    one_each(maps, baselines, "the baselines")
    values, grid = finite(maps).flatten(1), (maps.shape[1], maps.shape[2])
    cell_areas(grid, (images.shape[2], images.shape[3]))
    if not 1 <= n < values.shape[1]:
        raise InputError(f"n must be 1 to {values.shape[1] - 1}, fewer than the cells of the map; got {n}")
    if subsets < 2:
        raise InputError(f"a correlation needs at least 2 subsets; got {subsets}")
    whole = _scored(score, images, batch_size)
    sums, falls = [], []
    for drawn in _subsets(values.shape[1], n, subsets, seed).to(images.device):
        removed = torch.zeros(1, values.shape[1], dtype=torch.bool, device=images.device)
        removed[0, drawn] = True
        hidden = paint(removed.unflatten(1, grid), (images.shape[2], images.shape[3])).unsqueeze(1)
        falls.append(whole - _scored(score, torch.where(hidden, baselines, images), batch_size))
        sums.append(values[:, drawn].sum(1))
    return SensitivityN(_correlation(torch.stack(sums, dim=1), torch.stack(falls, dim=1)), subsets)


def _subsets(cells: int, n: int, subsets: int, seed: int) -> Int[Tensor, "subsets n"]:
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that devices agree
    return torch.stack([torch.randperm(cells, generator=generator)[:n] for _ in range(subsets)])


def _scored(score: Score, images: Images, batch_size: int) -> Scores:
    rows = torch.arange(len(images), device=images.device)
    pairs = zip(images.split(batch_size), rows.split(batch_size), strict=True)
    return torch.cat([score(part.clone(), rows).float() for part, rows in pairs])  # a network may write to it


def _correlation(one: Float[Tensor, "b k"], other: Float[Tensor, "b k"]) -> Scores:
    one, other = (values - values.mean(1, keepdim=True) for values in (one.double(), other.double()))
    together = (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()
    return together.clamp(-1, 1).float()  # 0 / 0 stays NaN


class Drop(NamedTuple):
    """Per image; their means are the average drop and the increase in confidence (Chattopadhay 2018)."""

    drop: Scores  # share of the score that is lost, 0 to 1; lower is better
    increase: Scores  # 1 where the score rose; higher is better


@torch.no_grad()
def average_drop(score: Score, images: Images, maps: Maps, *, batch_size: int = BATCH) -> Drop:
    """What is left of the score when each pixel is dimmed by the map, scaled to [0, 1] and enlarged bilinearly.

    As in Grad-CAM++: the image is multiplied by the map, so what has no relevance turns black. A constant map has no
    scale and leaves the image whole. Scores must be positive, as probabilities are; 0 gives NaN.

    >>> images, maps = torch.ones(1, 3, 1, 2), torch.tensor([[[1.0, 0.0]]])
    >>> average_drop(lambda states, rows: states.mean((1, 2, 3)), images, maps)
    Drop(drop=tensor([0.5000]), increase=tensor([0.]))
    """
    one_each(maps, images, "the images")
    whole = _scored(score, images, batch_size)
    shown = unit(enlarged(maps, (images.shape[2], images.shape[3]), "bilinear"))
    kept = _scored(score, images * shown.unsqueeze(1).to(images.dtype), batch_size)
    drop = ((whole - kept).clamp(min=0) / whole).masked_fill(whole <= 0, math.nan)
    return Drop(drop, torch.where(whole.isnan() | kept.isnan(), math.nan, (kept > whole).float()))


def sparseness(maps: Maps) -> Scores:
    """Gini index of the absolute values (Chalasani 2020): 0 for a uniform map, 1 - 1/cells for one cell; all 0: NaN.

    >>> sparseness(torch.tensor([[[1.0, 1.0]], [[0.0, -3.0]]]))
    tensor([0.0000, 0.5000])
    """
    ordered = finite(maps).abs().flatten(1).double().sort(1).values
    cells = ordered.shape[1]
    weights = 2 * torch.arange(1, cells + 1, device=maps.device) - cells - 1
    return ((ordered * weights).sum(1) / (cells * ordered.sum(1))).float()


def complexity(maps: Maps) -> Scores:
    """Entropy in nats of the shares of absolute values (Bhatt 2020): log(cells) for a uniform map; all 0: NaN.

    >>> complexity(torch.tensor([[[1.0, 1.0]], [[0.0, -3.0]]]))
    tensor([0.6931, 0.0000])
    """
    mass = finite(maps).abs().flatten(1).double()
    shares = mass / mass.sum(1, keepdim=True)
    return torch.special.entr(shares).sum(1).float()
