"""Maps of some images by one network, judged by every metric under every protocol: the one place where it is done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ibviz.attribution.methods import CONTROLS
from ibviz.metrics.concentration import complexity, sparseness
from ibviz.metrics.curves import STATES_AT_ONCE, Faithfulness, faithfulness, planned_states, random_order_area, units
from ibviz.metrics.localisation.energy import auroc, energy_pointing_game, top_cell_precision
from ibviz.metrics.localisation.pointing_game import pointing_game
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.score import Targets, scorer
from ibviz.metrics.score_drop import Drop, average_drop
from ibviz.metrics.ties import TieReport, tie_report
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.types import Grid, Images, Labels, Maps, Masks, Score, Scores

UNIFORM = "uniform"  # label of the control whose area is that of random orders


class Seen(NamedTuple):
    """Images as one network is asked about them; labels are -1 and regions empty where nothing is known."""

    images: Images
    targets: Targets
    correct: Bool[Tensor, " b"] | None = None  # whether the network says the label, where that is known
    labels: Labels | None = None
    regions: Masks | None = None
    clusters: tuple[str, ...] | None = None  # what each image shares with others, by name

    @property
    def size(self) -> Grid:
        """Rows, columns in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def at(self, places: Labels) -> "Seen":
        """Some of the images."""
        classes, against = self.targets
        targets = Targets(classes[places], None if against is None else against[places])
        correct, labels, regions = (
            None if one is None else one[places] for one in (self.correct, self.labels, self.regions)
        )
        clusters = None if self.clusters is None else tuple(self.clusters[place] for place in places.tolist())
        return Seen(self.images[places], targets, correct, labels, regions, clusters)


class Rules(NamedTuple):
    """By what is judged. Metrics that need no protocol stand under the first."""

    protocols: Mapping[str, CurveProtocol]  # by label
    metrics: tuple[str, ...]  # of `CURVE_METRICS` and `MAP_METRICS`
    native: bool = True  # by curves on each map's own grid as well, where the protocol's is another


@dataclass(frozen=True)
class Subject:
    """What a metric of `MAP_METRICS` is told."""

    probability: Score  # of the judged class, whatever score the curves are of
    images: Images
    maps: Maps  # on their own grid
    cells: Float[Tensor, "b _ _"]  # on the grid of the comparison
    regions: Masks
    batch_size: int

    @cached_property
    def dropped(self) -> Drop:
        """What dimming the images by the maps does, for both metrics that ask."""
        return average_drop(self.probability, self.images, self.cells, batch_size=self.batch_size)


class Finding(NamedTuple):
    """What was found about one method's maps under one protocol."""

    method: str
    protocol: str  # its label
    native: bool
    grid: Grid
    places: Labels  # of the images, where some have no map
    ties: TieReport
    values: dict[str, tuple[Scores, Scores]]  # by metric, with the spread between single tie orders
    curves: Faithfulness | None  # None where no metric asks for them
    by_chance: Scores | None = None  # deletion area of random orders on the comparison's grid


Failed = Callable[[str, Labels, Exception], object]  # hears of a method, places of images and an error

CURVE_METRICS: dict[str, Callable[[Faithfulness], tuple[Scores, Scores]]] = {
    "srg": lambda found: (found.srg, found.srg_tie_sd),
    "deletion": lambda found: (found.deletion_auc, found.deletion_tie_sd),
    "insertion": lambda found: (found.insertion_auc, found.insertion_tie_sd),
}
MAP_METRICS: dict[str, Callable[[Subject], Scores]] = {
    "pointing_game": lambda one: pointing_game(one.maps, one.regions).hit,
    "energy_pointing_game": lambda one: energy_pointing_game(one.maps, one.regions).energy,
    "energy_normalised": lambda one: energy_pointing_game(one.maps, one.regions).normalised,
    "auroc": lambda one: auroc(one.maps, one.regions),
    "top_cell_precision": lambda one: top_cell_precision(one.cells, one.regions),
    "average_drop": lambda one: one.dropped.drop,
    "confidence_increase": lambda one: one.dropped.increase,
    "sparseness": lambda one: sparseness(one.cells),
    "complexity": lambda one: complexity(one.cells),
}
LOCALISATION = ("pointing_game", "energy_pointing_game", "energy_normalised", "auroc", "top_cell_precision")
METRICS = (*CURVE_METRICS, *MAP_METRICS)


