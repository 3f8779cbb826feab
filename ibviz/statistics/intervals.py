"""How sure a mean over images is: 95 % intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ibviz.statistics.samples import (
    LEVEL,
    Clusters,
    Column,
    Trained,
    Values,
    clusters_of,
    group_by_defined,
    pooled,
    row_blocks,
    subset_clusters,
)
from ibviz.statistics.variance import t_interval

_Counts = Int[np.ndarray, " columns"]

RESAMPLES = 2000


class Estimate(NamedTuple):
    """Mean over images with its 95 % interval; `excluded` images had no defined value."""

    mean: float
    low: float
    high: float
    n: int
    excluded: int


class Estimates(NamedTuple):
    """An `Estimate` for each column, with the BCa interval beside the percentile one, NaN where there is none."""

    mean: Column
    low: Column
    high: Column
    bca_low: Column
    bca_high: Column
    n: _Counts
    excluded: _Counts


def estimate(values: Sequence[float], *, clusters: Sequence[object] | None = None, seed: int = 0) -> Estimate:
    """`estimates` of a single column, without BCa; `clusters` name what images share.

    >>> estimate([1.0, 1.0, float("nan")])
    Estimate(mean=1.0, low=1.0, high=1.0, n=2, excluded=1)
    """
    numbers = None if clusters is None else clusters_of(clusters, len(values))
    found = estimates(np.asarray(values, float).reshape(-1, 1), clusters=numbers, seed=seed)
    mean, low, high = (float(one[0]) for one in found[:3])
    return Estimate(mean, low, high, int(found.n[0]), int(found.excluded[0]))


def estimates(values: Values | Trained, *, clusters: Clusters | None = None, seed: int = 0) -> Estimates:
    """Mean of each column with the 95 % interval that suits the numbers; NaN is left out and counted.

    Independent images of one training: the bootstrap over images, percentile (Efron 1979) and BCa (Efron 1987), with
    the draws of `scipy.stats.bootstrap` of the same seed, shared by columns that are defined for the same images. The
    interval of a constant is that constant.

    Images in `clusters`, or several trainings (three axes): Student's t over clusters and trainings, see
    `ibviz.statistics.variance`; no BCa. Images count where all trainings have a value. A single cluster, or fewer than
    five over trainings, has a mean without an interval.

    >>> estimates(np.array([[0.0, 2.0], [1.0, 2.0]])).high
    array([1., 2.])
    """
    defined = ~np.isnan(pooled(values))
    n = defined.sum(0)
    found = np.full((5, values.shape[-1]), math.nan)
    for rows, columns in group_by_defined(defined):
        kept = values[rows][..., columns]
        if not rows.any():
            continue
        if clusters is None and values.ndim == 2:
            found[:, columns] = _intervals(kept, seed)
        else:
            found[:3, columns] = t_interval(
                kept.reshape(len(kept), -1, len(columns)), subset_clusters(clusters, rows), LEVEL
            )
    return Estimates._make([*found, n, len(values) - n])


def _resampled_means(values: Values, seed: int) -> Float[np.ndarray, "resamples columns"]:
    """Means of images drawn with replacement, as weights on images, so that one draw serves all columns."""
    generator, n = np.random.default_rng(seed), len(values)
    means = np.empty((RESAMPLES, values.shape[1]))
    for part in row_blocks(RESAMPLES, n):
        drawn = generator.integers(n, size=(part.stop - part.start, n))
        counts = np.stack([np.bincount(images, minlength=n) for images in drawn])
        means[part] = counts.astype(float) @ values / n
    return means


def _intervals(values: Values, seed: int) -> Float[np.ndarray, "5 columns"]:
    """Mean, percentile and BCa interval of columns without NaN."""
    mean = values.sum(0) / len(values)
    found = np.stack([mean] * 5)
    varied = np.ptp(values, axis=0) > 0
    found[:, ~varied] = values[0, ~varied]  # exactly, whatever the rounding of a mean
    if varied.any():
        drawn = _resampled_means(values[:, varied], seed)
        found[1:3, varied] = _percentiles(drawn)
        found[3:, varied] = _bca(drawn, values[:, varied], mean[varied])
    return found


def _percentiles(drawn: Float[np.ndarray, "resamples columns"]) -> Float[np.ndarray, "2 columns"]:
    return np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2], axis=0)


def _bca(drawn: Float[np.ndarray, "resamples columns"], values: Values, mean: Column) -> Float[np.ndarray, "2 columns"]:
    """Percentiles moved for bias and skewness; the jackknife of a mean is known without leaving any image out."""
    from scipy.special import ndtr, ndtri

    bias = ndtri(((drawn < mean).mean(0) + (drawn <= mean).mean(0)) / 2)
    centred = values - mean
    skew = (centred**3).sum(0) / (6 * (centred**2).sum(0) ** 1.5)
    normal = bias + ndtri([[LEVEL / 2], [1 - LEVEL / 2]])
    levels = ndtr(bias + normal / (1 - skew * normal))
    return np.stack([np.quantile(column, level) for column, level in zip(drawn.T, levels.T, strict=True)], axis=1)
