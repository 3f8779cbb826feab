"""How sure a mean over images is, whether means differ, and whether judges agree."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

# One row an image, NaN where a number is not defined; one column for each mean, all of the same images.
Values = Float[np.ndarray, "images columns"]
Column = Float[np.ndarray, " columns"]
Counts = Int[np.ndarray, " columns"]
PValues = Float[np.ndarray, "columns columns"]

RESAMPLES = 2000
FLIPS = 19_999  # a p value is at least 1 / 20,000, so that it can survive a correction for hundreds of pairs
LEVEL = 0.05
ENTRIES = 2_000_000  # of drawn numbers held at once


class Estimate(NamedTuple):
    """Mean over images with its 95 % percentile bootstrap interval; `excluded` images had no defined value."""

    mean: float
    low: float
    high: float
    n: int
    excluded: int


class Estimates(NamedTuple):
    """An `Estimate` for each column, with the BCa interval beside the percentile one."""

    mean: Column
    low: Column
    high: Column
    bca_low: Column
    bca_high: Column
    n: Counts
    excluded: Counts


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """`estimates` of a single column, percentile interval only.

    >>> estimate([1.0, 1.0, float("nan")])
    Estimate(mean=1.0, low=1.0, high=1.0, n=2, excluded=1)
    """
    found = estimates(np.asarray(values, float).reshape(-1, 1), seed=seed)
    mean, low, high = (float(one[0]) for one in found[:3])
    return Estimate(mean, low, high, int(found.n[0]), int(found.excluded[0]))


def estimates(values: Values, *, seed: int = 0) -> Estimates:
    """Bootstrap the mean of each column over images: percentile (Efron 1979) and BCa (Efron 1987), 95 %.

    NaN is left out and counted. Columns that are defined for the same images share the draws, which are those of
    `scipy.stats.bootstrap` with the same seed. The interval of a constant is that constant.

    >>> estimates(np.array([[0.0, 2.0], [1.0, 2.0]])).high
    array([1., 2.])
    """
    defined = ~np.isnan(values)
    n = defined.sum(0)
    found = np.full((5, values.shape[1]), math.nan)
    for rows, columns in _defined_alike(defined):
        if rows.any():
            found[:, columns] = _intervals(values[np.ix_(rows, columns)], seed)
    return Estimates._make([*found, n, len(values) - n])


def estimate_over_models(values: Float[np.ndarray, "images models columns"], *, seed: int = 0) -> Estimates:
    """Mean over models' means, with a percentile interval that holds over models and images; no BCa (NaN).

    Models and images are drawn with replacement, the same images for all drawn models, because that is how they were
    measured (Owen 2007). Images without a value for every model are left out. With fewer than about ten models the
    interval is too short: it knows no model but those it has.

    >>> estimate_over_models(np.array([[[0.0], [1.0]]])).high
    array([1.])
    """
    images, models, width = values.shape
    defined = ~np.isnan(values.sum(1))  # where every model has a value
    n = defined.sum(0)
    found = np.full((5, width), math.nan)
    shares = np.random.default_rng([seed, 1]).multinomial(models, np.full(models, 1 / models), RESAMPLES) / models
    for rows, columns in _defined_alike(defined):
        if rows.any():
            kept = values[rows][:, :, columns]
            drawn = _resampled_means(kept.reshape(len(kept), -1), seed).reshape(RESAMPLES, models, -1)
            found[:3, columns] = kept.mean((0, 1)), *_percentiles(np.einsum("rm,rmc->rc", shares, drawn))
    return Estimates._make([*found, n, images - n])


def sign_flip(values: Values, *, seed: int = 0) -> PValues:
    """Two-sided p value of the paired sign-flip test between the means of each two columns (Fisher 1935).

    Under the null hypothesis the difference of each image is as likely as its negative. All signs are tried where they
    are few, otherwise 19,999 seeded draws, the same for all pairs, count beside the observed one. Images for which
    either is NaN are left out of a pair.

    >>> sign_flip(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]))[0, 1].item()  # all three of one sign: 2 of 8
    0.25
    """
    found = np.full((values.shape[1],) * 2, math.nan)
    groups = list(_defined_alike(~np.isnan(values)))
    for i, (rows, columns) in enumerate(groups):
        for others_rows, others in groups[i:]:
            both, pair = rows & others_rows, np.union1d(columns, others)
            if both.any():
                p = _flipped(values[np.ix_(both, pair)], seed)
                here, there = np.searchsorted(pair, columns), np.searchsorted(pair, others)
                found[np.ix_(columns, others)] = p[np.ix_(here, there)]
                found[np.ix_(others, columns)] = p[np.ix_(there, here)]
    return found


def holm(p_values: Column) -> Column:
    """Holm's correction (1979): the chance of any false finding among all is at most the level. NaN is no test.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN is sorted last
    corrected = np.full(len(p_values), math.nan)
    corrected[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return corrected


def separation(values: Values, *, seed: int = 0) -> PValues:
    """`sign_flip` of all pairs of columns, by `holm` corrected for their number.

    >>> separation(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]))
    array([[ nan, 0.25],
           [0.25,  nan]])
    """
    pairs = np.triu_indices(values.shape[1], 1)
    found = np.full((values.shape[1],) * 2, math.nan)
    found[pairs] = found[pairs[::-1]] = holm(sign_flip(values, seed=seed)[pairs])
    return found


def ranks(values: Values, separated: PValues) -> Column:
    """One more than the number of columns that are better at the 5 % level; higher is better, NaN without a value.

    Which of two is better is decided as they are tested, on the images for which both are defined. Columns that are not
    separated may share a rank; they need not, for "not separated" does not carry over from two pairs to a third.

    >>> ranks(np.array([[3.0, 2.9, 1.0]]), np.array([[1, 0.5, 0.01], [0.5, 1, 0.01], [0.01, 0.01, 1]]))
    array([1., 1., 3.])
    """
    defined = ~np.isnan(values)
    sums = defined.T.astype(float) @ np.where(defined, values, 0)  # of each column, on the images of each
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


def krippendorff_alpha(
    ratings: Float[np.ndarray, "raters units"], *, level: Literal["interval", "ordinal"] = "ordinal"
) -> float:
    """How far raters agree about units (Krippendorff 2011): 1 wholly, 0 as by chance, below 0 less than by chance.

    NaN is a missing rating; a unit with a single one tells nothing. The result is NaN where all ratings are equal.

    >>> krippendorff_alpha(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    1.0
    """
    from scipy.stats import rankdata  # noqa: PLC0415 - slow to import

    kept = ratings[:, (~np.isnan(ratings)).sum(0) > 1]
    defined = ~np.isnan(kept)
    if not defined.any():
        return math.nan
    if level == "ordinal":
        # The distance of two values is the number of ratings between them, half of their own included, squared: that
        # of their mean ranks among all.
        kept[defined] = rankdata(kept[defined])
    each, total = defined.sum(0), int(defined.sum())
    within = np.nansum((kept - np.nanmean(kept, axis=0)) ** 2, axis=0)
    expected = np.nansum((kept - np.nanmean(kept)) ** 2)
    if expected == 0:
        return math.nan
    return float(1 - (total - 1) / total * (each / (each - 1) * within).sum() / expected)


def rank_correlations(one: Column, other: Column) -> tuple[float, float]:
    """Kendall's tau-b and Spearman's rho of two judges over the same units; NaN with fewer than three or no order.

    >>> rank_correlations(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    (1.0, 1.0)
    """
    from scipy.stats import kendalltau, spearmanr  # noqa: PLC0415 - slow to import

    both = ~np.isnan(one) & ~np.isnan(other)
    pair = one[both], other[both]
    if both.sum() < 3 or any(np.ptp(values) == 0 for values in pair):
        return math.nan, math.nan
    found: list[Any] = [kendalltau(*pair), spearmanr(*pair)]
    tau, rho = (float(one.statistic) for one in found)
    return tau, rho


def _defined_alike(
    defined: Bool[np.ndarray, "images columns"],
) -> Iterator[tuple[Bool[np.ndarray, " images"], Int[np.ndarray, " _"]]]:
    """Sets of columns that are defined for the same images, with those images."""
    patterns, which = np.unique(np.packbits(defined, axis=0), axis=1, return_inverse=True)
    for one in range(patterns.shape[1]):
        columns = np.flatnonzero(which.ravel() == one)
        yield defined[:, columns[0]], columns


def _resampled_means(values: Values, seed: int) -> Float[np.ndarray, "resamples columns"]:
    """Means of images drawn with replacement, as weights on images, so that one draw serves all columns."""
    generator, n = np.random.default_rng(seed), len(values)
    means = np.empty((RESAMPLES, values.shape[1]))
    for part in _parts(RESAMPLES, n):
        drawn = generator.integers(n, size=(part.stop - part.start, n))
        counts = np.stack([np.bincount(images, minlength=n) for images in drawn])
        means[part] = counts.astype(float) @ values / n
    return means


def _parts(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows of `width` numbers, as many at once as memory should hold."""
    size = max(1, ENTRIES // width)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


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
    from scipy.special import ndtr, ndtri  # noqa: PLC0415 - slow to import

    bias = ndtri(((drawn < mean).mean(0) + (drawn <= mean).mean(0)) / 2)
    centred = values - mean
    skew = (centred**3).sum(0) / (6 * (centred**2).sum(0) ** 1.5)
    normal = bias + ndtri([[LEVEL / 2], [1 - LEVEL / 2]])
    levels = ndtr(bias + normal / (1 - skew * normal))
    return np.stack([np.quantile(column, level) for column, level in zip(drawn.T, levels.T, strict=True)], axis=1)


def _flipped(values: Values, seed: int) -> PValues:
    """P values of all pairs of columns without NaN; a sum of signed differences is a difference of signed sums."""
    values = values - values.mean(1, keepdims=True)  # differences stay, and rounding stays small beside them
    n, width = values.shape
    exact = n < FLIPS.bit_length()
    signed = np.concatenate([signs @ values for signs in (_all_signs(n) if exact else _drawn_signs(n, seed))])
    observed, size = values.sum(0), np.abs(values).sum(0)
    found = np.ones((width, width))
    for i in range(width):
        rounding = 1e-12 * (size + size[i])
        as_far = (np.abs(signed - signed[:, [i]]) >= np.abs(observed - observed[i]) - rounding).sum(0)
        found[i] = as_far / len(signed) if exact else (as_far + 1) / (len(signed) + 1)
    return found


def _all_signs(n: int) -> Iterator[Float[np.ndarray, "flips images"]]:
    yield 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


def _drawn_signs(n: int, seed: int) -> Iterator[Float[np.ndarray, "flips images"]]:
    generator = np.random.default_rng(seed)
    for part in _parts(FLIPS, n):
        count = part.stop - part.start
        words = generator.integers(2**64 - 1, size=(count, -(-n // 64)), dtype=np.uint64, endpoint=True)
        yield 1.0 - 2 * np.unpackbits(words.view(np.uint8), axis=1, count=n)
