"""The distinct masked states behind a set of curves, planned before any of them is scored."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.ties import cell_order, levels, shuffles

ENTRIES_AT_ONCE = 2**20  # of orders times cells or points per plan: bounds memory, changes no number


class Plan(NamedTuple):
    """Curves of the consecutive images from `start`: which state each point needs, every distinct state once.

    Point k of a curve has removed (deletion) or added (insertion) the cells ranked below `cuts[k]`.
    """

    start: int
    ranks: Int[Tensor, "b orders cells"]
    cuts: Int[Tensor, " points"]
    states: Int[Tensor, " states"]  # one flat index into `lookup` for each distinct state
    lookup: Int[Tensor, "2 b orders points"]  # position in `states`; deletion, then insertion


def plans(values: Float[Tensor, "b cells"], protocol: CurveProtocol) -> Iterator[Plan]:
    """Plan the curves of flat maps, a bounded number of images at a time.

    >>> protocol = CurveProtocol(baseline=(0, 0, 0), grid=(1, 2), ties="group")
    >>> [len(plan.states) for plan in plans(torch.tensor([[0.1, 0.9], [0.5, 0.5]]), protocol)]
    [6]
    """
    cuts = torch.tensor(_cuts(values, protocol), device=values.device)
    orders = shuffles(values.shape[1], protocol.orders, protocol.seed).to(values.device)
    at_once = max(1, ENTRIES_AT_ONCE // (len(orders) * max(values.shape[1], len(cuts))))
    for start in range(0, len(values), at_once):
        yield _plan(start, _ranks(values[start : start + at_once], orders, protocol), cuts)


def cut_points(cells: int, steps: int) -> list[int]:
    """Counts of cells at which a curve is read: evenly spread, both ends included, the same from either end.

    An odd number of cells has no middle, so an even number of steps becomes one more: otherwise reading a curve
    backwards would meet other states, and insertion minus deletion would not change sign with the map.

    >>> cut_points(6, 4), cut_points(5, 4), cut_points(2, 32)
    ([0, 2, 3, 4, 6], [0, 1, 2, 3, 4, 5], [0, 1, 2])
    """
    steps = min(steps, cells)
    steps += cells % 2 and not steps % 2
    return [round(step * cells / steps) for step in range(steps + 1)]  # halves to even: symmetric for even counts


def below_cuts(
    amounts: Int[Tensor, " cells"], ranks: Int[Tensor, "b orders cells"], cuts: Int[Tensor, " points"]
) -> Int[Tensor, "b orders points"]:
    """Sum the amounts of the cells ranked below each cut; integers, which wrap on overflow.

    >>> below_cuts(torch.tensor([5, 7]), torch.tensor([[[1, 0]]]), torch.tensor([0, 1, 2]))
    tensor([[[ 0,  7, 12]]])
    """
    bins = torch.zeros(*ranks.shape[:2], ranks.shape[2] + 1, dtype=torch.long, device=ranks.device)
    return bins.scatter_add_(2, ranks + 1, amounts.expand_as(ranks)).cumsum(2)[:, :, cuts]


def kept_cells(plan: Plan, states: Int[Tensor, " n"]) -> tuple[Bool[Tensor, "n cells"], Int[Tensor, " n"]]:
    """Cells that still show the image in some of a plan's `states`, and the image of the comparison each is made from.

    >>> protocol = CurveProtocol(baseline=(0, 0, 0), grid=(1, 2), ties="group")
    >>> [plan] = plans(torch.tensor([[0.1, 0.9]]), protocol)
    >>> kept_cells(plan, torch.tensor([1]))  # deletion, second point
    (tensor([[ True, False]]), tensor([0]))
    """
    inserting, row, order, point = torch.unravel_index(states, plan.lookup.shape)
    ranks = plan.ranks.flatten(0, 1).index_select(0, row * plan.ranks.shape[1] + order)
    removed = ranks < plan.cuts[point].unsqueeze(1)
    return removed == inserting.bool().unsqueeze(1), row + plan.start


def _cuts(values: Float[Tensor, "b cells"], protocol: CurveProtocol) -> list[int]:
    if protocol.ties == "group":  # maps with fewer levels than the richest repeat their last point, which adds no area
        return list(range(int(levels(values).max()) + 2))
    return cut_points(values.shape[1], protocol.steps)


def _ranks(
    values: Float[Tensor, "b cells"], orders: Int[Tensor, "orders cells"], protocol: CurveProtocol
) -> Int[Tensor, "b _ cells"]:
    if protocol.ties == "group":
        return levels(values).unsqueeze(1)
    return torch.stack([cell_order(values, order) for order in orders], dim=1)


def _plan(start: int, ranks: Int[Tensor, "b orders cells"], cuts: Int[Tensor, " points"]) -> Plan:
    found, lookup = _identities(ranks, cuts).unique(return_inverse=True)
    entries = torch.arange(lookup.numel(), device=lookup.device)
    last = torch.full_like(found, lookup.numel())
    states = last.scatter_reduce_(0, lookup.flatten(), entries, "amin")  # any member would do; the first is repeatable
    return Plan(start, ranks, cuts, states, lookup)


def _identities(ranks: Int[Tensor, "b orders cells"], cuts: Int[Tensor, " points"]) -> Int[Tensor, "2 b orders points"]:
    """Equal for equal kept sets of one image, otherwise different but for one chance in 2^63 per pair.

    The sum of fixed random keys of the kept cells, and one more for the image; sums wrap, so order cannot matter.
    """
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, (ranks.shape[2],), generator=generator).to(ranks.device)
    below = below_cuts(keys, ranks, cuts)
    images = torch.arange(len(ranks), device=ranks.device) * 0x5851F42D4C957F2D
    return torch.stack([keys.sum() - below, below]) + images.view(1, -1, 1, 1)
