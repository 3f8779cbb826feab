"""Explanations of the same images by the same network, judged on one grid beside controls."""

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ibviz.attribution.methods import CONTROLS, Explanation, evaluating, explain, predict
from ibviz.benchmark.probe import at_best_pace
from ibviz.benchmark.sheets import legend
from ibviz.benchmark.tables import Tables, tabulate, text, write_tables
from ibviz.data.image_set import rasterise
from ibviz.errors import InputError
from ibviz.files import write_rows
from ibviz.metrics.curves import Curve, Faithfulness, faithfulness, planned_states, random_order_area
from ibviz.metrics.localisation.pointing_game import pointing_game
from ibviz.metrics.protocol import Card, CurveProtocol
from ibviz.metrics.score import Targets, scorer, targets_by
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.types import AttentionMap, Boxes, Grid, Images, Labels, Maps, Masks, Score, Scores

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Evaluation:
    """One row for each image, method and metric; the maps and mean curves behind them; the card they share."""

    rows: list[dict[str, Any]]  # `native` ones on a method's own grid, where that is another one
    maps: dict[str, Explanation]
    curves: dict[str, tuple[Curve, Curve]]  # deletion, insertion; per image
    card: Card
    forward_passes: int

    @property
    def protocol(self) -> CurveProtocol:
        """The choices behind the numbers."""
        return self.card.protocol

    @cached_property
    def tables(self) -> Tables:
        """Estimates, ranks and tests of all methods, to be read in any format of `ibviz.benchmark.tables`."""
        card = self.card.model_dump(mode="json") | {"hash": self.card.hash}
        return tabulate(self.frame(), {"protocols": {"default": card}})

    def table(self) -> str:
        """Means with 95 % intervals, methods above controls, how they compare, and what the numbers rest on."""
        return text(self.tables).rstrip()

    def legend(self) -> str:
        """How the numbers were made, in words."""
        return legend(*self.tables)

    def frame(self) -> "DataFrame":
        """The rows as a pandas table."""
        from pandas import DataFrame  # noqa: PLC0415 - slow to import

        return DataFrame(self.rows)

    def save(self, folder: Path) -> None:
        """Write `rows.parquet` and the tables into a folder."""
        write_rows(folder / "rows.parquet", self.rows)
        write_tables(folder, self.tables)


def evaluate(  # noqa: PLR0913 - what is known of the images is named apart
    model: Classifier,
    images: Images,
    explanations: Mapping[str, Explanation],
    *,
    targets: Labels | None = None,
    labels: Labels | None = None,
    boxes: Boxes | None = None,
    masks: Masks | None = None,
    protocol: CurveProtocol | None = None,
) -> Evaluation:
    """Judge named explanations of `images` by deletion, insertion, SRG and, given boxes or masks, the pointing game.

    All are brought onto the protocol's grid, by default that of the first trained attention, otherwise the coarsest;
    the baseline is the mean colour of the network's training data. Those with another grid are judged on that as well,
    in rows of their own. `targets` default to the classes that the protocol names, by default the predicted ones;
    `labels` (-1 where unknown) are the true ones. All controls are added. Boxes are x0, y0, x1, y1 in pixels of
    `images`. Unless the protocol says a batch size, a short trial finds the one and the memory format at which the
    network is fastest.
    """
    _check(images, explanations)
    protocol = protocol or default_protocol(model, explanations)
    if protocol.grid is None:
        protocol = protocol.model_copy(update={"grid": comparison_grid(explanations)})
    regions = masks if boxes is None else rasterise(boxes, (images.shape[2], images.shape[3]))
    labels, regions = (None if one is None else one.to(images.device) for one in (labels, regions))
    judged = targets_by(protocol.target, predict(model, images), labels)
    if targets is not None:
        judged = judged._replace(classes=targets.to(images.device))
    with evaluating(model), at_best_pace(model, images, protocol) as (images, protocol):
        score = scorer(model, judged, kind=protocol.score, precision=protocol.precision)
        job = _Job(score, images, regions, judged.classes, labels, card_of(model, images, judged, protocol))
        return _judge(job, dict(explanations) | controls(model, images, judged.classes, job.grid))


