"""Scores of the masked images of planned curves: of all of them, or only of those between which the score changes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ibviz.metrics.adaptive import refined
from ibviz.metrics.baselines import baseline_of
from ibviz.metrics.curve_plan import CurvePlan, below_cuts, kept_cells
from ibviz.metrics.grid import cell_areas, paint
from ibviz.metrics.protocol import ADAPTIVE, CurveProtocol
from ibviz.types import Grid, Images, Masks, Score, Scores

STATES_AT_ONCE = 128  # masked images per batch if the protocol gives no batch size


class CurveScores(NamedTuple):
    """Curves of every tie order; deletion and insertion share their fractions."""

    fractions: Float[Tensor, "b orders points"]
    scores: Float[Tensor, "curves b orders points"]
    errors: Float[Tensor, "curves b orders"]  # bound of each area's error, from the steps that adaptive steps leave out
    ends: Float[Tensor, "2 b"]  # image, baseline of deletion
    passes: int


def score_curves(score: Score, images: Images, plan: CurvePlan, grid: Grid, protocol: CurveProtocol) -> CurveScores:
    """Score the masked images of a plan.

    Args:
        score: Score of each masked image.
        images: All images of the comparison.
        plan: The curves of some of them.
        grid: Rows and columns of the cells.
        protocol: The choices that define the metric.
    """
    size = (images.shape[2], images.shape[3])
    areas = cell_areas(grid, size).to(images.device)
    fractions = below_cuts(areas, plan.ranks, plan.cuts).float() / areas.sum()
    fill = _curve_masker(images[plan.start : plan.start + len(plan.ranks)], protocol)

    def scored(states: Int[Tensor, " n"]) -> Scores:
        values = torch.empty(len(states), device=images.device)  # kept small tensors would scatter the heap
        at_once = protocol.batch_size or STATES_AT_ONCE
        for batch, place in zip(states.split(at_once), values.split(at_once), strict=True):
            cells, inserting, rows = kept_cells(plan, batch)
            masked = fill(rows, paint(cells.unflatten(1, grid), size), inserting)
            place.copy_(score(masked, rows + plan.start).view_as(place))
        return values

    if protocol.steps == ADAPTIVE:
        scores, errors, passes = refined(scored, plan, fractions, protocol.tolerance)
    else:
        scores, passes = scored(plan.states)[plan.lookup], len(plan.states)
        errors = torch.zeros_like(scores[..., 0])
    ends = torch.stack([scores[0, :, 0, 0], scores[0, :, 0, -1]])
    return CurveScores(fractions[..., plan.read], scores[..., plan.read], errors, ends, passes)


Masker = Callable[[Int[Tensor, " n"], Masks, Bool[Tensor, " n"]], Images]


def _curve_masker(images: Images, protocol: CurveProtocol) -> Masker:
    """Return a function that masks the images at `rows`; insertion may have another baseline than deletion."""
    deletion, insertion = (_masker(images, name, protocol) for name in protocol.baselines)
    if protocol.baselines[0] == protocol.baselines[1]:
        return lambda rows, kept, _: deletion(rows, kept)

    def fill(rows: Int[Tensor, " n"], kept: Masks, inserting: Bool[Tensor, " n"]) -> Images:
        states = deletion(rows, kept)
        added = inserting.nonzero().squeeze(1)
        return states.index_copy_(0, added, insertion(rows[added], kept[added])) if len(added) else states

    return fill


def _masker(images: Images, baseline: str, protocol: CurveProtocol) -> Callable[[Int[Tensor, " n"], Masks], Images]:
    given = baseline_of(baseline)
    filled = partial(given.fill, colour=protocol.colour, seed=protocol.seed)
    if given.imputes:
        return lambda rows, kept: filled(images.index_select(0, rows), ~kept)
    background = filled(images, None)
    # Gathering whole rows of a channels-last copy keeps channels-last images channels-last.
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    stored, behind = (pixels.permute(0, 2, 3, 1).contiguous() if last else pixels for pixels in (images, background))

    def fill(rows: Int[Tensor, " n"], kept: Masks) -> Images:
        states, under = stored.index_select(0, rows), behind.index_select(0, rows)
        weights = kept.unsqueeze(3 if last else 1).to(states.dtype)
        # Bit-identical to `where` at weights 0 and 1, but vectorised on the CPU; in place because copying dominates.
        torch.lerp(under, states, weights, out=states)
        return states.permute(0, 3, 1, 2) if last else states

    return fill
