"""Deletion and insertion (Petsiuk 2018) over the units of one grid, with ties treated as ties."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ibviz.metrics.baselines import baseline_of
from ibviz.metrics.grid import cell_areas, enlarged, finite, in_range, on_grid, one_each, paint
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.states import Plan, below_cuts, kept_cells, plans
from ibviz.metrics.ties import TieReport, tie_report
from ibviz.types import Grid, Images, Maps, Masks, Score, Scores

BATCH = 128  # where the protocol leaves it open
FLOATS_AT_ONCE = 2**24  # of images whose baselines are held at a time: bounds memory, changes no number


class Curve(NamedTuple):
    """Score of each image at growing fractions of changed pixels, by default with both ends."""

    fractions: Float[Tensor, "*b points"]
    scores: Float[Tensor, "*b points"]


class Faithfulness(NamedTuple):
    """What removing and adding a map's cells does to the score, per image.

    `srg` (insertion minus deletion from one baseline; Blücher 2024) is the primary number: a random order has 0 under
    every baseline. Each `_tie_sd` is the sample deviation between single tie orders, not the error of their mean. Under
    a protocol whose `second` is "lerf" the insertion fields hold least relevant first.
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
    f_baseline: Scores  # of deletion
    ties: TieReport  # of the maps as they were ranked
    forward_passes: int  # masked images scored


def trapezoid(curve: Curve) -> Float[Tensor, "*b"]:
    """Area over the true fractions, in float32.

    >>> trapezoid(Curve(torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])))
    tensor([0.6250])
    """
    return torch.trapezoid(curve.scores.float(), curve.fractions.float(), dim=-1)


def _spaced(spacing: Callable[[int], float]) -> Callable[[Curve], Tensor]:
    return lambda curve: torch.trapezoid(curve.scores.float(), dx=spacing(curve.scores.shape[-1]), dim=-1)


# How a curve becomes a number. Only the first depends neither on the number of steps nor on a short last one.
AREAS: dict[str, Callable[[Curve], Tensor]] = {
    "fractions": trapezoid,
    "even": _spaced(lambda points: 1 / (points - 1)),  # RISE, Xplique
    "points": _spaced(lambda points: 1 / points),  # LATEC
    "count": lambda curve: torch.trapezoid(curve.scores.float(), dim=-1),  # Quantus
    "mean": lambda curve: curve.scores.float().mean(-1),  # IBA
}


def normalised(curve: Curve, f_image: Scores, f_baseline: Scores) -> Curve:
    """(f - f(baseline)) / (f(image) - f(baseline)): from 1 to 0, for comparing networks of different confidence.

    NaN where the baseline scores like the image, for the caller to exclude and count.

    >>> curve = Curve(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.9, 0.1]]))
    >>> normalised(curve, torch.tensor([0.9]), torch.tensor([0.1])).scores
    tensor([[1., 0.]])
    """
    span = (f_image - f_baseline).unsqueeze(-1)
    scores = (curve.scores - f_baseline.unsqueeze(-1)) / span
    return Curve(curve.fractions, scores.masked_fill(span == 0, torch.nan))


def least_first(insertion: Curve) -> Curve:
    """LeRF from the insertion curve of the same baseline: what is kept last is removed last, so it is read backwards.

    >>> least_first(Curve(torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[0.1, 0.8, 0.9]])))
    Curve(fractions=tensor([[0.0000, 0.7500, 1.0000]]), scores=tensor([[0.9000, 0.8000, 0.1000]]))
    """
    return Curve(1 - insertion.fractions.flip(-1), insertion.scores.flip(-1))


def aopc(morf: Curve) -> Float[Tensor, "*b"]:
    """Area over the perturbation curve (Samek 2017): mean over its points of f(image) - f; higher is better.

    >>> aopc(Curve(torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.9, 0.3, 0.0]])))
    tensor([0.5000])
    """
    return (morf.scores[..., :1] - morf.scores).float().mean(-1)


def abpc(morf: Curve, lerf: Curve) -> Float[Tensor, "*b"]:
    """Area between the curves of least and most relevant first; of one baseline, this is SRG.

    >>> curve = Curve(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    >>> abpc(curve, curve)
    tensor([0.])
    """
    return trapezoid(lerf) - trapezoid(morf)


