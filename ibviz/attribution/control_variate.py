"""RISE from pairs of masks with a control variate: a linear surrogate of the score whose share of the map is known.

With masks M and 1 - M, scores s and s' and Z = M - 1/2, the published estimate s M / E[M] of a pair has the mean
(s + s') / 2 + d Z with d = s - s'. A linear surrogate ⟨β, x⟩ of d, with x the means of Z over the cells of a coarse
grid, explains most of d. Its share E[⟨β, x⟩ Z] of the map follows from the law of the masks, and only the rest,
(d - ⟨β, x⟩) Z, is averaged over draws: the expectation is the same, and the variance smaller (control variates: Owen
2013, "Monte Carlo theory, methods and examples", chapter 8). β is fitted to the pairs of other folds. It is then
independent of the pair, and the estimate stays unbiased. Everything here is small and computed in float64 on the CPU.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ibviz.attribution.sampling import RowValues, relative_error
from ibviz.types import Maps

FOLDS = 8  # of pairs, for cross-fitting
PENALTIES = (1e-6, 0.3, 1.0, 3.0, 10.0, 30.0)  # on β, from none to strong; features lie within 1 of their mean
COARSEST = 8  # most rows and columns of the surrogate's grid
Features = Float[Tensor, "n cells"]  # x of each pair, flattened
Weights = Float[Tensor, "n rows"]  # one per pair and explained image
Beta = Float[Tensor, "cells rows"]


class MaskLaw(NamedTuple):
    """The law of masks along one axis, in the means of Z over the cells of the surrogate's grid.

    Cells of a mask are independent with variance 1/4, so that the covariance of two values of Z is a quarter of the
    product of their second moments along both axes.
    """

    weights: Float[Tensor, "count shifts cells"]  # of each cell of a mask in each mean, by shift
    pixels: Float[Tensor, "side cells"]  # second moments of pixels and means
    cells: Float[Tensor, "cells cells"]  # second moments of means


class Surrogate(NamedTuple):
    """A fitted surrogate: what is left of d for each pair, and the mean β over folds."""

    rest: Weights
    beta: Beta


class MaskEstimate(NamedTuple):
    """A RISE map of each row: `offset` + sum of `weights` times Z + `expected_maps` of `beta`."""

    offset: RowValues
    weights: Weights
    beta: Beta
    errors: RowValues  # relative standard errors


def mask_law(side: int, count: int, shifts: int) -> MaskLaw:
    """Return the law of masks along an axis of `side` pixels with `count` cells and equally likely shifts."""
    enlarged = F.interpolate(torch.eye(count, dtype=torch.float64)[None], (count + 1) * shifts, mode="linear")[0]
    shown = enlarged.unfold(1, side, 1)[:, :shifts]
    means = F.adaptive_avg_pool1d(shown, min(count + 1, side, COARSEST))
    pixels, cells = (torch.einsum("csp,csf->pf", values, means) / shifts for values in (shown, means))
    return MaskLaw(means, pixels, cells)


def mask_features(
    cells: Float[Tensor, "n rows columns"], shifts: Int[Tensor, "n 2"], laws: tuple[MaskLaw, MaskLaw]
) -> Features:
    """Return the means x of Z = M - 1/2 over the cells of the surrogate's grid, for each mask."""
    down, across = (law.weights[:, shifts[:, axis]] for axis, law in enumerate(laws))
    return torch.einsum("rnf,nrc,cng->nfg", down, cells.double() - 0.5, across).flatten(1)


def masked_estimate(
    features: Features, scores: Float[Tensor, "copies n rows"], laws: tuple[MaskLaw, MaskLaw]
) -> MaskEstimate:
    """Return the estimate from the scores of pairs of masks, or from single masks as published.

    The standard error is relative to the size of the map. Both are norms over the means of the centred map in the cells
    of the surrogate's grid.
    """
    if len(scores) == 2:
        rest, beta = cross_fit(features, scores[0] - scores[1])
    else:
        rest, beta = 2 * scores[0], features.new_zeros(features.shape[1], scores.shape[2])
    centred = features - features.mean(1, keepdim=True)
    total, squares = rest.T @ centred, rest.square().T @ centred.square().sum(1)
    down, across = laws
    known = (down.cells @ _on_grid(beta, laws) @ across.cells.T / 4).flatten(1)
    size = (total / len(features) + known - known.mean(1, keepdim=True)).norm(dim=1)
    errors = relative_error(squares, total.square().sum(1), len(features), size)
    return MaskEstimate(scores.mean((0, 1)), rest / len(features), beta, errors)


def cross_fit(features: Features, differences: Weights) -> Surrogate:
    """Fit the surrogate by ridge regression; β for a pair comes from the pairs of other folds."""
    fold = torch.arange(len(features)) % FOLDS
    rest, beta = differences.clone(), features.new_zeros(features.shape[1], differences.shape[1])
    for number in range(min(FOLDS, len(features))):
        held = fold == number
        own = ridge(features[~held], differences[~held])
        rest[held] -= features[held] @ own
        beta += own * held.sum() / len(features)
    return Surrogate(rest, beta)


def ridge(features: Features, values: Weights) -> Beta:
    """Return the coefficients of a ridge regression, each row with its penalty of least generalised cross-validation.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    >>> ridge(features, features @ torch.tensor([[2.0], [3.0]], dtype=torch.float64)).round(decimals=4).flatten()
    tensor([2., 3.], dtype=torch.float64)
    """
    sizes, axes = torch.linalg.eigh(features.T @ features)
    moment = axes.T @ features.T @ values
    best, least = torch.zeros_like(moment), values.square().sum(0) / max(1, len(features))
    for penalty in PENALTIES:
        shrunk = moment / (sizes.clamp(min=0) + penalty)[:, None]
        free = len(features) - float((sizes.clamp(min=0) / (sizes.clamp(min=0) + penalty)).sum())
        if free < 1:  # more coefficients than pairs: the residuals say nothing
            continue
        score = len(features) * (values - features @ axes @ shrunk).square().sum(0) / free**2
        best, least = torch.where(score < least, shrunk, best), torch.minimum(score, least)
    return axes @ best


def expected_maps(beta: Beta, laws: tuple[MaskLaw, MaskLaw]) -> Maps:
    """Return E[⟨β, x⟩ Z] of each row for all pixels."""
    down, across = laws
    return down.pixels @ _on_grid(beta, laws) @ across.pixels.T / 4


def _on_grid(beta: Beta, laws: tuple[MaskLaw, MaskLaw]) -> Float[Tensor, "rows down across"]:
    return beta.T.unflatten(1, (len(laws[0].cells), len(laws[1].cells)))
