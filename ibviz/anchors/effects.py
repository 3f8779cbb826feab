"""Effects of interventions with their intervals, and in words: is the attention used, or decoration?"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ibviz.anchors.intervene import INTERVENTIONS, Effects, Variant
from ibviz.errors import InputError
from ibviz.statistics import RESAMPLES, Estimate, estimate

_TRIED = {
    "mean": "mean",
    "average": "average",
    "other": "swap",
    "reversed": "reversed",
}  # interventions, by replacement
_LITTLE = 0.01  # of probability: an effect below it is called little
_NOTHING = 1e-6  # what float32 may make of no effect


class EffectSummary(NamedTuple):
    """One variant over all images."""

    variant: Variant
    cells: float  # whose value is another one, mean over images
    change: Estimate  # of the probability of the predicted class
    accuracy: Estimate  # change of it, over labelled images
    flips: Estimate  # share of images that are of another class now
    cross_entropy: Estimate  # change of it in nats, over labelled images


def summarise_effects(effects: Effects) -> list[EffectSummary]:
    """One line for each variant, with 95 % bootstrap intervals over images."""
    columns = (effects.cells, effects.change, effects.correct, effects.flipped, effects.cross_entropy)
    return [
        EffectSummary(variant, cells.mean().item(), *(estimate(one.tolist()) for one in others))
        for variant, cells, *others in zip(effects.variants, *columns, strict=True)
    ]


class Decisions(NamedTuple):
    """What a network decides with one kind of map, over labelled images."""

    accuracy: Estimate
    cross_entropy: Estimate  # nats


def decisions(effects: Effects) -> dict[str, Decisions]:
    """Accuracy and cross-entropy with each map of `REPLACEMENTS` that was tried, by its name, the own map first."""
    own = ((effects.predicted == effects.labels).float().masked_fill(effects.labels < 0, torch.nan), effects.nats)
    found = {"own": own}
    for name, intervention in _TRIED.items():
        tried = effects.of(intervention)
        if tried.variants:
            found[name] = (own[0] + tried.correct[0], own[1] + tried.cross_entropy[0])
    return {name: Decisions(*(estimate(one.tolist()) for one in numbers)) for name, numbers in found.items()}


class AnchorEffects(NamedTuple):
    """What the cells of each anchor are worth to the decision, over the images that have some.

    The effect is the probability of the predicted class as it is, less that with these cells at their map's mean; a
    share of it falls to each such cell. `rises` and `rises_by_cell` are Spearman's rank correlations of the anchors'
    values with their mean effects, with an interval over images: 1 where a higher anchor always means more.
    """

    effect: list[Estimate]
    by_cell: list[Estimate]
    rises: Estimate
    rises_by_cell: Estimate


def anchor_effects(effects: Effects, anchors: Float[Tensor, " q"]) -> AnchorEffects:
    """Read them off the variants of `erase`, one for each anchor in order."""
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
    """Spearman's correlation of levels `(q,)` with the means of effects `(n, q)` over images, NaN left out.

    The interval is the 95 % percentile bootstrap over images; a resample without any image of a level ranks the others.
    NaN where fewer than two levels have an effect, or all have the same.

    >>> rank_correlation(np.array([0.0, 0.5, 1.0]), np.array([[0.1, 0.2, 0.4], [0.0, 0.1, np.nan]])).mean
    1.0
    """
    known = ~np.isnan(effects)
    weights = np.random.default_rng(seed).multinomial(len(effects), [1 / len(effects)] * len(effects), RESAMPLES)
    weights = np.concatenate([np.ones((1, len(effects))), weights])  # first the images as they are
    with np.errstate(invalid="ignore"):  # 0 / 0 where a resample has no image of a level, or nothing has an effect
        found = _spearman(levels, weights @ np.where(known, effects, 0) / (weights @ known))
    if np.isnan(found[0]):
        return Estimate(math.nan, math.nan, math.nan, len(effects), 0)
    low, high = np.nanquantile(found[1:], [0.025, 0.975])
    return Estimate(float(found[0]), float(low), float(high), len(effects), 0)


def _spearman(levels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """One coefficient a row of `means`, over the levels that are not NaN there."""
    from scipy.stats import rankdata

    absent = np.isnan(means)
    both = [rankdata(np.where(absent, np.nan, one), axis=1, nan_policy="omit") for one in (levels, means)]
    x, y = (
        np.where(absent, 0, ranks - np.nansum(ranks, 1, keepdims=True) / (~absent).sum(1, keepdims=True))
        for ranks in both
    )
    return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))


def answer(lines: Sequence[EffectSummary]) -> str:
    """Whether the decision uses where the attention lies, with the evidence: `mean`, `swap` and the best constant map.

    The constant map is the anchor everywhere that costs least on these very images, so it is judged with favour. Raises
    `InputError` where none of them was tried.
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
    if all(max(abs(one.low), abs(one.high)) < _NOTHING for one in changes):
        return "The attention is decoration: the network decides the same whatever it says."
    sure = [one.high < 0 or one.low > 0 for one in changes]
    if not any(sure):
        return "No use of the attention was found; it may be decoration."
    least = min(tried, key=lambda line: abs(line.change.mean))
    if all(sure) and abs(least.change.mean) >= _LITTLE:
        return "The attention is used."
    return f"The attention is used, but {_label(least)} does nearly as well."


def _label(line: EffectSummary) -> str:
    name, anchor = line.variant
    return INTERVENTIONS[name].label.replace("anchor k", f"anchor {anchor}")


def _evidence(line: EffectSummary) -> str:
    accuracy = "" if math.isnan(line.accuracy.mean) else f", the accuracy by {interval(line.accuracy)}"
    changed = f"the probability of the predicted class changes by {interval(line.change)}"
    return f"{changed}{accuracy}, and {line.flips.mean:.1%} of the predictions flip"


def interval(one: Estimate) -> str:
    """Mean and interval in three decimals, with signs.

    >>> interval(Estimate(-0.1234, -0.2, 0.1, 9, 0))
    '-0.123 [-0.200, +0.100]'
    """
    if math.isnan(one.mean):
        return "-"
    mean, low, high = (f"{value:+.3f}".replace("-0.000", "+0.000") for value in (one.mean, one.low, one.high))
    return f"{mean} [{low}, {high}]"