def units(maps: Maps, size: Grid, protocol: CurveProtocol) -> Float[Tensor, "b _ _"]:
    """The maps as they are ranked: on the protocol's grid or their own, enlarged where pixels are removed.

    >>> protocol = CurveProtocol(colour=(0, 0, 0), unit="pixel")
    >>> units(torch.tensor([[[0.1, 0.9]]]), (1, 4), protocol)
    tensor([[[0.1000, 0.1000, 0.9000, 0.9000]]])
    """
    cells = finite(maps) if protocol.grid is None else on_grid(maps, protocol.grid)
    return enlarged(cells, size, protocol.enlargement) if protocol.unit == "pixel" else cells


def planned_states(maps: Maps, size: Grid, protocol: CurveProtocol) -> int:
    """Number of masked images `faithfulness` will score, known before any is; `size` is the images'.

    >>> planned_states(torch.tensor([[[0.1, 0.9]]]), (2, 2), CurveProtocol(colour=(0, 0, 0)))
    4
    """
    cells = units(maps, size, protocol)
    return sum(len(plan.states) for several in _planned(cells, protocol, None) for plan in several)


@torch.no_grad()
def faithfulness(score: Score, images: Images, maps: Maps, *, protocol: CurveProtocol) -> Faithfulness:
    """Curves and areas of deletion and insertion; results do not depend on the order or batching of images.

    Deletion turns the most relevant cells to the baseline first, insertion adds them to the baseline first. A fraction
    is the share of pixels changed. All on the device of the images; equal masked images are scored once.

    >>> images, maps = torch.ones(1, 3, 2, 2), torch.tensor([[[0.1, 0.9], [0.2, 0.3]]])
    >>> protocol = CurveProtocol(colour=(0, 0, 0))
    >>> faithfulness(lambda states, rows: states.mean((1, 2, 3)), images, maps, protocol=protocol).srg
    tensor([0.])
    """
    cells = units(maps, (images.shape[2], images.shape[3]), protocol)
    _check(images, cells)
    most = max(1, FLOATS_AT_ONCE // images[0].numel())
    with torch.autocast(images.device.type, enabled=False):  # the scorer opens its own, as the protocol says
        parts = [_part(score, images, cells, several, protocol) for several in _planned(cells, protocol, most)]
    return _joined(parts)


def random_order_area(score: Score, images: Images, grid: Grid, *, protocol: CurveProtocol) -> Scores:
    """Deletion area of seeded random orders on `grid`: how much a baseline harms by itself (R-OMS; Blücher 2024).

    >>> images, protocol = torch.ones(1, 3, 4, 4), CurveProtocol(colour=(0, 0, 0))
    >>> random_order_area(lambda states, rows: states.mean((1, 2, 3)), images, (2, 2), protocol=protocol)
    tensor([0.5000])
    """
    expected = protocol.model_copy(update={"ties": "expected", "second": "insertion", "grid": grid})
    return faithfulness(score, images, images.new_zeros(len(images), *grid), protocol=expected).deletion_auc


def _check(images: Images, cells: Maps) -> None:
    one_each(cells, images, "the images")
    cell_areas((cells.shape[1], cells.shape[2]), (images.shape[2], images.shape[3]))
    in_range(images)


def _planned(cells: Maps, protocol: CurveProtocol, most: int | None) -> Iterator[tuple[Plan, ...]]:
    """Plans of consecutive images; LeRF has one of its own beside each, of the negated maps."""
    directions = (cells, -cells) if protocol.second == "lerf" else (cells,)
    return zip(*(plans(values.flatten(1), protocol, most=most) for values in directions), strict=True)


class _Run(NamedTuple):
    """Curves of every tie order; one set of fractions serves deletion and insertion."""

    fractions: Float[Tensor, "b orders points"]
    scores: Float[Tensor, "2 b orders points"]
    ends: Float[Tensor, "2 b"]  # image, baseline of deletion
    passes: int


def _part(
    score: Score, images: Images, cells: Maps, several: tuple[Plan, ...], protocol: CurveProtocol
) -> Faithfulness:
    """The result for the images of a plan: what is kept of them is small."""
    start, count = several[0].start, len(several[0].ranks)
    cells = cells[start : start + count]
    first, *least = [_run(score, images, plan, (cells.shape[1], cells.shape[2]), protocol) for plan in several]
    for one in least:
        scores = torch.stack([first.scores[0], one.scores[0]])
        first = first._replace(scores=scores, passes=first.passes + one.passes)
    return _summary(first, tie_report(cells), AREAS[protocol.area])


def _joined(parts: Sequence[Any]) -> Any:
    """One result of those of consecutive images: tensors in a row, counts added up."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], int):
        return sum(parts)
    return type(parts[0])(*(_joined(column) for column in zip(*parts, strict=True)))


def _run(score: Score, images: Images, plan: Plan, grid: Grid, protocol: CurveProtocol) -> _Run:
    size = (images.shape[2], images.shape[3])
    areas = cell_areas(grid, size).to(images.device)
    fractions = below_cuts(areas, plan.ranks, plan.cuts).float() / areas.sum()
    fill = _filler(images[plan.start : plan.start + len(plan.ranks)], protocol)
    parts = []
    for wanted in plan.states.split(protocol.batch_size or BATCH):
        cells, inserting, rows = kept_cells(plan, wanted)
        states = fill(rows, paint(cells.unflatten(1, grid), size), inserting)
        parts.append(score(states, rows + plan.start).float().clone())  # clone: a view would keep its batch alive
    scores = torch.cat(parts)[plan.lookup]
    ends = torch.stack([scores[0, :, 0, 0], scores[0, :, 0, -1]])
    return _Run(fractions[..., plan.read], scores[..., plan.read], ends, len(plan.states))


Filler = Callable[[Int[Tensor, " n"], Masks, Bool[Tensor, " n"]], Images]


def _filler(images: Images, protocol: CurveProtocol) -> Filler:
    """Images of `rows` with their baseline wherever a pixel is not kept; insertion may have a baseline of its own."""
    deletion, insertion = (_one_filler(images, name, protocol) for name in protocol.baselines)
    if protocol.baselines[0] == protocol.baselines[1]:
        return lambda rows, kept, _: deletion(rows, kept)

    def fill(rows: Int[Tensor, " n"], kept: Masks, inserting: Bool[Tensor, " n"]) -> Images:
        states = deletion(rows, kept)
        added = inserting.nonzero().squeeze(1)
        return states.index_copy_(0, added, insertion(rows[added], kept[added])) if len(added) else states

    return fill


def _one_filler(images: Images, baseline: str, protocol: CurveProtocol) -> Callable[[Int[Tensor, " n"], Masks], Images]:
    given = baseline_of(baseline)
    filled = partial(given.fill, colour=protocol.colour, seed=protocol.seed)
    if given.imputes:
        return lambda rows, kept: filled(images.index_select(0, rows), ~kept)
    background = filled(images, None)
    # Stored as the network wants to read it: gathering whole rows keeps channels-last images channels-last.
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    stored, behind = (one.permute(0, 2, 3, 1).contiguous() if last else one for one in (images, background))

    def fill(rows: Int[Tensor, " n"], kept: Masks) -> Images:
        states, under = stored.index_select(0, rows), behind.index_select(0, rows)
        weights = kept.unsqueeze(3 if last else 1).to(states.dtype)
        # A `where` to the bit at weights 0 and 1, but vectorised on the CPU; in place, as copying is all the work here.
        torch.lerp(under, states, weights, out=states)
        return states.permute(0, 3, 1, 2) if last else states

    return fill


def _summary(run: _Run, ties: TieReport, area: Callable[[Curve], Tensor]) -> Faithfulness:
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
        ties=ties,
        forward_passes=run.passes,
    )


def _mean(orders: Float[Tensor, "b orders *points"]) -> Float[Tensor, "b *points"]:
    first = orders[:, :1]  # taken out and put back, so that equal orders give exactly their common value
    return first.squeeze(1) + (orders - first).mean(1)


def _deviation(orders: Float[Tensor, "b orders"]) -> Scores:
    away = orders - _mean(orders).unsqueeze(1)
    return (away.square().sum(1) / max(1, orders.shape[1] - 1)).sqrt()  # one order: 0, not NaN
