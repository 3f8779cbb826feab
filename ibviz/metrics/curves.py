"""Deletion and insertion curves (Petsiuk 2018) over the cells or pixels of a map, with an explicit rule for ties."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ibviz.metrics.curve_plan import CurvePlan, deletion_only, plan_curves
from ibviz.metrics.curve_scores import CurveScores, score_curves
from ibviz.metrics.grid import cell_areas, check_one_each, enlarged, finite, in_range, on_grid
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.ties import TieReport, tie_report
from ibviz.types import Grid, Images, Maps, Score, Scores

FLOATS_AT_ONCE = 2**24  # floats of the images whose baselines are held at once; bounds memory, changes no number


class Curve(NamedTuple):
    """Score of each image at increasing fractions of changed pixels, by default from 0 to 1."""

    fractions: Float[Tensor, "*b points"]
    scores: Float[Tensor, "*b points"]


class Faithfulness(NamedTuple):
    """Deletion and insertion curves per image, with the areas under them.

    `srg` (insertion minus deletion from one baseline; Blücher 2024) is the primary metric: its expectation for a random
    order is 0 under every baseline. Each `_tie_sd` is the sample deviation between single tie orders, not the error of
    their mean. If the protocol's `second` is "lerf", the insertion fields hold deletion with the least relevant first.
    """

    deletion: Curve  # mean over tie orders
    insertion: Curve
    deletion_auc: Scores  # mean over tie orders; lower is better
    insertion_auc: Scores  # higher is better
    srg: Scores  # higher is better
    deletion_tie_sd: Scores
    insertion_tie_sd: Scores
    srg_tie_sd: Scores
    f_image: Scores  # score of the image
    f_baseline: Scores  # score of deletion's baseline
    area_error: Scores  # bound of the error of SRG, and so of both areas, from steps that adaptive steps leave out
    ties: TieReport  # of the maps as they were ranked
    forward_passes: int  # number of masked images scored


def trapezoid(curve: Curve) -> Float[Tensor, "*b"]:
    """Area under a curve by the trapezoidal rule over its own fractions, in float32.

    >>> trapezoid(Curve(torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])))
    tensor([0.6250])
    """
    return torch.trapezoid(curve.scores.float(), curve.fractions.float(), dim=-1)


def _spaced(spacing: Callable[[int], float]) -> Callable[[Curve], Tensor]:
    return lambda curve: torch.trapezoid(curve.scores.float(), dx=spacing(curve.scores.shape[-1]), dim=-1)


# Rules that reduce a curve to one number. Only the first is independent of the number and the evenness of its steps.
AREAS: dict[str, Callable[[Curve], Tensor]] = {
    "fractions": trapezoid,
    "even": _spaced(lambda points: 1 / (points - 1)),  # RISE, Xplique
    "points": _spaced(lambda points: 1 / points),  # LATEC
    "count": lambda curve: torch.trapezoid(curve.scores.float(), dim=-1),  # Quantus
    "mean": lambda curve: curve.scores.float().mean(-1),  # IBA
}


def normalised(curve: Curve, f_image: Scores, f_baseline: Scores) -> Curve:
    """Normalise a deletion curve to run from 1 to 0, for comparing networks of different confidence.

    Returns:
        The curve of (f - f(baseline)) / (f(image) - f(baseline)); NaN if image and baseline have the same score.

    >>> curve = Curve(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.9, 0.1]]))
    >>> normalised(curve, torch.tensor([0.9]), torch.tensor([0.1])).scores
    tensor([[1., 0.]])
    """
    span = (f_image - f_baseline).unsqueeze(-1)
    scores = (curve.scores - f_baseline.unsqueeze(-1)) / span
    return Curve(curve.fractions, scores.masked_fill(span == 0, torch.nan))


def least_first(insertion: Curve) -> Curve:
    """Read an insertion curve backwards as deletion with the least relevant cells first (LeRF), from one baseline.

    >>> least_first(Curve(torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[0.1, 0.8, 0.9]])))
    Curve(fractions=tensor([[0.0000, 0.7500, 1.0000]]), scores=tensor([[0.9000, 0.8000, 0.1000]]))
    """
    return Curve(1 - insertion.fractions.flip(-1), insertion.scores.flip(-1))


def aopc(morf: Curve) -> Float[Tensor, "*b"]:
    """Area over the perturbation curve (Samek 2017): the mean of f(image) - f over its points; higher is better.

    >>> aopc(Curve(torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.9, 0.3, 0.0]])))
    tensor([0.5000])
    """
    return (morf.scores[..., :1] - morf.scores).float().mean(-1)


def abpc(morf: Curve, lerf: Curve) -> Float[Tensor, "*b"]:
    """Area between the curves that remove the least and the most relevant first; SRG if both have one baseline.

    >>> curve = Curve(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    >>> abpc(curve, curve)
    tensor([0.])
    """
    return trapezoid(lerf) - trapezoid(morf)


def units(maps: Maps, size: Grid, protocol: CurveProtocol) -> Float[Tensor, "b _ _"]:
    """Return maps as they are ranked: on the protocol's grid or their own, enlarged if pixels are removed.

    >>> protocol = CurveProtocol(colour=(0, 0, 0), unit="pixel")
    >>> units(torch.tensor([[[0.1, 0.9]]]), (1, 4), protocol)
    tensor([[[0.1000, 0.1000, 0.9000, 0.9000]]])
    """
    cells = finite(maps) if protocol.grid is None else on_grid(maps, protocol.grid)
    return enlarged(cells, size, protocol.enlargement) if protocol.unit == "pixel" else cells


def planned_states(maps: Maps, size: Grid, protocol: CurveProtocol) -> int:
    """Count the masked images that `faithfulness` will score, without scoring any; `size` is that of the images.

    With adaptive steps it is the largest possible number.

    >>> planned_states(torch.tensor([[[0.1, 0.9]]]), (2, 2), CurveProtocol(colour=(0, 0, 0)))
    4
    """
    cells = units(maps, size, protocol)
    return sum(len(plan.states) for plans in _planned(cells, protocol, None) for plan in plans)


@torch.no_grad()
def faithfulness(score: Score, images: Images, maps: Maps, *, protocol: CurveProtocol) -> Faithfulness:
    """Compute the curves and areas of deletion and insertion, independent of the order and batching of images.

    Deletion replaces the most relevant cells by the baseline first; insertion adds them to the baseline first.
    Fractions are those of changed pixels. Everything runs on the device of the images, and equal masked images are
    scored once.

    Args:
        score: Score of each masked image, as from `scorer`.
        images: Images in [0, 1], before the network's normalisation.
        maps: One signed map per image, on a grid no finer than the image.
        protocol: The choices that define the metric.

    Raises:
        InputError: If images leave [0, 1], maps are not finite, or there is not one map per image.

    >>> images, maps = torch.ones(1, 3, 2, 2), torch.tensor([[[0.1, 0.9], [0.2, 0.3]]])
    >>> protocol = CurveProtocol(colour=(0, 0, 0))
    >>> faithfulness(lambda states, rows: states.mean((1, 2, 3)), images, maps, protocol=protocol).srg
    tensor([0.])
    """
    cells = units(maps, (images.shape[2], images.shape[3]), protocol)
    _check(images, cells)
    most = max(1, FLOATS_AT_ONCE // images[0].numel())
    with torch.autocast(images.device.type, enabled=False):  # the scorer opens its own as the protocol asks
        parts = [_part(score, images, cells, plans, protocol) for plans in _planned(cells, protocol, most)]
    return _joined(parts)


def random_order_area(score: Score, images: Images, grid: Grid, *, protocol: CurveProtocol) -> Scores:
    """Area under deletion in seeded random orders: the drop caused by the baseline alone (R-OMS; Blücher 2024).

    Args:
        score: Score of each masked image.
        images: Images in [0, 1].
        grid: Rows and columns of the cells that are removed.
        protocol: The choices that define the metric; its grid and tie rule are replaced.

    >>> images, protocol = torch.ones(1, 3, 4, 4), CurveProtocol(colour=(0, 0, 0))
    >>> random_order_area(lambda states, rows: states.mean((1, 2, 3)), images, (2, 2), protocol=protocol)
    tensor([0.5000])
    """
    expected = protocol.model_copy(update={"ties": "expected", "second": "insertion", "grid": grid})
    return faithfulness(score, images, images.new_zeros(len(images), *grid), protocol=expected).deletion_auc


def _check(images: Images, cells: Maps) -> None:
    check_one_each(cells, images, "the images")
    cell_areas((cells.shape[1], cells.shape[2]), (images.shape[2], images.shape[3]))
    in_range(images)


def _planned(cells: Maps, protocol: CurveProtocol, most: int | None) -> Iterator[tuple[CurvePlan, ...]]:
    """Plan the curves of consecutive images; for LeRF, deletion alone, of the maps and of the negated maps."""
    plans = plan_curves(cells.flatten(1), protocol, most=most)
    if protocol.second != "lerf":
        return zip(plans)
    reversed_plans = plan_curves(-cells.flatten(1), protocol, most=most)
    return zip(map(deletion_only, plans), map(deletion_only, reversed_plans), strict=True)


def _part(
    score: Score, images: Images, cells: Maps, plans: tuple[CurvePlan, ...], protocol: CurveProtocol
) -> Faithfulness:
    """Compute the result for the images of one plan, or of a plan and its LeRF counterpart."""
    start, count = plans[0].start, len(plans[0].ranks)
    cells = cells[start : start + count]
    grid = (cells.shape[1], cells.shape[2])
    curves, *least = [score_curves(score, images, plan, grid, protocol) for plan in plans]
    for lerf in least:
        scores, errors = torch.cat([curves.scores, lerf.scores]), torch.cat([curves.errors, lerf.errors])
        curves = curves._replace(scores=scores, errors=errors, passes=curves.passes + lerf.passes)
    return _summary(curves, tie_report(cells), AREAS[protocol.area])


def _joined(parts: Sequence[Any]) -> Any:
    """Join the results of consecutive images: concatenate tensors, add counts."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], int):
        return sum(parts)
    return type(parts[0])(*(_joined(column) for column in zip(*parts, strict=True)))


def _summary(run: CurveScores, ties: TieReport, area: Callable[[Curve], Tensor]) -> Faithfulness:
    deletion, insertion = (Curve(_mean(run.fractions), _mean(scores)) for scores in run.scores)
    removed, added = area(Curve(run.fractions.expand_as(run.scores), run.scores))
    areas = (removed, added, added - removed)
    return Faithfulness(
        deletion,
        insertion,
        *(_mean(values) for values in areas),
        *(_deviation(values) for values in areas),
        f_image=run.ends[0],
        f_baseline=run.ends[1],
        area_error=run.errors.mean(2).sum(0),
        ties=ties,
        forward_passes=run.passes,
    )


def _mean(orders: Float[Tensor, "b orders *points"]) -> Float[Tensor, "b *points"]:
    first = orders[:, :1]  # subtracted and added back, so that the mean of equal values is exact
    return first.squeeze(1) + (orders - first).mean(1)


def _deviation(orders: Float[Tensor, "b orders"]) -> Scores:
    deviations = orders - _mean(orders).unsqueeze(1)
    return (deviations.square().sum(1) / max(1, orders.shape[1] - 1)).sqrt()  # a single order gives 0, not NaN
