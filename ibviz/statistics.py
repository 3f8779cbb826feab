"""How sure a mean is."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Estimate(NamedTuple):
    """Mean over images with its 95 % percentile bootstrap interval; `excluded` images had no defined value."""

    mean: float
    low: float
    high: float
    n: int
    excluded: int


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Bootstrap the mean over images (Efron 1979), leaving NaN values out and counting them.

    >>> estimate([1.0, 1.0, float("nan")])
    Estimate(mean=1.0, low=1.0, high=1.0, n=2, excluded=1)
    """
    from scipy.stats import bootstrap  # noqa: PLC0415 - slow to import

    kept = np.array([value for value in values if not math.isnan(value)])
    excluded = len(values) - len(kept)
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan, 0, excluded)
    if kept.min() == kept.max():  # nothing to resample
        value = float(kept[0])
        return Estimate(value, value, value, len(kept), excluded)
    drawn = bootstrap((kept,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed))
    low, high = drawn.confidence_interval
    return Estimate(float(kept.mean()), float(low), float(high), len(kept), excluded)
