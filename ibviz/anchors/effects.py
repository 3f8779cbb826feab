"""Effects of interventions over images, with intervals, and a verdict in words on whether the attention is used."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ibviz.anchors.intervene import INTERVENTIONS, CellEdit, Effects, Variant
from ibviz.errors import InputError
from ibviz.statistics import Estimate, estimate, resamples

_TRIED = {
    "mean": "mean",
    "average": "average",
    "other": "swap",
    "reversed": "reversed",
}  # interventions, by replacement
_LITTLE = 0.01  # change of probability below which an effect is called little
_NOTHING = 1e-6  # change that float32 rounding alone can cause


class EffectSummary(NamedTuple):
    """Effect of one variant over all images."""

    variant: Variant | CellEdit
    cells: float  # mean number of cells whose value changes
    change: Estimate  # of the probability of the predicted class
    accuracy: Estimate  # change of accuracy, over labelled images
    flips: Estimate  # share of images with another predicted class
    cross_entropy: Estimate  # change in nats, over labelled images


def summarise_effects(effects: Effects) -> list[EffectSummary]:
    """Summarise each variant over images, with 95 % bootstrap intervals."""
    columns = (effects.cells, effects.change, effects.correct, effects.flipped, effects.cross_entropy)
    return [
        EffectSummary(variant, cells.mean().item(), *(estimate(column.tolist()) for column in others))
        for variant, cells, *others in zip(effects.variants, *columns, strict=True)
    ]


class Decisions(NamedTuple):
    """Accuracy and cross-entropy of a network with one kind of map, over labelled images."""

    accuracy: Estimate
    cross_entropy: Estimate  # nats


def decisions(effects: Effects) -> dict[str, Decisions]:
    """Accuracy and cross-entropy by name of the map: the own map first, then each of `REPLACEMENTS` that was tried."""
    own = ((effects.predicted == effects.labels).float().masked_fill(effects.labels < 0, torch.nan), effects.nats)
    columns = {"own": own}
    for name, intervention in _TRIED.items():
        tried = effects.of(intervention)
        if tried.variants:
            columns[name] = (own[0] + tried.correct[0], own[1] + tried.cross_entropy[0])
    return {name: Decisions(*(estimate(values.tolist()) for values in pair)) for name, pair in columns.items()}


class AnchorEffects(NamedTuple):
    """Effect of the cells of each anchor on the prediction, over the images that have such cells.

    The effect is the loss of the predicted class's probability when these cells are set to their map's mean; `by_cell`
    divides it by their number. `rises` and `rises_by_cell` are Spearman's rank correlations between the values of
    anchors and their mean effects, with an interval over images: 1 if a higher anchor always has a larger effect.
    """

    effect: list[Estimate]
    by_cell: list[Estimate]
    rises: Estimate
    rises_by_cell: Estimate


def anchor_effects(effects: Effects, anchors: Float[Tensor, " q"]) -> AnchorEffects:
    """Compute the effect of each anchor from the variants of `erase`, which must cover all anchors in order."""
    erased = effects.of("erase")
    touched = erased.cells > 0
    whole = (-erased.change).masked_fill(~touched, torch.nan)
    by_cell = whole / erased.cells.clamp_min(1)
    levels = anchors.cpu().double().numpy()
    return AnchorEffects(
        [estimate(row.tolist()) for row in whole],
        [estimate(row.tolist()) for row in by_cell],
        rank_correlation(levels, whole.T.double().numpy()),
        rank_correlation(levels, by_cell.T.double().numpy()),
    )


def rank_correlation(levels: np.ndarray, effects: np.ndarray, *, seed: int = 0) -> Estimate:
    """Spearman's correlation between levels `(q,)` and mean effects `(n, q)` over images, leaving NaN out.

    The interval is the 95 % percentile bootstrap over images; if a resample has no image of a level, the other levels
    are ranked. NaN if fewer than two levels have an effect, or all have the same.

    >>> rank_correlation(np.array([0.0, 0.5, 1.0]), np.array([[0.1, 0.2, 0.4], [0.0, 0.1, np.nan]])).mean
    1.0
    """
    known = ~np.isnan(effects)
    # The first row is the sample itself.
    weights = np.concatenate([np.ones((1, len(effects))), *resamples(len(effects), seed=seed)])
    with np.errstate(invalid="ignore"):  # 0 / 0 if a resample has no image of a level, or nothing has an effect
        coefficients = _spearman(levels, weights @ np.where(known, effects, 0) / (weights @ known))
    if np.isnan(coefficients[0]):
        return Estimate(math.nan, math.nan, math.nan, len(effects), 0)
    low, high = np.nanquantile(coefficients[1:], [0.025, 0.975])
    return Estimate(float(coefficients[0]), float(low), float(high), len(effects), 0)


def _spearman(levels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Spearman's coefficient for each row of `means`, over the levels that are not NaN there."""
    from scipy.stats import rankdata

    absent = np.isnan(means)
    both = [rankdata(np.where(absent, np.nan, values), axis=1, nan_policy="omit") for values in (levels, means)]
    x, y = (
        np.where(absent, 0, ranks - np.nansum(ranks, 1, keepdims=True) / (~absent).sum(1, keepdims=True))
        for ranks in both
    )
    return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))


def answer(lines: Sequence[EffectSummary]) -> str:
    """Verdict on whether the prediction uses the attention's location, with the evidence.

    It rests on the interventions `mean`, `swap` and the best constant map: the anchor that costs least on these same
    images, which favours it. Raises `InputError` if none of them was tried.
    """
    tried = [line for line in lines if line.variant.name in ("mean", "swap")]
    constant = [line for line in lines if line.variant.name == "uniform"]
    tried += sorted(constant, key=lambda line: abs(line.change.mean))[:1]
    if not tried:
        given = ", ".join(sorted({line.variant.name for line in lines})) or "nothing"
        raise InputError(f"whether the attention is used is told by mean, swap or uniform; got {given}: intervene so")
    return " ".join([_verdict(tried), *(f"With {_label(line)}, {_evidence(line)}." for line in tried)])


def _verdict(tried: Sequence[EffectSummary]) -> str:
    changes = [line.change for line in tried]
    if all(max(abs(change.low), abs(change.high)) < _NOTHING for change in changes):
        return "The attention is decoration: the network decides the same whatever it says."
    significant = [change.high < 0 or change.low > 0 for change in changes]
    if not any(significant):
        return "No use of the attention was found; it may be decoration."
    least = min(tried, key=lambda line: abs(line.change.mean))
    if all(significant) and abs(least.change.mean) >= _LITTLE:
        return "The attention is used."
    return f"The attention is used, but {_label(least)} does nearly as well."


def _label(line: EffectSummary) -> str:
    name, anchor = line.variant.name, line.variant.anchor
    return INTERVENTIONS[name].label.replace("anchor k", f"anchor {anchor}")


def _evidence(line: EffectSummary) -> str:
    accuracy = "" if math.isnan(line.accuracy.mean) else f", the accuracy by {interval(line.accuracy)}"
    changed = f"the probability of the predicted class changes by {interval(line.change)}"
    return f"{changed}{accuracy}, and {line.flips.mean:.1%} of the predictions flip"


def interval(value: Estimate) -> str:
    """Format mean and interval with signs and three decimals.

    >>> interval(Estimate(-0.1234, -0.2, 0.1, 9, 0))
    '-0.123 [-0.200, +0.100]'
    """
    if math.isnan(value.mean):
        return "-"
    mean, low, high = (f"{bound:+.3f}".replace("-0.000", "+0.000") for bound in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"
