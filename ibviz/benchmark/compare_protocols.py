"""The same maps under every preset, and under the default with one choice changed at a time: what moves the number?"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ibviz.attribution.methods import Explanation, evaluating, predict
from ibviz.benchmark.evaluation import comparison_grid, training_colour, values
from ibviz.benchmark.probe import at_best_pace
from ibviz.metrics.curves import faithfulness, planned_states
from ibviz.metrics.protocol import PRESETS, CurveProtocol, preset
from ibviz.metrics.score import scorer, targets_by
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.types import Grid, Images, Labels

# One choice each, as changes of the default; without labels the last is left out.
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
    insertion: float  # of `iba`, least relevant first
    srg: float
    moved: float  # SRG less that of the default


def compare_protocols(
    model: Classifier,
    images: Images,
    explanation: Explanation,
    *,
    labels: Labels | None = None,
    grid: Grid | None = None,
) -> tuple[list[Outcome], list[Outcome]]:
    """One explanation under all of `PRESETS`, and under `CHANGES`, the largest move first.

    The class that is judged is chosen by each protocol; the maps stay what they are. `grid` is by default the
    explanation's own.

    >>> sorted(PRESETS)
    ['default', 'iba', 'latec', 'quantus', 'rise', 'torchcam', 'xplique']
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
    found = _judged(model, images, explanation, labels, presets | changed)
    named = {one.name: one for one in found}
    moves = sorted((named[name] for name in changed), key=lambda one: -abs(one.moved))
    return [named[name] for name in presets], moves


def _judged(
    model: Classifier,
    images: Images,
    explanation: Explanation,
    labels: Labels | None,
    protocols: dict[str, CurveProtocol],
) -> list[Outcome]:
    maps, size = values(explanation).to(images.device), (images.shape[2], images.shape[3])
    passes = sum(planned_states(maps, size, protocol) for protocol in protocols.values())
    answers = predict(model, images)
    found: list[Outcome] = []
    with evaluating(model):
        for name, protocol in progress(protocols.items(), f"{passes:,} forward passes", total=len(protocols)):
            with at_best_pace(model, images, protocol) as (fitted, paced):
                score = scorer(
                    model,
                    targets_by(protocol.target, answers, labels),
                    kind=protocol.score,
                    precision=protocol.precision,
                )
                result = faithfulness(score, fitted, maps, protocol=paced)
            areas = (result.deletion_auc, result.insertion_auc, result.srg)
            deletion, insertion, srg = (fmean(area.tolist()) for area in areas)
            moved = srg - found[0].srg if found else 0.0
            found.append(Outcome(name, protocol.hash, deletion, insertion, srg, moved))
    return found


def page(presets: Sequence[Outcome], moves: Sequence[Outcome], count: int) -> str:
    """Both tables for a terminal."""
    return "\n\n".join(
        [
            f"Means over {count} image{'s' * (count > 1)}. The same maps under each preset:",
            _table(presets),
            "The default with one choice changed, the largest move of SRG first:",
            _table(moves),
        ]
    )


def _table(outcomes: Sequence[Outcome]) -> str:
    width = max(len(one.name) for one in outcomes)
    head = f"{'':{width}}  {'deletion':>9}  {'insertion':>9}  {'SRG':>8}  {'moved':>8}  protocol"
    lines = [
        f"{one.name:{width}}  {one.deletion:9.4f}  {one.insertion:9.4f}  {one.srg:8.4f}  {one.moved:+8.4f}  {one.hash}"
        for one in outcomes
    ]
    return "\n".join([head, *lines])
