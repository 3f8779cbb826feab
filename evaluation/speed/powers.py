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
        value, low, high = (f"{round(part, 2) + 0.0:.2f}" for part in self)  # no minus before a zero
        return f"{value} [{low}, {high}]"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> Exponent:
    """Fit `cost = factor * size ** exponent` by least squares of the logarithms; three points or more.

    >>> exponent([1, 2, 4, 8], [3, 12, 48, 192])
    Exponent(value=2.0, low=2.0, high=2.0)
    """
    from scipy.stats import t

    places, heights = np.log(sizes), np.log(costs)
    away = places - places.mean()
    slope = float(away @ heights / (away @ away))
    rest = heights - heights.mean() - slope * away
    freedom = len(places) - 2
    half = float(t.ppf(0.975, freedom) * np.sqrt(rest @ rest / freedom / (away @ away)))
    return Exponent(*(round(slope + part, 6) for part in (0.0, -half, half)))


def beyond_first(sizes: Sequence[float], costs: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return what was added to the first size, and what that cost: a fixed cost of every run drops out.

    >>> beyond_first([100, 300, 1100], [5.0, 6.0, 10.0])
    ([200, 1000], [1.0, 5.0])
    """
    return [size - sizes[0] for size in sizes[1:]], [cost - costs[0] for cost in costs[1:]]
