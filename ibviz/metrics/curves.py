"""Deletion and insertion (Petsiuk 2018) over cells of one grid, from one baseline, with ties treated as ties."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ibviz.errors import InputError
from ibviz.metrics.grid import cell_areas, on_grid, paint
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.states import Plan, below_cuts, kept_cells, plans
from ibviz.metrics.ties import TieReport, tie_report
from ibviz.types import Grid, Images, Maps, Score, Scores


class Curve(NamedTuple):
    """Score of each image at growing fractions of changed pixels, both ends included."""

    fractions: Float[Tensor, "*b points"]
    scores: Float[Tensor, "*b points"]


class Faithfulness(NamedTuple):
    """What removing and adding a map's cells does to the score, per image.

    `srg` (insertion minus deletion from one baseline; Blücher 2024) is the primary number: a random order has 0 under
    every baseline. Each `_tie_sd` is the sample deviation between single tie orders, not the error of their mean.
    """

    deletion: Curve  # mean over tie orders
    insertion: Curve
    deletion_auc: Scores  # mean of the orders' areas; lower is better
    insertion_auc: Scores  # higher is better
    srg: Scores  # higher is better
    deletion_tie_sd: Scores
    insertion_tie_sd: Scores
    srg_tie_sd: Scores
    f_image: Scores
    f_baseline: Scores
    ties: TieReport  # of the maps on the protocol's grid
    forward_passes: int  # masked images scored


def area(curve: Curve) -> Float[Tensor, "*b"]:
    """Trapezoid over the true fractions, in float32.

    >>> area(Curve(torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])))
    tensor([0.6250])
    """
    return torch.trapezoid(curve.scores.float(), curve.fractions.float(), dim=-1)


def planned_states(maps: Maps, protocol: CurveProtocol) -> int:
    """Number of masked images `faithfulness` will score, known before any is.

    >>> planned_states(torch.tensor([[[0.1, 0.9]]]), CurveProtocol(baseline=(0, 0, 0), grid=(1, 2)))
    4
    """
    return sum(len(plan.states) for plan in plans(on_grid(maps, protocol.grid).flatten(1), protocol))


@torch.no_grad()
def faithfulness(score: Score, images: Images, maps: Maps, *, protocol: CurveProtocol) -> Faithfulness:
    """Curves and areas of deletion and insertion; results do not depend on the order or batching of images.

    Deletion turns the most relevant cells to the baseline first, insertion adds them to the baseline first. A fraction
    is the share of pixels changed. All on the device of the images; equal masked images are scored once.

    >>> images, maps = torch.ones(1, 3, 2, 2), torch.tensor([[[0.1, 0.9], [0.2, 0.3]]])
    >>> protocol = CurveProtocol(baseline=(0, 0, 0), grid=(2, 2))
    >>> faithfulness(lambda states, rows: states.mean((1, 2, 3)), images, maps, protocol=protocol).srg
    tensor([0.])
    """
    cells = on_grid(maps, protocol.grid)
    _check(images, protocol.grid)
    colour = torch.tensor(protocol.baseline, dtype=images.dtype, device=images.device).view(3, 1, 1)
    parts = [_run(score, images, plan, colour, protocol) for plan in plans(cells.flatten(1), protocol)]
    return _summary(_joined(parts), tie_report(cells))


def _check(images: Images, grid: Grid) -> None:
    cell_areas(grid, (images.shape[2], images.shape[3]))
    low, high = (float(end) for end in images.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN is refused; resizing may overshoot a little
        raise InputError(f"images must be in [0, 1] pixel space, not normalised; got {low:.3g} to {high:.3g}")


class _Run(NamedTuple):
    """Curves of every tie order; one set of fractions serves deletion and insertion."""

    fractions: Float[Tensor, "b orders points"]
    scores: Float[Tensor, "2 b orders points"]
    passes: int


def _run(score: Score, images: Images, plan: Plan, colour: Float[Tensor, "3 1 1"], protocol: CurveProtocol) -> _Run:
    areas = cell_areas(protocol.grid, (images.shape[2], images.shape[3])).to(images.device)
    fractions = below_cuts(areas, plan.ranks, plan.cuts).float() / areas.sum()
    batches = plan.states.split(protocol.batch_size)
    parts = [score(*_masked(images, plan, wanted, colour, protocol.grid)).float().clone() for wanted in batches]
    return _Run(fractions, torch.cat(parts)[plan.lookup], len(plan.states))  # clone: a view would keep its batch alive


def _masked(
    images: Images, plan: Plan, wanted: Int[Tensor, " n"], colour: Float[Tensor, "3 1 1"], grid: Grid
) -> tuple[Float[Tensor, "n 3 h w"], Int[Tensor, " n"]]:
    cells, rows = kept_cells(plan, wanted)
    kept = paint(cells.unflatten(1, grid), (images.shape[2], images.shape[3]))
    states = images.index_select(0, rows)
    # A `where` to the bit at weights 0 and 1, but vectorised on the CPU; in place, as copying is all the work here.
    return torch.lerp(colour, states, kept.unsqueeze(1).to(states.dtype), out=states), rows


def _joined(runs: list[_Run]) -> _Run:
    fractions, scores, passes = zip(*runs, strict=True)
    return _Run(torch.cat(fractions), torch.cat(scores, dim=1), sum(passes))


def _summary(run: _Run, ties: TieReport) -> Faithfulness:
    deletion, insertion = (Curve(_mean(run.fractions), _mean(scores)) for scores in run.scores)
    removed, added = area(Curve(run.fractions, run.scores))
    areas = (removed, added, added - removed)
    return Faithfulness(
        deletion,
        insertion,
        *(_mean(values) for values in areas),
        *(_deviation(values) for values in areas),
        f_image=deletion.scores[:, 0],
        f_baseline=deletion.scores[:, -1],
        ties=ties,
        forward_passes=run.passes,
    )


def _mean(orders: Float[Tensor, "b orders *points"]) -> Float[Tensor, "b *points"]:
    first = orders[:, :1]  # taken out and put back, so that equal orders give exactly their common value
    return first.squeeze(1) + (orders - first).mean(1)


def _deviation(orders: Float[Tensor, "b orders"]) -> Scores:
    away = orders - _mean(orders).unsqueeze(1)
    return (away.square().sum(1) / max(1, orders.shape[1] - 1)).sqrt()  # one order: 0, not NaN
