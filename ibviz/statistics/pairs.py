"""Whether means over the same images differ: tests of all pairs, and the ranks that follow."""

import math
from collections.abc import Callable, Iterator
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
EXACT = 14  # clusters or images of which all signs are tried


class Pairs(NamedTuple):
    """Two-sided p values between each two columns; `at_most` marks bounds, below which the p value itself lies."""

    p: PValues
    at_most: Bool[np.ndarray, "columns columns"]


def sign_flip(values: Values, *, clusters: Clusters | None = None, seed: int = 0) -> Pairs:
    """Paired sign-flip test between the means of each two columns (Fisher 1935).

    Under the null hypothesis the difference of each image, or the sum of those of each cluster, is as likely as its
    negative. All signs are tried where they are few, otherwise 19,999 seeded draws, the same for all pairs, count
    beside the observed one. Where no draw is as far off as the observed difference, p is at most 1 / 20,000, and at
    most the bound on the tail of `tail_bound`; neither makes the test reject more often than its level says. Images for
    which either is NaN are left out of a pair.

    >>> sign_flip(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])).p[0, 1].item()  # all three of one sign: 2 of 8
    0.25
    """

    def test(both: _Rows, pair: np.ndarray) -> Pairs:
        kept = values[np.ix_(both, pair)]
        kept = kept - kept.mean(1, keepdims=True)  # differences stay, and rounding stays small beside them
        return _flipped(cluster_sums(kept, subset_clusters(clusters, both)), seed)

    return _in_pairs(~np.isnan(values), test)


def crossed_test(values: Trained, *, clusters: Clusters | None = None) -> Pairs:
    """Test between the means of each two columns over several trainings and images: the p value of their t interval.

    No p is below the least one of `sign_flip` on as many clusters of images. Images count where all trainings have both
    values.
    """

    def test(both: _Rows, pair: np.ndarray) -> Pairs:
        kept, shared = values[both][..., pair], subset_clusters(clusters, both)
        differences = (kept - kept[..., [i]] for i in range(len(pair)))
        p = np.stack([p_value(one.mean((0, 1)), variance_of(one, shared)) for one in differences])
        least = least_p(len(sizes_of(shared, len(kept))))
        return Pairs(np.maximum(p, least), p <= least)

    return _in_pairs(~np.isnan(pooled(values)), test)


def least_p(count: int) -> float:
    """Smallest p value, or bound on it, that `sign_flip` can have for this number of independent images or clusters.

    >>> least_p(3), least_p(15)
    (0.25, 5e-05)
    """
    return 2.0 ** (1 - count) if count <= EXACT else min(1 / (FLIPS + 1), float(tail_bound(np.sqrt([count]))[0]))


def separable(count: int, columns: int) -> bool:
    """Whether any two of `columns` can be separated at the 5 % level by this number of images or clusters.

    >>> separable(3, 2), separable(14, 28), separable(14, 30)
    (False, True, False)
    """
    return least_p(count) * columns * (columns - 1) / 2 <= LEVEL


def tail_bound(distance: Column) -> Column:
    """Bound on the chance that a sum of numbers with random signs is `distance` deviations from 0, either way.

    That of a normal variable times 3.178, the smallest factor that holds for all numbers (Bentkus and Dzindzalieta
    2015).

    >>> tail_bound(np.array([5.0])).round(8)
    array([1.82e-06])
    """
    from scipy.special import ndtr

    return 2 * ndtr(-distance) / (4 * ndtr(-math.sqrt(2)))


