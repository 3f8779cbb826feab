"""Curves at fewer points: intervals between which the score changes are bisected, the others are left out.

Between two points a monotone curve stays within their scores, so the trapezoid is off by at most half of their
difference times the width of the interval. Intervals with the smallest bounds are accepted as long as their sum stays
below the tolerance; all others are bisected, down to the steps of the even grid.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ibviz.metrics.curve_plan import CurvePlan
from ibviz.types import Scores

Point = TypeVar("Point", int, Tensor)


class Refined(NamedTuple):
    """Curves on the whole grid, with straight lines where points were left out."""

    scores: Float[Tensor, "curves b orders points"]
    errors: Float[Tensor, "curves b orders"]  # bound of the error of each area, if curves are monotone between points
    passes: int  # number of states that were scored


def refined(
    score: Callable[[Int[Tensor, " n"]], Scores],
    plan: CurvePlan,
    fractions: Float[Tensor, "b orders points"],
    tolerance: float,
) -> Refined:
    """Score the states of a plan where the score changes, in rounds over all of its curves.

    A state that is known from another curve of the image is used by all of them.

    Args:
        score: Score of some of the plan's states.
        plan: The curves, at even steps.
        fractions: Share of changed pixels at each point.
        tolerance: Bound of the error of each area, for curves that are monotone between their points.
    """
    lookup, steps = plan.lookup, fractions.shape[-1] - 1
    values = fractions.new_zeros(len(plan.states))
    known = torch.zeros_like(values, dtype=torch.bool)
    states, passes = lookup[..., first_points(steps)].unique(), 0
    while True:
        values[states] = score(plan.states[states])
        known[states], passes = True, passes + len(states)
        scores, there = values[lookup], known[lookup]
        bounds, following = _bounds(scores, there, fractions)
        low = torch.arange(steps, device=lookup.device)
        asked = lookup.gather(-1, middle(low, following, steps))
        needed = torch.zeros_like(values).scatter_reduce_(
            0, asked.flatten(), _beyond(bounds, tolerance).flatten(), "amax"
        )
        states = needed.nonzero().squeeze(1)  # the only copy to the host in a round
        if not len(states):
            return Refined(_joined_by_lines(scores, there, fractions), bounds.sum(-1), passes)


def first_points(steps: int) -> list[int]:
    """Return the points that every curve has: both ends, the middle, and the middles between them.

    >>> first_points(32), first_points(5)
    ([0, 8, 16, 24, 32], [0, 1, 2, 3, 4, 5])
    """
    halves = [0, steps // 2, -(-steps // 2), steps]
    return sorted({*halves, *(middle(low, high, steps) for low, high in pairwise(halves))})


def middle(low: Point, high: Point, steps: int) -> Point:
    """Return the point between two others, rounded towards the middle of the curve, so that it is symmetric.

    >>> middle(0, 5, 32), middle(27, 32, 32)
    (3, 29)
    """
    return (low + high + (low + high < steps)) // 2


def _bounds(
    scores: Float[Tensor, "curves b orders points"],
    there: Bool[Tensor, "curves b orders points"],
    fractions: Float[Tensor, "b orders points"],
) -> tuple[Float[Tensor, "curves b orders steps"], Int[Tensor, "curves b orders steps"]]:
    """Return the bound of each interval at its first point, 0 elsewhere and between neighbours; and its last point."""
    following = _next_known(there)[..., 1:]
    low = torch.arange(following.shape[-1], device=following.device)
    change = scores.gather(-1, following) - scores[..., :-1]
    width = fractions.expand_as(scores).gather(-1, following) - fractions[..., :-1]
    divisible = there[..., :-1] & (following - low > 1)
    return torch.where(divisible, change.abs() * width / 2, 0), following


def _next_known(there: Bool[Tensor, "*b points"]) -> Int[Tensor, "*b points"]:
    """Return the first known point from each point on."""
    last = there.shape[-1] - 1
    points = torch.arange(last + 1, device=there.device)
    return torch.where(there, points, last).flip(-1).cummin(-1).values.flip(-1)


def _beyond(bounds: Float[Tensor, "*b steps"], tolerance: float) -> Float[Tensor, "*b steps"]:
    """Return 1 for intervals that the tolerance does not cover together with all that are not larger, otherwise 0."""
    ordered = bounds.sort(-1).values
    not_larger = torch.searchsorted(ordered, bounds, right=True) - 1  # equal bounds go together: symmetric
    return (ordered.cumsum(-1).gather(-1, not_larger.clamp(min=0)) > tolerance).to(bounds.dtype)


def _joined_by_lines(
    scores: Float[Tensor, "curves b orders points"],
    there: Bool[Tensor, "curves b orders points"],
    fractions: Float[Tensor, "b orders points"],
) -> Float[Tensor, "curves b orders points"]:
    """Return the curves with the points on straight lines that were left out; areas by trapezoids stay the same."""
    after = _next_known(there)
    before = there.shape[-1] - 1 - _next_known(there.flip(-1)).flip(-1)
    places = fractions.expand_as(scores)
    start, end = places.gather(-1, before), places.gather(-1, after)
    line = torch.lerp(scores.gather(-1, before), scores.gather(-1, after), (places - start) / (end - start))
    return torch.where(there, scores, line)
