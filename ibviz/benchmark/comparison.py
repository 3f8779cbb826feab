"""The same maps judged under every preset, and under the default protocol with one choice changed at a time."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch

from ibviz.attribution.catalogue import Explanation
from ibviz.attribution.methods import predict, values
from ibviz.benchmark.setup import comparison_grid, training_colour
from ibviz.benchmark.throughput import at_best_pace
from ibviz.heads import head_of
from ibviz.metrics.curves import faithfulness, planned_states
from ibviz.metrics.localisation.pointing_game import POINTING_PRESETS, Averages, averages
from ibviz.metrics.protocol import PRESETS, CurveProtocol, preset
from ibviz.metrics.score import scorer, targets_by
from ibviz.models.hooks import evaluating
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.table_formats import TextTable, text_of
from ibviz.types import Grid, Images, Labels, Maps, Masks

# Changes of the default by one choice each; the last one needs labels.
CHANGES: dict[str, dict[str, Any]] = {
    "baseline: black": {"baseline": "black"},
    "baseline: image mean": {"baseline": "image_mean"},
    "baseline: blur": {"baseline": "blur"},
    "baseline: noise": {"baseline": "noise"},
    "baseline: ROAD": {"baseline": "road"},
    "baseline: inpainting": {"baseline": "inpaint"},
    "insertion from blur": {"insertion_baseline": "blur"},
    "unit: pixel": {"unit": "pixel"},
    "unit: pixel, bilinear": {"unit": "pixel", "enlargement": "bilinear"},
    "grid: the map's own": {"grid": None},
    "steps: 10": {"steps": 10},
    "area: sum of points": {"area": "count"},
    "area: mean of points": {"area": "mean"},
    "ties: group": {"ties": "group"},
    "ties: index": {"ties": "index"},
    "ties: reverse": {"ties": "reverse"},
    "score: logit": {"score": "logit"},
    "score: log-odds": {"score": "log_odds"},
    "score: log-probability": {"score": "log_probability"},
    "score: accuracy": {"score": "accuracy"},
    "class: runner-up": {"target": "runner_up"},
    "class: contrast": {"target": "contrast"},
    "class: true": {"target": "true"},
}


class Outcome(NamedTuple):
    """Means over the images under one protocol."""

    name: str
    hash: str
    deletion: float
    insertion: float  # for `iba`: removal, least relevant first
    srg: float
    moved: float  # SRG minus that of the default; NaN if the units differ


class Hit(NamedTuple):
    """The pointing game under one preset: its mean over images with an object, and the mean for a random point."""

    name: str
    hit: Averages
    chance: Averages


class Comparison(NamedTuple):
    """One explanation under all presets, under each change of the default, and in the pointing game."""

    default: CurveProtocol
    presets: list[Outcome]
    moves: list[Outcome]  # the largest move first, other units last
    pointing: list[Hit]  # empty without objects


def compare_protocols(
    model: Classifier,
    images: Images,
    explanation: Explanation,
    *,
    labels: Labels | None = None,
    regions: Masks | None = None,
    grid: Grid | None = None,
) -> Comparison:
    """Judge one explanation under all of `PRESETS` and `CHANGES`, and under `POINTING_PRESETS` if objects are known.

    Each protocol chooses the class that is judged; the maps are always the same.

    Args:
        model: A network that states its normalisation.
        images: Images `(b, channels, h, w)` in [0, 1].
        explanation: Maps of the images.
        labels: The true classes, -1 if unknown.
        regions: Masks of the objects `(b, h, w)`.
        grid: Rows and columns of the grid; by default that of the explanation.

    Returns:
        Means over the images under each protocol.

    >>> sorted(PRESETS | POINTING_PRESETS)
    ['default', 'iba', 'latec', 'quantus', 'rise', 'torchcam', 'torchray', 'xplique']
    """
    size, colour = (images.shape[2], images.shape[3]), training_colour(model)
    grid = grid or comparison_grid({"map": explanation})
    presets = {name: preset(name, size, colour, grid=grid) for name in PRESETS}
    known = labels is not None and bool((labels >= 0).all())
    changed = {
        name: presets["default"].model_copy(update=change)
        for name, change in CHANGES.items()
        if known or change.get("target") != "true"
    }
    judged = {name: protocol.judging(head_of(model)) for name, protocol in (presets | changed).items()}
    outcomes = {outcome.name: outcome for outcome in _outcomes(model, images, explanation, labels, judged)}
    moves = sorted((outcomes[name] for name in changed), key=_by_move)
    pointing = [] if regions is None else _pointed(values(explanation).to(images.device), regions.to(images.device))
    return Comparison(presets["default"], [outcomes[name] for name in presets], moves, pointing)


def _pointed(maps: Maps, regions: Masks) -> list[Hit]:
    classes = maps.new_zeros(len(maps), dtype=torch.long)  # a single class, since only the mean over images is needed
    results = {name: rule(maps, regions) for name, rule in POINTING_PRESETS.items()}
    return [
        Hit(name, averages(result.hit, classes), averages(result.chance, classes)) for name, result in results.items()
    ]


def _by_move(outcome: Outcome) -> tuple[bool, float]:
    return math.isnan(outcome.moved), -abs(outcome.moved)


def _outcomes(
    model: Classifier,
    images: Images,
    explanation: Explanation,
    labels: Labels | None,
    protocols: dict[str, CurveProtocol],
) -> list[Outcome]:
    maps, size = values(explanation).to(images.device), (images.shape[2], images.shape[3])
    passes = sum(planned_states(maps, size, protocol) for protocol in protocols.values())
    answers, labels = predict(model, images), None if labels is None else labels.to(images.device)
    outcomes: list[Outcome] = []
    with evaluating(model):
        for name, protocol in progress(protocols.items(), f"{passes:,} forward passes", total=len(protocols)):
            with at_best_pace(model, images, protocol) as (fitted, paced):
                score = scorer(
                    model,
                    targets_by(protocol.target, answers, labels, head=head_of(model)),
                    kind=protocol.score,
                    precision=protocol.precision,
                )
                result = faithfulness(score, fitted, maps, protocol=paced)
            areas = (result.deletion_auc, result.insertion_auc, result.srg)
            deletion, insertion, srg = (fmean(area.tolist()) for area in areas)
            moved = srg - outcomes[0].srg if outcomes else 0.0
            moved = moved if _same_unit(protocol) else math.nan
            outcomes.append(Outcome(name, protocol.hash, deletion, insertion, srg, moved))
    return outcomes


def _same_unit(protocol: CurveProtocol) -> bool:
    """Return True if areas are mean probabilities, as under the default protocol."""
    return protocol.score == "probability" and protocol.area != "count"


def comparison_text(compared: Comparison, count: int) -> str:
    """Return the tables for a terminal, with explanations; `count` is the number of images."""
    return "\n\n".join(
        [
            f"Means over {count} image{'s' * (count > 1)}. {_in_words(compared.default)}",
            "The same maps under each preset:",
            text_of(outcome_sheet(compared.presets)),
            "quantus adds up its points, which is no mean; iba's insertion is removal, least relevant first.",
            "The default with one choice changed, the largest move of SRG first; in another unit there is none:",
            text_of(outcome_sheet(compared.moves)),
            _pointing(compared.pointing),
        ]
    )


def _in_words(default: CurveProtocol) -> str:
    grid = "x".join(map(str, default.grid or ()))
    return (
        f"The default: {grid} {default.unit}s, {default.most_steps} steps at most, baseline {default.baseline}, "
        f"{default.orders} orders of tied cells, {default.score} of the {default.target} class."
    )


def _pointing(hits: Sequence[Hit]) -> str:
    if not hits:
        return (
            "torchray is a rule of the pointing game and needs objects, which these images come without; "
            "Parquet files may hold boxes."
        )
    head = f"Pointing game; images with an object: {hits[0].hit.n}, without: {hits[0].hit.excluded}"
    cells = [[hit.name, f"{hit.hit.micro:.4f}", f"{hit.chance.micro:.4f}"] for hit in hits]
    return f"{head}\n\n{text_of(TextTable('', ['rule', 'hit', 'chance'], cells))}"


def outcome_sheet(outcomes: Sequence[Outcome], title: str = "") -> TextTable:
    """Return the table of outcomes; a move in another unit is missing."""
    cells = [
        [name, f"{deletion:.4f}", f"{insertion:.4f}", f"{srg:.4f}", _move(moved), card_hash]
        for name, card_hash, deletion, insertion, srg, moved in outcomes
    ]
    return TextTable(title, ["", "deletion", "insertion", "SRG", "moved", "protocol"], cells)


def _move(moved: float) -> str:
    return "-" if math.isnan(moved) else f"{round(moved, 4) + 0.0:+.4f}"  # never -0.0000
