"""Agreement of raters about units, and rank correlation of two raters."""

import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ibviz.statistics.samples import Column


def krippendorff_alpha(
    ratings: Float[np.ndarray, "raters units"], *, level: Literal["interval", "ordinal"] = "ordinal"
) -> float:
    """Compute Krippendorff's alpha (2011): 1 for full agreement, 0 for chance, below 0 for less than chance.

    NaN is a missing rating; units with a single rating are left out. The result is NaN if all ratings are equal.

    >>> krippendorff_alpha(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    1.0
    """
    from scipy.stats import rankdata

    kept = ratings[:, (~np.isnan(ratings)).sum(0) > 1]
    defined = ~np.isnan(kept)
    if not defined.any():
        return math.nan
    if level == "ordinal":
        # The ordinal distance of two values is the squared difference of their mean ranks among all ratings.
        kept[defined] = rankdata(kept[defined])
    each, total = defined.sum(0), int(defined.sum())
    within = np.nansum((kept - np.nanmean(kept, axis=0)) ** 2, axis=0)
    expected = np.nansum((kept - np.nanmean(kept)) ** 2)
    if expected == 0:
        return math.nan
    return float(1 - (total - 1) / total * (each / (each - 1) * within).sum() / expected)


def rank_correlations(first: Column, second: Column) -> tuple[float, float]:
    """Kendall's tau-b and Spearman's rho of two raters over the same units.

    Both are NaN for fewer than three units, or if a rater gives all units the same value.

    >>> rank_correlations(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    (1.0, 1.0)
    """
    from scipy.stats import kendalltau, spearmanr

    both = ~np.isnan(first) & ~np.isnan(second)
    pair = first[both], second[both]
    if both.sum() < 3 or any(np.ptp(values) == 0 for values in pair):
        return math.nan, math.nan
    results: list[Any] = [kendalltau(*pair), spearmanr(*pair)]
    tau, rho = (float(result.statistic) for result in results)
    return tau, rho
