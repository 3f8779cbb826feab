"""Means over images with 95 % intervals."""

import math
from collections.abc import Iterator, Sequence
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
    """An `Estimate` for each column, with the BCa interval beside the percentile interval (NaN if there is none)."""

    mean: Column
    low: Column
    high: Column
    bca_low: Column
    bca_high: Column
    n: _Counts
    excluded: _Counts


def estimate(values: Sequence[float], *, clusters: Sequence[object] | None = None, seed: int = 0) -> Estimate:
    """Mean of one column with its 95 % interval, as in `estimates` without BCa; `clusters` names each image's cluster.

    >>> estimate([1.0, 1.0, float("nan")])
    Estimate(mean=1.0, low=1.0, high=1.0, n=2, excluded=1)
    """
    numbers = None if clusters is None else clusters_of(clusters, len(values))
    column = estimates(np.asarray(values, float).reshape(-1, 1), clusters=numbers, seed=seed)
    mean, low, high = (float(part[0]) for part in column[:3])
    return Estimate(mean, low, high, int(column.n[0]), int(column.excluded[0]))


def estimates(values: Values | Trained, *, clusters: Clusters | None = None, seed: int = 0) -> Estimates:
    """Mean of each column with its 95 % interval; NaN values are left out and counted.

    For independent images of one training, the intervals are bootstraps over images: percentile (Efron 1979) and BCa
    (Efron 1987). The draws are those of `scipy.stats.bootstrap` with the same seed, and are shared by columns that are
    defined for the same images. The interval of a constant is that constant.

    For images in `clusters`, or several trainings (three axes), the interval is Student's t over clusters and trainings
    (see `ibviz.statistics.variance`), without BCa. An image counts if all trainings have a value for it. With a single
    cluster, or fewer than five clusters and several trainings, the interval is NaN.

    >>> estimates(np.array([[0.0, 2.0], [1.0, 2.0]])).high
    array([1., 2.])
    """
    defined = ~np.isnan(pooled(values))
    n = defined.sum(0)
    results = np.full((5, values.shape[-1]), math.nan)
    for rows, columns in group_by_defined(defined):
        kept = values[rows][..., columns]
        if not rows.any():
            continue
        if clusters is None and values.ndim == 2:
            results[:, columns] = _intervals(kept, seed)
        else:
            results[:3, columns] = t_interval(
                kept.reshape(len(kept), -1, len(columns)), subset_clusters(clusters, rows), LEVEL
            )
    return Estimates._make([*results, n, len(values) - n])


def resamples(n: int, *, seed: int = 0) -> Iterator[Float[np.ndarray, "resamples images"]]:
    """Draw `RESAMPLES` bootstrap samples of `n` images; yield how often each contains each image, in blocks.

    The draws are those of `scipy.stats.bootstrap` with the same seed.

    >>> counts = np.concatenate(list(resamples(5)))
    >>> counts.shape == (RESAMPLES, 5), set(counts.sum(1).tolist())
    (True, {5.0})
    """
    generator = np.random.default_rng(seed)
    for part in row_blocks(RESAMPLES, n):
        yield _counts(generator, part.stop - part.start, n)


def _counts(generator: np.random.Generator, samples: int, n: int) -> Float[np.ndarray, "samples images"]:
    counts = np.empty((samples, n))
    for row in counts:  # one sample at a time, since the images drawn for all of them take as much memory as counts
        row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
    return counts


def bootstrap_interval(values: Values, *, seed: int = 0) -> Float[np.ndarray, "2 columns"]:
    """Return the lower and upper end of the 95 % percentile interval of each column's mean over images.

    >>> bootstrap_interval(np.array([[0.0], [1.0]])).ravel()
    array([0., 1.])
    """
    return _percentiles(_resampled_means(values, seed))


def _resampled_means(values: Values, seed: int) -> Float[np.ndarray, "resamples columns"]:
    def sums(counts: np.ndarray) -> np.ndarray:
        return counts @ values

    # `map` lets go of a block of counts before the next one is drawn; a loop would hold both.
    return np.concatenate(list(map(sums, resamples(len(values), seed=seed)))) / len(values)


def _intervals(values: Values, seed: int) -> Float[np.ndarray, "5 columns"]:
    """Mean, percentile and BCa interval of columns without NaN."""
    mean = values.sum(0) / len(values)
    intervals = np.stack([mean] * 5)
    varied = np.ptp(values, axis=0) > 0
    intervals[:, ~varied] = values[0, ~varied]  # exact, without the rounding of a mean
    if varied.any():
        drawn = _resampled_means(values[:, varied], seed)
        intervals[1:3, varied] = _percentiles(drawn)
        intervals[3:, varied] = _bca(drawn, values[:, varied], mean[varied])
    return intervals


def _percentiles(drawn: Float[np.ndarray, "resamples columns"]) -> Float[np.ndarray, "2 columns"]:
    return np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2], axis=0)


def _bca(drawn: Float[np.ndarray, "resamples columns"], values: Values, mean: Column) -> Float[np.ndarray, "2 columns"]:
    """BCa interval: percentiles corrected for bias and skewness; a mean has a closed form of the jackknife."""
    from scipy.special import ndtr, ndtri

    bias = ndtri(((drawn < mean).mean(0) + (drawn <= mean).mean(0)) / 2)
    centred = values - mean
    skew = (centred**3).sum(0) / (6 * (centred**2).sum(0) ** 1.5)
    normal = bias + ndtri([[LEVEL / 2], [1 - LEVEL / 2]])
    levels = ndtr(bias + normal / (1 - skew * normal))
    return np.stack([np.quantile(column, level) for column, level in zip(drawn.T, levels.T, strict=True)], axis=1)