def holm(p_values: Column) -> Column:
    """Holm's correction (1979): the chance of any false finding among all is at most the level. NaN is no test.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN is sorted last
    corrected = np.full(len(p_values), math.nan)
    corrected[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return corrected


def separation(values: Values | Trained, *, clusters: Clusters | None = None, seed: int = 0) -> Pairs:
    """`sign_flip` of all pairs, or `crossed_test` of several trainings; by `holm` corrected for their number.

    >>> separation(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])).p
    array([[ nan, 0.25],
           [0.25,  nan]])
    """
    single = values.ndim == 2
    p, at_most = sign_flip(values, clusters=clusters, seed=seed) if single else crossed_test(values, clusters=clusters)
    pairs = np.triu_indices(len(p), 1)
    found = np.full(p.shape, math.nan)
    found[pairs] = found[pairs[::-1]] = holm(p[pairs])
    return Pairs(found, at_most)


def ranks(values: Values | Trained, separated: PValues) -> Column:
    """One more than the number of columns that are better at the 5 % level; higher is better, NaN without a value.

    Which of two is better is decided as they are tested, on the images for which both are defined. Columns that are not
    separated may share a rank; they need not, for "not separated" does not carry over from two pairs to a third.

    >>> ranks(np.array([[3.0, 2.9, 1.0]]), np.array([[1, 0.5, 0.01], [0.5, 1, 0.01], [0.01, 0.01, 1]]))
    array([1., 1., 3.])
    """
    means = pooled(values)
    defined = ~np.isnan(means)
    sums = defined.T.astype(float) @ np.where(defined, means, 0)  # of each column, on the images of each
    better = (sums > sums.T) & (separated <= LEVEL)
    return np.where(defined.any(0), 1 + better.sum(1), math.nan)


def standardised(differences: Values) -> Column:
    """Mean of paired differences over their deviation (Cohen's d_z); NaN where they do not vary.

    >>> standardised(np.array([[0.0, 1.0], [2.0, 1.0]]))
    array([0.70710678,        nan])
    """
    found = np.full(differences.shape[1], math.nan)
    for i, column in enumerate(differences.T):
        kept = column[~np.isnan(column)]
        if len(kept) > 1 and np.ptp(kept) > 0:
            found[i] = kept.mean() / kept.std(ddof=1)
    return found


def _in_pairs(defined: Bool[np.ndarray, "images columns"], test: Callable[[_Rows, np.ndarray], Pairs]) -> Pairs:
    """A test of all pairs of columns, each on the images for which both are defined; NaN where there are none."""
    width = defined.shape[1]
    found = Pairs(np.full((width, width), math.nan), np.zeros((width, width), bool))
    groups = list(group_by_defined(defined))
    for i, (rows, columns) in enumerate(groups):
        for others_rows, others in groups[i:]:
            both, pair = rows & others_rows, np.union1d(columns, others)
            if both.any():
                here, there = np.searchsorted(pair, columns), np.searchsorted(pair, others)
                for whole, part in zip(found, test(both, pair), strict=True):
                    whole[np.ix_(columns, others)] = part[np.ix_(here, there)]
                    whole[np.ix_(others, columns)] = part[np.ix_(there, here)]
    return found


def _flipped(values: Values, seed: int) -> Pairs:
    """P values of all pairs of columns without NaN; a sum of signed differences is a difference of signed sums."""
    n, width = values.shape
    exact = n <= EXACT
    signed = np.concatenate([signs @ values for signs in (_all_signs(n) if exact else _drawn_signs(n, seed))])
    observed, size = values.sum(0), np.abs(values).sum(0)
    p, at_most = np.ones((width, width)), np.zeros((width, width), bool)
    for i in range(width):
        apart, rounding = np.abs(observed - observed[i]), 1e-12 * (size + size[i])
        as_far = (np.abs(signed - signed[:, [i]]) >= apart - rounding).sum(0)
        if exact:
            p[i] = as_far / len(signed)
            continue
        deviation = np.sqrt(((values - values[:, [i]]) ** 2).sum(0))
        bound = tail_bound(np.divide(apart - rounding, deviation, out=np.zeros(width), where=deviation > 0))
        at_most[i], p[i] = as_far == 0, (as_far + 1) / (len(signed) + 1)
        p[i] = np.where(at_most[i], np.minimum(p[i], bound), p[i])
    return Pairs(p, at_most)


def _all_signs(n: int) -> Iterator[Float[np.ndarray, "flips images"]]:
    yield 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


def _drawn_signs(n: int, seed: int) -> Iterator[Float[np.ndarray, "flips images"]]:
    generator = np.random.default_rng(seed)
    for part in row_blocks(FLIPS, n):
        count = part.stop - part.start
        words = generator.integers(2**64 - 1, size=(count, -(-n // 64)), dtype=np.uint64, endpoint=True)
        yield 1.0 - 2 * np.unpackbits(words.view(np.uint8), axis=1, count=n)
