"""Plan of the distinct masked images that a set of curves needs, made before any of them is scored."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ibviz.errors import InputError
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.ties import cell_order, levels, tie_orders

_ENTRIES_AT_ONCE = 2**18  # images times orders times cells (or points) per plan; bounds memory, changes no number


class CurvePlan(NamedTuple):
    """Plan of the curves of consecutive images from `start`, in which every distinct masked image occurs once.

    At point k of a curve, the cells ranked below `cuts[k]` are removed (deletion) or added (insertion).
    """

    start: int
    ranks: Int[Tensor, "b orders cells"]
    cuts: Int[Tensor, " points"]  # both ends included
    read: slice  # points that belong to the curve; the others only give its two ends
    states: Int[Tensor, " states"]  # one flat index into `lookup` per distinct masked image
    lookup: Int[Tensor, "curves b orders points"]  # position in `states`; deletion, then insertion


def plan_curves(
    values: Float[Tensor, "b cells"], protocol: CurveProtocol, *, most: int | None = None
) -> Iterator[CurvePlan]:
    """Plan the curves of flat maps, a bounded number of images at a time and at most `most`.

    >>> protocol = CurveProtocol(colour=(0, 0, 0), ties="group")
    >>> [len(plan.states) for plan in plan_curves(torch.tensor([[0.1, 0.9], [0.5, 0.5]]), protocol)]
    [6]
    """
    points, read = _points(values, protocol)
    cuts = torch.tensor(points, device=values.device)
    orders = _orders(values, protocol)
    at_once = max(1, _ENTRIES_AT_ONCE // (len(orders) * max(values.shape[1], len(cuts))))
    at_once = min(at_once, most or at_once)
    shared = len({*protocol.baselines}) == 1
    for start in range(0, len(values), at_once):
        ranks = _ranks(values[start : start + at_once], orders, protocol)
        yield _plan(start, ranks, cuts, read, shared=shared)


def deletion_only(plan: CurvePlan) -> CurvePlan:
    """Return a plan without the masked images of insertion.

    >>> [plan] = plan_curves(torch.tensor([[0.1, 0.9]]), CurveProtocol(colour=(0, 0, 0), ties="group"))
    >>> len(plan.states), len(deletion_only(plan).states)
    (4, 3)
    """
    kept, lookup = plan.lookup[:1].unique(return_inverse=True)
    return plan._replace(states=plan.states[kept], lookup=lookup)


def even_cuts(cells: int, steps: int) -> list[int]:
    """Return evenly spaced counts of cells with both ends, symmetric about the middle.

    For an odd number of cells, an even number of steps is raised by one. Otherwise a curve read backwards would have
    other points, and insertion minus deletion would not change sign with the map.

    >>> even_cuts(6, 4), even_cuts(5, 4), even_cuts(2, 32)
    ([0, 2, 3, 4, 6], [0, 1, 2, 3, 4, 5], [0, 1, 2])
    """
    steps = min(steps, cells)
    steps += cells % 2 and not steps % 2
    return [round(step * cells / steps) for step in range(steps + 1)]  # rounds half to even: symmetric for even counts


def stride_cuts(cells: int, steps: int) -> list[int]:
    """Return counts of cells every `steps` cells and at the end, with a shorter last step, as RISE and TorchCAM do.

    >>> stride_cuts(10, 4)
    [0, 4, 8, 10]
    """
    return [*range(0, cells, steps), cells]


def floor_cuts(cells: int, steps: int) -> list[int]:
    """Return counts of cells at equal fractions, rounded down, which may repeat, as Xplique does.

    >>> floor_cuts(10, 4)
    [0, 2, 5, 7, 10]
    """
    return [step * cells // steps for step in range(steps + 1)]


def iba_cuts(cells: int, steps: int) -> list[int]:
    """Return 0, then one more than each of `steps` rounded fractions of the cells, as the code of IBA does.

    >>> iba_cuts(4, 100), iba_cuts(10, 4)
    ([0, 1, 2, 3, 4], [0, 1, 4, 8])
    """
    fractions = {round(step * cells / (steps - 1)) for step in range(steps)} if steps > 1 else {0}
    return [0, *(count + 1 for count in sorted(fractions) if count < cells)]


# Counts of cells at which a curve is read. Quantus omits the unchanged image; LATEC omits both ends.
CUTS: dict[str, Callable[[int, int], list[int]]] = {
    "even": even_cuts,
    "floor": floor_cuts,
    "stride": stride_cuts,
    "stride_after": lambda cells, steps: stride_cuts(cells, steps)[1:],
    "stride_between": lambda cells, steps: stride_cuts(cells, steps)[1:-1],
    "rounded": iba_cuts,
}


def below_cuts(
    amounts: Int[Tensor, " cells"], ranks: Int[Tensor, "b orders cells"], cuts: Int[Tensor, " points"]
) -> Int[Tensor, "b orders points"]:
    """Sum the amounts of the cells ranked below each cut, in integers that wrap on overflow.

    >>> below_cuts(torch.tensor([5, 7]), torch.tensor([[[1, 0]]]), torch.tensor([0, 1, 2]))
    tensor([[[ 0,  7, 12]]])
    """
    bins = torch.zeros(*ranks.shape[:2], ranks.shape[2] + 1, dtype=torch.long, device=ranks.device)
    return bins.scatter_add_(2, ranks + 1, amounts.expand_as(ranks)).cumsum(2)[:, :, cuts]


def kept_cells(
    plan: CurvePlan, states: Int[Tensor, " n"]
) -> tuple[Bool[Tensor, "n cells"], Bool[Tensor, " n"], Tensor]:
    """Decode some of a plan's `states` into masks.

    Returns:
        Cells that still show the image; True for states of insertion; the image's row, counted from the plan's start.

    >>> protocol = CurveProtocol(colour=(0, 0, 0), ties="group")
    >>> [plan] = plan_curves(torch.tensor([[0.1, 0.9]]), protocol)
    >>> kept_cells(plan, torch.tensor([1]))  # deletion, second point
    (tensor([[ True, False]]), tensor([False]), tensor([0]))
    """
    direction, row, order, point = torch.unravel_index(states, plan.lookup.shape)
    inserting = direction.bool()
    ranks = plan.ranks.flatten(0, 1).index_select(0, row * plan.ranks.shape[1] + order)
    removed = ranks < plan.cuts[point].unsqueeze(1)
    return removed == inserting.unsqueeze(1), inserting, row


def _points(values: Float[Tensor, "b cells"], protocol: CurveProtocol) -> tuple[list[int], slice]:
    """Return all cuts with both ends, and the slice of them at which the curve is read."""
    if protocol.ties == "group":  # a map with fewer levels than others repeats its last point, which adds no area
        return list(range(int(levels(values).max()) + 2)), slice(None)
    cells = values.shape[1]
    steps = protocol.most_steps
    read = CUTS[protocol.cuts](cells, steps)
    if len(read) < 2:
        raise InputError(
            f"cuts {protocol.cuts!r} at {steps} leave {len(read)} points of {cells} cells; "
            "a curve needs two: take fewer cells a step or a finer grid"
        )
    points = [0] * (read[0] != 0) + read + [cells] * (read[-1] != cells)
    begin = points.index(read[0])
    return points, slice(begin, begin + len(read))


def _orders(values: Float[Tensor, "b cells"], protocol: CurveProtocol) -> Int[Tensor, "_ cells"]:
    rule = "index" if protocol.ties == "group" else protocol.ties  # groups need no order within a level
    return tie_orders(values.shape[1], rule, orders=protocol.orders, seed=protocol.seed).to(values.device)


def _ranks(
    values: Float[Tensor, "b cells"], orders: Int[Tensor, "orders cells"], protocol: CurveProtocol
) -> Int[Tensor, "b _ cells"]:
    if protocol.ties == "group":
        return levels(values).unsqueeze(1)
    return torch.stack([cell_order(values, order) for order in orders], dim=1)


def _plan(
    start: int, ranks: Int[Tensor, "b orders cells"], cuts: Int[Tensor, " points"], read: slice, *, shared: bool
) -> CurvePlan:
    distinct, lookup = _identities(ranks, cuts, shared=shared).unique(return_inverse=True)
    entries = torch.arange(lookup.numel(), device=lookup.device)
    last = torch.full_like(distinct, lookup.numel())
    states = last.scatter_reduce_(0, lookup.flatten(), entries, "amin")  # the first of equal states: reproducible
    return CurvePlan(start, ranks, cuts, read, states, lookup)


def _identities(
    ranks: Int[Tensor, "b orders cells"], cuts: Int[Tensor, " points"], *, shared: bool
) -> Int[Tensor, "2 b orders points"]:
    """Hash every masked image: equal for equal masks of one image, with a collision chance of 2^-63 per pair.

    A hash is the sum of fixed random keys of the kept cells and of a key of the image; wrapping sums are independent of
    the order. If deletion and insertion have different baselines, they share only the unmasked image (`shared` False).
    """
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, (ranks.shape[2],), generator=generator).to(ranks.device)
    added, whole = below_cuts(keys, ranks, cuts), keys.sum()
    kept = torch.stack([whole - added, added])
    if not shared:
        kept[1] += (added != whole) * 0x2545F4914F6CDD1D
    images = torch.arange(len(ranks), device=ranks.device) * 0x5851F42D4C957F2D
    return kept + images.view(1, -1, 1, 1)