def refuse(method: str, places: Labels, error: Exception) -> None:
    """Without somebody who keeps a record, what fails is an error."""
    del method, places
    raise error


def judge(
    model: Classifier, seen: Seen, maps: Mapping[str, Maps], rules: Rules, *, failed: Failed = refuse, stated: str = ""
) -> list[Finding]:
    """Judge maps by their methods' labels, protocol by protocol; NaN stands for a map that is missing.

    The network has to be in eval mode. Metrics of regions need `seen.regions`. `failed` hears of a method that cannot
    be judged, which is then left out; by default it raises the error. What is `stated` stands beside the progress.
    """
    found: list[Finding] = []
    metrics = rules.metrics
    for label, protocol in rules.protocols.items():
        rule = _Rule(label, protocol, metrics)
        each = progress(maps.items(), stated, total=len(maps), show=bool(stated))
        some = [one for name, own in each for one in _of_method(model, seen, name, own, rule, rules, failed)]
        found += _beside_chance(model, seen, some, protocol) if curves_in(metrics) else some
        metrics = curves_in(metrics)
    return found


def planned_passes(maps: Mapping[str, Maps], size: Grid, rules: Rules) -> int:
    """Masked images that `judge` will score for curves of whole maps, known before any is; `size` is the images'."""
    given = [_Rule(label, protocol, curves_in(rules.metrics)) for label, protocol in rules.protocols.items()]
    return sum(
        planned_states(one, size, run.protocol)
        for rule in given
        for name, one in maps.items()
        for run in _runs(name, one, size, rule, rules)
        if run.metrics
    )


def curves_in(metrics: Sequence[str]) -> tuple[str, ...]:
    """Those of the metrics that are read off curves.

    >>> curves_in(["srg", "sparseness"])
    ('srg',)
    """
    return tuple(metric for metric in metrics if metric in CURVE_METRICS)


def rows_of_findings(found: Sequence[Finding], seen: Seen) -> list[dict[str, Any]]:
    """One row for each image, method, metric and protocol; `image` counts within `seen`."""
    return [row for one in found for row in _rows(one, seen.at(one.places))]