@dataclass(frozen=True)
class _Job:
    """What all maps of a comparison share."""

    score: Score
    images: Images
    regions: Masks | None
    targets: Labels
    labels: Labels | None
    card: Card

    @property
    def grid(self) -> Grid:
        assert self.card.protocol.grid is not None
        return self.card.protocol.grid


def _judge(job: _Job, maps: dict[str, Explanation]) -> Evaluation:
    common = job.card.protocol
    own = common.model_copy(update={"grid": None})
    numbers = {name: values(one).to(job.images.device) for name, one in maps.items()}
    native = [name for name, one in numbers.items() if name not in CONTROLS and _has_own_grid(one, job)]
    runs = [(name, common) for name in maps] + [(name, own) for name in native]
    size = (job.images.shape[2], job.images.shape[3])
    passes = sum(planned_states(numbers[name], size, protocol) for name, protocol in runs)
    found = [
        (name, protocol, faithfulness(job.score, job.images, numbers[name], protocol=protocol))
        for name, protocol in progress(runs, f"judging, {passes:,} forward passes", total=len(runs))
    ]
    shared = {name: one for name, protocol, one in found if protocol is common}
    by_chance = _by_chance(job, shared)
    rows = [
        row
        for name, protocol, judged in found
        for row in _rows(job, _fixed(job, name, numbers[name], protocol), judged, by_chance, numbers[name])
    ]
    curves = {name: (one.deletion, one.insertion) for name, one in shared.items()}
    return Evaluation(rows, maps, curves, job.card, passes)


def _fixed(job: _Job, name: str, maps: Maps, protocol: CurveProtocol) -> dict[str, Any]:
    """What all rows of one method on one grid say."""
    rows, columns = protocol.grid or maps.shape[1:]
    card = job.card.model_copy(update={"protocol": protocol})
    grid = f"{rows} x {columns}"
    return {
        "method": name,
        "control": name in CONTROLS,
        "native": protocol.grid is None,
        "grid": grid,
        "protocol": card.hash,
    }


def _has_own_grid(maps: Maps, job: _Job) -> bool:
    rows, columns = maps.shape[1:]
    return (rows, columns) != job.grid and rows <= job.images.shape[2] and columns <= job.images.shape[3]


def _by_chance(job: _Job, found: Mapping[str, Faithfulness]) -> Scores:
    """Area of random orders on the common grid; where ties are shuffled, the uniform control is just that."""
    protocol = job.card.protocol
    if protocol.ties == "expected" and protocol.second == "insertion":
        return found["uniform"].deletion_auc
    return random_order_area(job.score, job.images, job.grid, protocol=protocol)


def default_protocol(model: Classifier, explanations: Mapping[str, Explanation], **choices: Any) -> CurveProtocol:
    """The contract's choices, with the grid and the mean colour that follow from the comparison."""
    return CurveProtocol(colour=training_colour(model), grid=comparison_grid(explanations), **choices)


def training_colour(model: Classifier) -> tuple[float, float, float]:
    """Mean colour of the network's training data, in [0, 1]."""
    red, green, blue = model.normalize.mean.flatten().tolist()
    return red, green, blue


def card_of(model: Classifier, images: Images, judged: Targets, protocol: CurveProtocol) -> Card:
    """The protocol with hashes of what it is applied to and the versions of what runs it."""
    data = fingerprint([images, *(one for one in judged if one is not None)])
    weights = fingerprint([tensor for _, tensor in sorted(model.state_dict().items())])
    versions = {name: version(name) for name in ("ibviz", "torch", "torchvision", "numpy")}
    return Card(protocol=protocol, data=data, weights=weights, versions=versions)


