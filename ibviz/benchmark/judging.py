"""Judging of maps by every metric under every protocol, for evaluations in memory and suites."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from ibviz.attribution.catalogue import CONTROLS
from ibviz.benchmark.batch import Batch
from ibviz.benchmark.compiled import Forward
from ibviz.errors import InputError
from ibviz.metrics.catalogue import measure, metric_of
from ibviz.metrics.curve_scores import STATES_AT_ONCE
from ibviz.metrics.curves import Faithfulness, faithfulness, planned_states, random_order_area, units
from ibviz.metrics.metric import MetricInput
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.score import scorer
from ibviz.metrics.ties import TieReport, tie_report
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.types import MACHINE_ERRORS, Grid, Labels, Maps, Scores

UNIFORM = "uniform"  # label of the control whose deletion area is that of random orders

Failed = Callable[[str, Labels, Exception], object]  # called with the method, the places of its images and the error


class Rules(NamedTuple):
    """Protocols and metrics of a comparison; metrics that need no curves are computed under the first protocol."""

    protocols: Mapping[str, CurveProtocol]  # by label
    metrics: tuple[str, ...]  # names as `metric_of` takes them
    native: bool = True  # also compute curves on each map's own grid, if the protocol has another one
    forward: Forward | None = None  # computes the logits of masked images in the network's place


class Judgement(NamedTuple):
    """Numbers of one method's maps under one protocol."""

    method: str
    protocol: str  # its label
    native: bool  # on the maps' own grid
    grid: Grid
    places: Labels  # of the judged images in the batch: those that have a map
    ties: TieReport
    values: dict[str, tuple[Scores, Scores]]  # by metric, with the deviation between single tie orders
    curves: Faithfulness | None  # None if no metric needs them
    random_order: Scores | None = None  # deletion area of random orders on the comparison's grid


class _Run(NamedTuple):
    """A protocol, the metrics that are computed under it, and what computes the logits of masked images."""

    label: str
    protocol: CurveProtocol
    metrics: tuple[str, ...]
    forward: Forward
    native: bool = False


def raise_error(_method: str, _places: Labels, error: Exception) -> None:
    """Raise the error; the default of `judge` for failures."""
    raise error


def judge(
    model: Classifier,
    batch: Batch,
    maps: Mapping[str, Maps],
    rules: Rules,
    *,
    failed: Failed = raise_error,
    title: str = "",
) -> list[Judgement]:
    """Judge the maps of a batch under each protocol; images with NaN in their map are left out.

    Args:
        model: The network that was explained, in eval mode.
        batch: The images; metrics of objects need its `regions`.
        maps: Maps `(b, rows, columns)` by the label of the method.
        rules: Protocols and metrics.
        failed: Called for each metric that fails for a method; the metric is then left out.
        title: Text beside the progress bar; empty for no bar.
    """
    judged: list[Judgement] = []
    metrics = rules.metrics
    for label, protocol in rules.protocols.items():
        run = _Run(label, protocol, metrics, rules.forward or model)
        bar = progress(maps.items(), title, total=len(maps), show=bool(title))
        under = [own for name, given in bar for own in _judge_method(model, batch, name, given, run, rules, failed)]
        metrics = curves_in(metrics)
        judged += _with_random_order(batch, under, run) if metrics else under
    return judged


def planned_passes(maps: Mapping[str, Maps], size: Grid, rules: Rules) -> int:
    """Return the number of masked images that `judge` will score for curves of whole maps; `size` is in pixels.

    With adaptive steps it is the largest possible number.
    """
    metrics = curves_in(rules.metrics)
    firsts = [_Run(label, protocol, metrics, lambda images: images) for label, protocol in rules.protocols.items()]
    return sum(
        planned_states(given, size, run.protocol)
        for first in firsts
        for name, given in maps.items()
        for run in _runs(name, given, size, first, rules)
        if run.metrics
    )


def passes_of(judged: Sequence[Judgement]) -> int:
    """Return the number of masked images that were scored for curves."""
    return sum(own.curves.forward_passes for own in judged if own.curves is not None)


