"""Agreement of a map with the drop of the score when cells are removed or pixels dimmed."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ibviz.errors import InputError
from ibviz.metrics.curve_scores import STATES_AT_ONCE
from ibviz.metrics.grid import cell_areas, check_one_each, enlarged, finite, min_max_scaled, paint
from ibviz.types import Images, Maps, Score, Scores


class SensitivityN(NamedTuple):
    """Correlation per image between the sum of a map over removed cells and the drop of the score."""

    correlation: Scores  # Pearson's, -1 to 1; NaN if the sums or the drops do not vary
    subsets: int


@torch.no_grad()
def sensitivity_n(  # noqa: PLR0913 - the subsets need a size, a number and a seed
    score: Score,
    images: Images,
    maps: Maps,
    baselines: Images,
    *,
    n: int,
    subsets: int = 100,
    seed: int = 0,
    batch_size: int = STATES_AT_ONCE,
) -> SensitivityN:
    """Correlate the sum of a map with the drop of the score over random subsets of `n` removed cells (Ancona 2018).

    The same subsets are drawn for every image.

    Args:
        score: Score of each masked image.
        images: Images in [0, 1].
        maps: One signed map per image, on a grid no finer than the image; used unnormalised.
        baselines: One image per image, which removed cells show.
        n: Number of cells removed at once, from 1 to one less than the cells of the map.
        subsets: Number of subsets, at least 2; one masked image is scored per subset and image.
        seed: Seed of the subsets.
        batch_size: Number of masked images scored at once.

    Raises:
        InputError: If a map is not finite, `n` or `subsets` is out of range, or the numbers of images differ.

    >>> images, maps = torch.rand(1, 3, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    >>> def score(states, rows):
    ...     return (states.mean(1) * maps[rows]).sum((1, 2))
    >>> result = sensitivity_n(score, images, images.mean(1) * maps, torch.zeros_like(images), n=2)
    >>> result.correlation.round(decimals=3)
    tensor([1.])
    """
    check_one_each(maps, images, "the images")
    check_one_each(maps, baselines, "the baselines")
    values, grid = finite(maps).flatten(1), (maps.shape[1], maps.shape[2])
    cell_areas(grid, (images.shape[2], images.shape[3]))
    if not 1 <= n < values.shape[1]:
        raise InputError(f"n must be 1 to {values.shape[1] - 1}, fewer than the cells of the map; got {n}")
    if subsets < 2:
        raise InputError(f"a correlation needs at least 2 subsets; got {subsets}")
    original = _scores(score, images, batch_size)
    sums, drops = [], []
    for subset in _subsets(values.shape[1], n, subsets, seed).to(images.device):
        removed = torch.zeros(1, values.shape[1], dtype=torch.bool, device=images.device)
        removed[0, subset] = True
        hidden = paint(removed.unflatten(1, grid), (images.shape[2], images.shape[3])).unsqueeze(1)
        drops.append(original - _scores(score, torch.where(hidden, baselines, images), batch_size))
        sums.append(values[:, subset].sum(1))
    return SensitivityN(_correlation(torch.stack(sums, dim=1), torch.stack(drops, dim=1)), subsets)


def _subsets(cells: int, n: int, subsets: int, seed: int) -> Int[Tensor, "subsets n"]:
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that devices agree
    return torch.stack([torch.randperm(cells, generator=generator)[:n] for _ in range(subsets)])


def _scores(score: Score, images: Images, batch_size: int) -> Scores:
    rows = torch.arange(len(images), device=images.device)
    pairs = zip(images.split(batch_size), rows.split(batch_size), strict=True)
    return torch.cat([score(part.clone(), rows).float() for part, rows in pairs])  # a network may write to its input


def _correlation(x: Float[Tensor, "b k"], y: Float[Tensor, "b k"]) -> Scores:
    x, y = (values - values.mean(1, keepdim=True) for values in (x.double(), y.double()))
    correlation = (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()
    return correlation.clamp(-1, 1).float()  # 0 / 0 stays NaN


class Drop(NamedTuple):
    """Relative loss and increase of the score per image.

    Their means are the average drop and the increase in confidence (Chattopadhay 2018).
    """

    drop: Scores  # fraction of the score that is lost, 0 to 1; lower is better
    increase: Scores  # 1 if the score rose, otherwise 0; higher is better


@torch.no_grad()
def average_drop(score: Score, images: Images, maps: Maps, *, batch_size: int = STATES_AT_ONCE) -> Drop:
    """Compare the score of each image with that of the image multiplied by its map, as in Grad-CAM++.

    Each map is enlarged bilinearly and scaled to [0, 1] first, so that pixels without relevance turn black. A constant
    map has no scale and leaves the image unchanged.

    Args:
        score: Score of each masked image; it must be positive, as probabilities are. A score of 0 gives NaN.
        images: Images in [0, 1].
        maps: One map per image.
        batch_size: Number of images scored at once.

    >>> images, maps = torch.ones(1, 3, 1, 2), torch.tensor([[[1.0, 0.0]]])
    >>> average_drop(lambda states, rows: states.mean((1, 2, 3)), images, maps)
    Drop(drop=tensor([0.5000]), increase=tensor([0.]))
    """
    check_one_each(maps, images, "the images")
    original = _scores(score, images, batch_size)
    shown = min_max_scaled(enlarged(maps, (images.shape[2], images.shape[3]), "bilinear"))
    kept = _scores(score, images * shown.unsqueeze(1).to(images.dtype), batch_size)
    drop = ((original - kept).clamp(min=0) / original).masked_fill(original <= 0, math.nan)
    return Drop(drop, torch.where(original.isnan() | kept.isnan(), math.nan, (kept > original).float()))
