"""Exponents of growth: a straight line through logarithms, with an interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Exponent(NamedTuple):
    """The slope of a line through logarithms, with the bounds of its 95 % interval (Student's t)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> Exponent:
    """Fit `cost = factor * size ** exponent` by least squares of the logarithms; three points or more.

    >>> exponent([1, 2, 4, 8], [3, 12, 48, 192])
    Exponent(value=2.0, low=2.0, high=2.0)
    """
    from scipy.stats import linregress, t

    fit = linregress(np.log(sizes), np.log(costs))
    half = float(t.ppf(0.975, len(sizes) - 2) * fit.stderr)
    return Exponent(*(round(float(fit.slope) + part, 6) for part in (0.0, -half, half)))


def beyond_first(sizes: Sequence[float], costs: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return what was added to the first size, and what that cost: a fixed cost of every run drops out.

    >>> beyond_first([100, 300, 1100], [5.0, 6.0, 10.0])
    ([200, 1000], [1.0, 5.0])
    """
    return [size - sizes[0] for size in sizes[1:]], [cost - costs[0] for cost in costs[1:]]