def fingerprint(tensors: list[Tensor]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of tensors' bytes, in row-major order whatever their memory format.

    >>> fingerprint([torch.zeros(2)])
    'af5570f5a181'
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def comparison_grid(explanations: Mapping[str, Explanation]) -> Grid:
    """Grid of the first trained attention, otherwise the coarsest of all.

    >>> comparison_grid({"fine": torch.rand(1, 32, 32), "coarse": torch.rand(1, 8, 8)})
    (8, 8)
    """
    trained = [one.mean for one in explanations.values() if isinstance(one, AttentionMap)]
    grids = [one.shape[1:] for one in trained[:1] or map(values, explanations.values())]
    rows, columns = min(grids, key=math.prod)
    return rows, columns


def controls(model: Classifier, images: Images, targets: Labels, grid: Grid) -> dict[str, Explanation]:
    """Maps without knowledge, under their labels; the random one on the comparison's grid.

    That of another image is missing where there is none, or no layer has a grid for Grad-CAM.
    """
    options: dict[str, dict[str, Any]] = {"random_cells": {"grid": grid}}
    found: dict[str, Explanation] = {}
    for label, name in CONTROLS.items():
        with suppress(InputError):
            found[label] = explain(model, images, name, targets=targets, **options.get(name, {}))
    return found


def values(explanation: Explanation) -> Maps:
    """The numbers of a map, quantised where it has anchors."""
    return explanation.values() if isinstance(explanation, AttentionMap) else explanation


def _check(images: Images, explanations: Mapping[str, Explanation]) -> None:
    if not explanations:
        raise InputError("there is nothing to judge; expected explanations such as {'attention': seen.attention}")
    for name, explanation in explanations.items():
        if len(values(explanation)) != len(images):
            raise InputError(f"{name!r} explains {len(values(explanation))} images; expected {len(images)}")
        if name in CONTROLS:
            raise InputError(f"{name!r} is the name of a control, which is added anyway; rename the explanation")


def _rows(
    job: _Job, fixed: dict[str, Any], judged: Faithfulness, by_chance: Scores, maps: Maps
) -> list[dict[str, Any]]:
    """One host copy for each column, then plain rows."""
    metrics: dict[str, tuple[Tensor, Tensor]] = {
        "srg": (judged.srg, judged.srg_tie_sd),
        "deletion": (judged.deletion_auc, judged.deletion_tie_sd),
        "insertion": (judged.insertion_auc, judged.insertion_tie_sd),
    }
    if job.regions is not None and not fixed["native"]:
        hit = pointing_game(maps, job.regions).hit
        metrics["pointing_game"] = (hit, torch.zeros_like(hit))
    columns = _columns(job, judged, None if fixed["native"] else by_chance)
    return [
        {"image": image, **fixed, "metric": metric, "value": value, "tie_sd": tie_sd}
        | {key: column[image] for key, column in columns.items()}
        for metric, (found, spread) in metrics.items()
        for image, (value, tie_sd) in enumerate(zip(found.tolist(), spread.tolist(), strict=True))
    ]


def _columns(job: _Job, judged: Faithfulness, by_chance: Scores | None) -> dict[str, list[Any]]:
    """What is known of each image beside a metric's value."""
    facts = {
        "target": job.targets,
        "label": job.labels,
        "f_image": judged.f_image,
        "f_baseline": judged.f_baseline,
        "random_order": by_chance,
        "levels": judged.ties.levels,
        "tie_fraction": judged.ties.tie_fraction,
        "zero_share": judged.ties.zero_share,
    }
    columns = {key: [None] * len(job.targets) if column is None else column.tolist() for key, column in facts.items()}
    columns["label"] = [None if label is None or label < 0 else label for label in columns["label"]]
    columns["correct"] = [
        None if label is None else label == target
        for label, target in zip(columns["label"], columns["target"], strict=True)
    ]
    return columns
