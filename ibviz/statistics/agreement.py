"""Whether judges agree: about units, and in the order they put them in."""

import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ibviz.statistics.samples import Column


def krippendorff_alpha(
    ratings: Float[np.ndarray, "raters units"], *, level: Literal["interval", "ordinal"] = "ordinal"
) -> float:
    """How far raters agree about units (Krippendorff 2011): 1 wholly, 0 as by chance, below 0 less than by chance.

    NaN is a missing rating; a unit with a single one tells nothing. The result is NaN where all ratings are equal.

    >>> krippendorff_alpha(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    1.0
    """
    from scipy.stats import rankdata

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
    from scipy.stats import kendalltau, spearmanr

    both = ~np.isnan(one) & ~np.isnan(other)
    pair = one[both], other[both]
    if both.sum() < 3 or any(np.ptp(values) == 0 for values in pair):
        return math.nan, math.nan
    found: list[Any] = [kendalltau(*pair), spearmanr(*pair)]
    tau, rho = (float(one.statistic) for one in found)
    return tau, rho