def rows_of_curves(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Deletion and insertion curve of each image, method and protocol on the comparison's grid."""
    return [
        {
            "method": one.method,
            "control": one.method in CONTROLS,
            "protocol": one.protocol,
            "image": image,
            "side": side,
            "fractions": fractions,
            "scores": scores,
        }
        for one in found
        if one.curves is not None and not one.native
        for side, curve in (("deletion", one.curves.deletion), ("insertion", one.curves.insertion))
        for image, fractions, scores in zip(
            one.places.tolist(), curve.fractions.cpu().numpy(), curve.scores.float().cpu().numpy(), strict=True
        )
    ]


def passes_of(found: Sequence[Finding]) -> int:
    """Masked images that were scored for curves."""
    return sum(one.curves.forward_passes for one in found if one.curves is not None)


class _Rule(NamedTuple):
    """One protocol, and what it is asked for."""

    label: str
    protocol: CurveProtocol
    metrics: tuple[str, ...]


def _of_method(  # noqa: PLR0913 - what is judged, how, and who hears of failures
    model: Classifier, seen: Seen, name: str, maps: Maps, rule: _Rule, rules: Rules, failed: Failed
) -> list[Finding]:
    """One method by all that it is judged by, where its maps are whole."""
    whole = ~maps.isnan().flatten(1).any(1)
    places = whole.nonzero().flatten()
    if not len(places):
        return []
    seen, maps = (seen, maps) if whole.all() else (seen.at(places), maps[places])
    runs = _runs(name, maps, seen.size, rule, rules)
    try:
        return [
            _find(model, seen, maps, one)._replace(method=name, native=one is not rule, places=places) for one in runs
        ]
    except Exception as error:
        failed(name, places, error)
        return []


def _runs(name: str, maps: Maps, size: Grid, rule: _Rule, rules: Rules) -> list[_Rule]:
    """The rule and, for curves where its grid is not the maps' own and that is wanted as well, the same on theirs."""
    grid, own, metrics = rule.protocol.grid, (maps.shape[1], maps.shape[2]), curves_in(rule.metrics)
    fits = own[0] <= size[0] and own[1] <= size[1] and grid not in (None, own)
    if not (rules.native and fits and metrics) or name in CONTROLS:
        return [rule]
    return [rule, _Rule(rule.label, rule.protocol.model_copy(update={"grid": None}), metrics)]


def _find(model: Classifier, seen: Seen, maps: Maps, rule: _Rule) -> Finding:
    protocol = rule.protocol
    score = scorer(model, seen.targets, kind=protocol.score, precision=protocol.precision)
    probability = scorer(model, seen.targets.classes, precision=protocol.precision)
    curves = faithfulness(score, seen.images, maps, protocol=protocol) if curves_in(rule.metrics) else None
    cells = units(maps, seen.size, protocol)
    regions = seen.regions
    if regions is None:
        regions = torch.zeros(len(maps), *seen.size, dtype=torch.bool, device=maps.device)
    subject = Subject(probability, seen.images, maps, cells, regions, protocol.batch_size or STATES_AT_ONCE)
    found = {name: MAP_METRICS[name](subject) for name in rule.metrics if name in MAP_METRICS}
    values = {name: (one, torch.zeros_like(one)) for name, one in found.items()}
    if curves is not None:
        values |= {name: CURVE_METRICS[name](curves) for name in curves_in(rule.metrics)}
    ties = tie_report(cells) if curves is None else curves.ties
    grid = (cells.shape[1], cells.shape[2])
    return Finding("", rule.label, False, grid, torch.arange(len(maps)), ties, values, curves)


def _beside_chance(model: Classifier, seen: Seen, found: list[Finding], protocol: CurveProtocol) -> list[Finding]:
    """The findings with the area of random orders; where ties are shuffled, the uniform control is just that.

    It has to stand on the grid of the orders: on its own one, of a single cell, it has no order.
    """
    grid = seen.size if protocol.grid is None or protocol.unit == "pixel" else protocol.grid
    shuffled = protocol.ties == "expected" and protocol.second == "insertion"
    uniform = [
        one.curves
        for one in found
        if one.method == UNIFORM and one.grid == grid and one.curves and len(one.places) == len(seen.images)
    ]
    if shuffled and uniform:
        area = uniform[0].deletion_auc
    else:
        score = scorer(model, seen.targets, kind=protocol.score, precision=protocol.precision)
        area = random_order_area(score, seen.images, grid, protocol=protocol)
    return [one if one.native else one._replace(by_chance=area[one.places]) for one in found]


def _rows(found: Finding, seen: Seen) -> list[dict[str, Any]]:
    """One host copy for each column, then plain rows."""
    fixed = {
        "method": found.method,
        "control": found.method in CONTROLS,
        "native": found.native,
        "grid": f"{found.grid[0]} x {found.grid[1]}",
        "protocol": found.protocol,
    }
    columns, images = _columns(found, seen), found.places.tolist()
    return [
        {"image": image, **fixed, "metric": metric, "value": value, "tie_sd": tie_sd}
        | {key: column[place] for key, column in columns.items()}
        for metric, (values, spread) in found.values.items()
        for place, (image, value, tie_sd) in enumerate(zip(images, values.tolist(), spread.tolist(), strict=True))
    ]


def _columns(found: Finding, seen: Seen) -> dict[str, list[Any]]:
    """What is known of each image beside a metric's value."""
    curves = found.curves
    facts = {
        "target": seen.targets.classes,
        "label": seen.labels,
        "correct": seen.correct,
        "f_image": None if curves is None else curves.f_image,
        "f_baseline": None if curves is None else curves.f_baseline,
        "random_order": found.by_chance,
        "levels": found.ties.levels,
        "tie_fraction": found.ties.tie_fraction,
        "zero_share": found.ties.zero_share,
    }
    columns = {key: [None] * len(seen.images) if one is None else one.tolist() for key, one in facts.items()}
    unknown = [label is None or label < 0 for label in columns["label"]]
    for key in ("label", "correct"):
        columns[key] = [None if absent else one for absent, one in zip(unknown, columns[key], strict=True)]
    return columns | {
        "object_share": object_shares(seen.regions, len(seen.images)),
        "cluster": list(seen.clusters or [None] * len(seen.images)),
    }


def object_shares(regions: Masks | None, count: int) -> list[float | None]:
    """Share of the pixels of each image that lie on its object; None where there is none.

    >>> object_shares(torch.tensor([[[True, False]], [[False, False]]]), 2)
    [0.5, None]
    """
    if regions is None:
        return [None] * count
    return [share or None for share in regions.flatten(1).float().mean(1).tolist()]
