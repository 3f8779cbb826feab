"""Paired tests between means over the same images, for all pairs of columns, and ranks from them."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ibviz.statistics.samples import (
    LEVEL,
    Clusters,
    Column,
    Trained,
    Values,
    cluster_sums,
    group_by_defined,
    pooled,
    row_blocks,
    sizes_of,
    subset_clusters,
)
from ibviz.statistics.variance import p_value, variance_of

_Rows = Bool[np.ndarray, " images"]
PValues = Float[np.ndarray, "columns columns"]

FLIPS = 19_999
EXACT = 14  # up to this number of clusters or images, all combinations of signs are tried


class Pairs(NamedTuple):
    """Two-sided p values of all pairs of columns; where `at_most` is True, `p` is an upper bound."""

    p: PValues
    at_most: Bool[np.ndarray, "columns columns"]


def sign_flip(values: Values, *, clusters: Clusters | None = None, seed: int = 0) -> Pairs:
    """Paired sign-flip test between the means of each pair of columns (Fisher 1935).

    Under the null hypothesis the difference of each image, or the summed difference of each cluster, is as likely as
    its negative. Up to 14 images or clusters, all signs are tried; otherwise 19,999 seeded draws, the same for all
    pairs, are added to the observed one. If no draw is as extreme as the observed difference, p is at most 1 / 20,000
    and at most `tail_bound`; with either bound the test keeps its level. Images for which either column is NaN are left
    out of the pair.

    >>> sign_flip(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])).p[0, 1].item()  # all three of one sign: 2 of 8
    0.25
    """

    def test(both: _Rows, pair: np.ndarray) -> Pairs:
        kept = values[np.ix_(both, pair)]
        kept = kept - kept.mean(1, keepdims=True)  # keeps the differences and reduces rounding errors
        return _flipped(cluster_sums(kept, subset_clusters(clusters, both)), seed)

    return _in_pairs(~np.isnan(values), test)


def crossed_test(values: Trained, *, clusters: Clusters | None = None) -> Pairs:
    """Test between the means of each pair of columns over several trainings: the p value of their t interval.

    p is never below the smallest p of `sign_flip` for the same number of clusters. An image counts if all trainings
    have both values.
    """

    def test(both: _Rows, pair: np.ndarray) -> Pairs:
        kept, shared = values[both][..., pair], subset_clusters(clusters, both)
        differences = (kept - kept[..., [i]] for i in range(len(pair)))
        p = np.stack([p_value(difference.mean((0, 1)), variance_of(difference, shared)) for difference in differences])
        least = least_p(len(sizes_of(shared, len(kept))))
        return Pairs(np.maximum(p, least), p <= least)

    return _in_pairs(~np.isnan(pooled(values)), test)


def least_p(count: int) -> float:
    """Smallest p value, or bound on it, that `sign_flip` can return for this number of independent images or clusters.

    >>> least_p(3), least_p(15)
    (0.25, 5e-05)
    """
    return 2.0 ** (1 - count) if count <= EXACT else min(1 / (FLIPS + 1), tail_bound(math.sqrt(count)))


def separable(count: int, columns: int) -> bool:
    """Return True if this number of images or clusters can separate two of `columns` at the 5 % level.

    >>> separable(3, 2), separable(14, 28), separable(14, 30)
    (False, True, False)
    """
    return least_p(count) * columns * (columns - 1) / 2 <= LEVEL


def tail_bound(distance: float) -> float:
    """Bound on the two-sided probability that a sum with random signs is `distance` standard deviations from 0.

    It is that of a normal variable times 3.178, the smallest factor that holds for all numbers (Bentkus and
    Dzindzalieta 2015).

    >>> round(tail_bound(5.0), 8)
    1.82e-06
    """
    from scipy.special import ndtr

    return float(2 * ndtr(-distance) / (4 * ndtr(-math.sqrt(2))))


def holm(p_values: Column) -> Column:
    """Correct p values by Holm's method (1979), which bounds the probability of any false rejection; NaN is skipped.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN is sorted last
    corrected = np.full(len(p_values), math.nan)
    corrected[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return corrected


def separation(values: Values | Trained, *, clusters: Clusters | None = None, seed: int = 0) -> Pairs:
    """Test all pairs of columns, with Holm's correction: `sign_flip`, or `crossed_test` for several trainings.

    >>> separation(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])).p
    array([[ nan, 0.25],
           [0.25,  nan]])
    """
    single = values.ndim == 2
    p, at_most = sign_flip(values, clusters=clusters, seed=seed) if single else crossed_test(values, clusters=clusters)
    pairs = np.triu_indices(len(p), 1)
    corrected = np.full(p.shape, math.nan)
    corrected[pairs] = corrected[pairs[::-1]] = holm(p[pairs])
    return Pairs(corrected, at_most)


def ranks(values: Values | Trained, separated: PValues) -> Column:
    """Rank columns: one more than the number of columns that are better at the 5 % level; NaN without a value.

    Higher is better. Two columns are compared on the images for which both are defined, as in their test. Columns that
    are not separated may share a rank but need not, since "not separated" is not transitive.

    >>> ranks(np.array([[3.0, 2.9, 1.0]]), np.array([[1, 0.5, 0.01], [0.5, 1, 0.01], [0.01, 0.01, 1]]))
    array([1., 1., 3.])
    """
    means = pooled(values)
    defined = ~np.isnan(means)
    sums = defined.T.astype(float) @ np.where(defined, means, 0)  # (i, j): sum of column j over the images of column i
    better = (sums > sums.T) & (separated <= LEVEL)
    return np.where(defined.any(0), 1 + better.sum(1), math.nan)


def standardised(differences: Values) -> Column:
    """Mean of paired differences divided by their standard deviation (Cohen's d_z); NaN if they do not vary.

    >>> standardised(np.array([[0.0, 1.0], [2.0, 1.0]]))
    array([0.70710678,        nan])
    """
    sizes = np.full(differences.shape[1], math.nan)
    for i, column in enumerate(differences.T):
        kept = column[~np.isnan(column)]
        if len(kept) > 1 and np.ptp(kept) > 0:
            sizes[i] = kept.mean() / kept.std(ddof=1)
    return sizes


def _in_pairs(defined: Bool[np.ndarray, "images columns"], test: Callable[[_Rows, np.ndarray], Pairs]) -> Pairs:
    """Apply a test to all pairs of columns, each on the images for which both are defined; NaN without such images."""
    width = defined.shape[1]
    results = Pairs(np.full((width, width), math.nan), np.zeros((width, width), bool))
    groups = list(group_by_defined(defined))
    for i, (rows, columns) in enumerate(groups):
        for others_rows, others in groups[i:]:
            both, pair = rows & others_rows, np.union1d(columns, others)
            if both.any():
                here, there = np.searchsorted(pair, columns), np.searchsorted(pair, others)
                for whole, part in zip(results, test(both, pair), strict=True):
                    whole[np.ix_(columns, others)] = part[np.ix_(here, there)]
                    whole[np.ix_(others, columns)] = part[np.ix_(there, here)]
    return results


def _flipped(values: Values, seed: int) -> Pairs:
    """P values of all pairs of columns without NaN, from signed sums of columns instead of sums of differences."""
    n, width = values.shape
    exact = n <= EXACT
    sums = [signs @ values for signs in (_all_signs(n) if exact else _drawn_signs(n, seed))]
    signed, columns = np.ascontiguousarray(np.concatenate(sums).T), np.ascontiguousarray(values.T)
    observed, size = values.sum(0), np.abs(values).sum(0)
    p, at_most = np.ones((width, width)), np.zeros((width, width), bool)
    for i, j in combinations(range(width), 2):  # a pair at a time fits in the cache
        limit = abs(observed[i] - observed[j]) - 1e-12 * (size[i] + size[j])  # less rounding errors
        as_far = np.count_nonzero(np.abs(signed[i] - signed[j]) >= limit)
        if exact:
            p[i, j] = as_far / len(signed[i])
        elif as_far:
            p[i, j] = (as_far + 1) / (FLIPS + 1)
        else:
            deviation = float(np.linalg.norm(columns[i] - columns[j]))
            bound = tail_bound(limit / deviation if deviation else 0.0)
            p[i, j], at_most[i, j] = np.minimum(1 / (FLIPS + 1), bound), True  # NaN stays NaN
    below = np.tril_indices(width, -1)
    p[below], at_most[below] = p.T[below], at_most.T[below]
    return Pairs(p, at_most)


def _all_signs(n: int) -> Iterator[Float[np.ndarray, "flips images"]]:
    yield 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


def _drawn_signs(n: int, seed: int) -> Iterator[Float[np.ndarray, "flips images"]]:
    generator = np.random.default_rng(seed)
    for part in row_blocks(FLIPS, n):
        count = part.stop - part.start
        words = generator.integers(2**64 - 1, size=(count, -(-n // 64)), dtype=np.uint64, endpoint=True)
        yield 1.0 - 2 * np.unpackbits(words.view(np.uint8), axis=1, count=n)
