"""Variance of a mean over clustered images and over trainings of one recipe, with t intervals and p values.

The variance of the mean of `images x trainings` values has two parts that are estimated separately: clusters of images
(from means over trainings) and trainings (from means over images). Both contain their interaction.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ibviz.statistics.samples import Clusters, Column, Trained, Values, cluster_sums, sizes_of

LEAST_CLUSTERS = 5  # with several trainings; with fewer clusters, intervals cover the mean in 87 to 99 % of cases
# Fractions of the interaction, which is in both parts, that are subtracted before the parts are added. Chosen by
# simulation (evaluation/results/coverage): intervals cover the mean in 92 to 98 % of cases for 2 to 20 trainings and
# any variances with ten clusters, and in up to 98.5 % with five.
QUANTILE = 0.3  # of F: trainings whose variance relative to the interaction is below it count as equal
COMMON_SHARE = 0.15
_MIN_LOG_P = -690.0  # logarithm of the smallest p


class Variance(NamedTuple):
    """Two parts of the variance of each mean, with their degrees of freedom."""

    images: Column
    images_freedom: float
    trainings: Column  # 0 for a single training
    trainings_freedom: int


def clustered_variance(values: Values, clusters: Clusters | None) -> tuple[Column, float]:
    """Variance of the mean of each column over images, and its degrees of freedom, for clusters of any size.

    This is the cluster-robust estimate with the CR2 correction and degrees of freedom of Bell and McCaffrey (2002),
    which have a closed form for a mean. For clusters of equal size it equals the t interval over the means of clusters.
    NaN for a single cluster.

    >>> clustered_variance(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]))
    (array([1.]), 1.0)
    """
    sizes = sizes_of(clusters, len(values))
    if len(sizes) < 2:
        return np.full(values.shape[1], np.nan), np.nan
    share = sizes / sizes.sum()
    sums = cluster_sums(values - values.mean(0), clusters)
    variance = (sums**2 / (1 - share)[:, None]).sum(0) / sizes.sum() ** 2
    leverage = share**2 / (1 - share)
    return variance, float(1 / ((share**2).sum() + leverage.sum() ** 2 - (leverage**2).sum()))


def variance_of(values: Trained, clusters: Clusters | None) -> Variance:
    """Estimate both parts of the variance of each column's mean; NaN if there are too few clusters.

    Trainings and images are crossed: each training is measured on the same images. With one image per cluster, the
    parts are mean squares of a two-way analysis of variance (Searle, Casella and McCulloch 1992).
    """
    trainings, width = values.shape[1], values.shape[2]
    by_image, by_training = values.mean(1), values.mean(0)
    images, freedom = clustered_variance(by_image, clusters)
    if trainings == 1:
        return Variance(images, freedom, np.zeros(width), 0)
    if len(sizes_of(clusters, len(values))) < LEAST_CLUSTERS:
        images = images * np.nan
    rest = values - by_image[:, None] - by_training + values.mean((0, 1))
    common = clustered_variance(rest.reshape(len(rest), -1), clusters)[0].reshape(trainings, width).sum(0)
    common /= trainings * (trainings - 1)
    own = by_training.var(0, ddof=1) / trainings
    unseen = _lower_quantile(float(trainings - 1), (trainings - 1) * freedom) * common
    return Variance((images - COMMON_SHARE * common).clip(0), freedom, (own - unseen).clip(0), trainings - 1)


def _lower_quantile(numerator: float, denominator: float) -> float:
    from scipy.special import fdtri

    return float(fdtri(numerator, denominator, QUANTILE)) if denominator == denominator else np.nan


def margin(variance: Variance, p: Column | float) -> Column:
    """Half width of the two-sided confidence interval of level `1 - p`.

    The t quantiles of both parts are weighted by the parts (Cochran 1964); for a single training this is Student's t
    over clusters.

    >>> variance = Variance(np.array([4.0]), 10.0, np.array([0.0]), 0)
    >>> margin(variance, 0.05).round(3)  # 2 x the 97.5 % quantile of t with 10 degrees of freedom
    array([4.456])
    """
    from scipy.special import stdtrit

    whole = variance.images + variance.trainings
    spread = -stdtrit(variance.images_freedom, np.asarray(p) / 2) * variance.images
    if variance.trainings_freedom:
        spread = spread - stdtrit(variance.trainings_freedom, np.asarray(p) / 2) * variance.trainings
    return np.divide(spread, np.sqrt(whole), out=np.where(whole == 0, 0.0, np.nan), where=whole > 0)


def p_value(mean: Column, variance: Variance) -> Column:
    """Two-sided p value of each mean against 0: the p at which the interval of `margin` just reaches 0.

    >>> p_value(np.array([4.456]), Variance(np.array([4.0]), 10.0, np.array([0.0]), 0)).round(3)
    array([0.05])
    """
    low, high = np.full(len(mean), _MIN_LOG_P), np.zeros(len(mean))
    for _ in range(40):  # to nine digits of the logarithm
        middle = (low + high) / 2
        beyond = margin(variance, np.exp(middle)) < np.abs(mean)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    p = np.where(mean == 0, 1.0, np.exp(high))
    return np.where(np.isnan(variance.images), np.nan, p)


def t_interval(values: Trained, clusters: Clusters | None, level: float) -> Float[np.ndarray, "3 columns"]:
    """Mean and interval of columns without NaN; the interval is NaN if there are too few clusters."""
    mean = values.mean((0, 1))
    off = margin(variance_of(values, clusters), level)
    return np.stack([mean, mean - off, mean + off])