def curves_in(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics that need curves.

    >>> curves_in(["srg", "sparseness"])
    ('srg',)
    """
    return tuple(metric for metric in metrics if metric_of(metric).needs == "curves")


def _judge_method(  # noqa: PLR0913 - what is judged, by what, and who is told of failures
    model: Classifier, batch: Batch, name: str, maps: Maps, run: _Run, rules: Rules, failed: Failed
) -> Iterator[Judgement]:
    """Judge the maps of one method, on the protocol's grid and on their own; images without a map are left out."""
    whole = ~maps.isnan().flatten(1).any(1)
    places = whole.nonzero().flatten()
    if not len(places):
        return
    batch, maps = (batch, maps) if whole.all() else (batch.at(places), maps[places])
    for own in _runs(name, maps, batch.size, run, rules):
        try:
            given = _metric_input(model, batch, maps, own)
        except Exception as error:
            failed(name, places, error)
            return
        values = {}
        for metric in own.metrics:
            try:
                values[metric] = measure(metric, given)
            except Exception as error:
                failed(name, places, _named(metric, error))
        grid, curves = (given.cells.shape[1], given.cells.shape[2]), given.curves
        ties = tie_report(given.cells) if curves is None else curves.ties
        yield Judgement(name, own.label, own.native, grid, places, ties, values, curves)


def _named(metric: str, error: Exception) -> Exception:
    """Return the error with the name of the metric; errors of the machine are returned unchanged."""
    if isinstance(error, MACHINE_ERRORS):
        return error
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    named = InputError(f"metric {metric}: {kind}{error}")
    named.__cause__ = error
    return named


def _runs(name: str, maps: Maps, size: Grid, run: _Run, rules: Rules) -> list[_Run]:
    """Return the run and, for curves, the same on the maps' own grid if that differs and is wanted."""
    grid, own, metrics = run.protocol.grid, (maps.shape[1], maps.shape[2]), curves_in(run.metrics)
    fits = own[0] <= size[0] and own[1] <= size[1] and grid not in (None, own)
    if not (rules.native and fits and metrics) or name in CONTROLS:
        return [run]
    on_own_grid = run.protocol.model_copy(update={"grid": None})
    return [run, run._replace(protocol=on_own_grid, metrics=metrics, native=True)]


def _metric_input(model: Classifier, batch: Batch, maps: Maps, run: _Run) -> MetricInput:
    protocol = run.protocol
    score = scorer(run.forward, batch.targets, kind=protocol.score, precision=protocol.precision)
    regions = batch.regions
    if regions is None:
        regions = torch.zeros(len(maps), *batch.size, dtype=torch.bool, device=maps.device)
    return MetricInput(
        model=model,
        images=batch.images,
        targets=batch.targets.classes,
        maps=maps,
        cells=units(maps, batch.size, protocol),
        regions=regions,
        probability=scorer(run.forward, batch.targets.classes, precision=protocol.precision),
        batch_size=protocol.batch_size or STATES_AT_ONCE,
        curves=faithfulness(score, batch.images, maps, protocol=protocol) if curves_in(run.metrics) else None,
    )


def _with_random_order(batch: Batch, judged: list[Judgement], run: _Run) -> list[Judgement]:
    """Return the judgements with the deletion area of random orders.

    If ties are shuffled, that is the area of the uniform control, provided it was judged on the grid of the orders: on
    its own grid of a single cell it has no order.
    """
    protocol = run.protocol
    grid = batch.size if protocol.grid is None or protocol.unit == "pixel" else protocol.grid
    shuffled = protocol.ties == "expected" and protocol.second == "insertion"
    uniform = [
        own.curves
        for own in judged
        if own.method == UNIFORM and own.grid == grid and own.curves and len(own.places) == len(batch.images)
    ]
    if shuffled and uniform:
        area = uniform[0].deletion_auc
    else:
        score = scorer(run.forward, batch.targets, kind=protocol.score, precision=protocol.precision)
        area = random_order_area(score, batch.images, grid, protocol=protocol)
    return [own if own.native else own._replace(random_order=area[own.places]) for own in judged]
