"""Regressions of the score on the superpixels that are shown: LIME and KernelSHAP, with standard errors.

A choice of superpixels is a row of zeros and ones. Everything here is small and computed in float64 on the CPU.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ibviz.attribution.control_variate import cross_fit
from ibviz.attribution.sampling import COPIES, RowValues, Sampling, as_share, relative_error

LIME_KERNEL = 0.25  # width of LIME's kernel on images, in cosine distance
LIME_RIDGE = 1.0  # penalty of LIME's regression
Choices = Float[Tensor, "n superpixels"]  # 1 for a superpixel that is shown, otherwise 0
ChoiceScores = Float[Tensor, "n rows"]  # score of each choice for each explained class


class Superpixels(NamedTuple):
    """The superpixels of an image, each with its shares of the image."""

    area: Float[Tensor, " superpixels"]
    energy: Float[Tensor, " superpixels"]  # of the summed squares of the pixels


class Coefficients(NamedTuple):
    """The value of each superpixel, and the relative standard error, of each explained class."""

    values: Float[Tensor, "rows superpixels"]
    errors: RowValues


def random_choices(units: int, count: int, sampling: Sampling, draws: torch.Generator) -> Choices:
    """Return choices in which each of `count` superpixels is shown with probability 1/2, drawn as by Captum's LIME."""
    half = torch.full((1, count), 0.5)
    return _with_complements([torch.bernoulli(half, generator=draws) for _ in range(units)], sampling)


def kernel_choices(units: int, count: int, sampling: Sampling, draws: torch.Generator) -> Choices:
    """Return all superpixels, none, and choices drawn from the Shapley kernel, as by Captum's KernelSHAP."""
    sizes = torch.cat([torch.zeros(1), kernel_sizes(count).float()])  # as long as Captum's, from size 0
    choices = []
    for _ in range(units):
        size = int(torch.multinomial(sizes, 1, replacement=True, generator=draws))
        noise = torch.randn(1, count, generator=draws)
        choices.append((noise > noise.kthvalue(count - size).values).float())
    ends = torch.tensor([[1.0], [0.0]]).expand(2, count)
    return torch.cat([ends.double(), _with_complements(choices, sampling)])


def kernel_sizes(count: int) -> Float[Tensor, " sizes"]:
    """Return the probability of each number of shown superpixels, 1 to count - 1, under the Shapley kernel.

    >>> kernel_sizes(3)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    size = torch.arange(1, count, dtype=torch.float64)
    weights = 1 / (size * (count - size))
    return weights / weights.sum()


def _with_complements(choices: list[Tensor], sampling: Sampling) -> Choices:
    drawn = torch.cat(choices).double()
    return drawn if sampling == "plain" else torch.stack([drawn, 1 - drawn], dim=1).flatten(0, 1)


def fit_lime(sampling: Sampling, choices: Choices, scores: ChoiceScores, parts: Superpixels) -> Coefficients:
    """Fit LIME's ridge regression; its standard error is that of a sum of units (White 1980, HC1).

    A choice weighs exp(-D^2 / (2 * 0.25^2)), with D the cosine distance between the image and what is shown of it.
    """
    similarity = (choices @ parts.energy).sqrt()  # cosine between an image and a part of it
    weights = torch.exp(-((1 - similarity) ** 2) / (2 * LIME_KERNEL**2))[:, None]
    centred, rest = (values - (weights * values).sum(0) / weights.sum() for values in (choices, scores))
    count = choices.shape[1]
    inverse = torch.linalg.inv(centred.T @ (weights * centred) + LIME_RIDGE * torch.eye(count, dtype=choices.dtype))
    values = (inverse @ centred.T @ (weights * rest)).T
    rest = rest - centred @ values.T
    return Coefficients(
        values, _regression_errors(values, weights * centred @ inverse, rest, parts, sampling, count + 1)
    )


def fit_kernel_shap(sampling: Sampling, choices: Choices, scores: ChoiceScores, parts: Superpixels) -> Coefficients:
    """Fit KernelSHAP to choices that begin with all superpixels and none; the values sum to the difference of both.

    "plain" is least squares under that condition. For "paired", let x be a choice minus its mean, and t half the
    difference of the scores of a pair, minus what equal values for all superpixels give. The solution is C^-1 E[t x],
    where C = E[x x'] = c (I - 1 1' / superpixels) is known (unbiased KernelSHAP of Covert and Lee 2021). A ridge
    regression β of the other folds serves as a control variate: β + C^-1 mean[(t - x β) x] stays unbiased.
    """
    ends, values = scores[:2], scores[2:]
    gain, count = ends[0] - ends[1], choices.shape[1]
    shown = choices[2:]
    if sampling == "paired":
        shown = shown[::2]
        values = (values[::2] - values[1::2]) / 2 + (gain / 2 + ends[1])
    centred = shown - shown.mean(1, keepdim=True)
    rest = values - ends[1] - gain * shown.mean(1, keepdim=True)
    if sampling == "plain":
        inverse = torch.linalg.pinv(centred.T @ centred, hermitian=True)
        beta = inverse @ centred.T @ rest
        fitted = (gain / count + beta).T
        rest = rest - centred @ beta
        return Coefficients(fitted, _regression_errors(fitted, centred @ inverse, rest, parts, sampling, count - 1))
    scale = float((kernel_sizes(count) * _centred_squares(count)).sum()) / (count - 1)
    surrogate = cross_fit(centred, rest)
    units = centred / scale
    total = surrogate.rest.T @ units
    fitted = gain[:, None] / count + surrogate.beta.T + total / len(units)
    fitted = fitted + (gain - fitted.sum(1))[:, None] / count  # rounding
    squares = surrogate.rest.square().T @ _norm(units, parts).square()
    errors = relative_error(squares, _norm(total, parts).square(), len(units), _norm(fitted, parts))
    return Coefficients(fitted, errors)


def _centred_squares(count: int) -> Float[Tensor, " sizes"]:
    """Return the summed squares of a choice minus its mean, by the number of shown superpixels."""
    size = torch.arange(1, count, dtype=torch.float64)
    return size * (count - size) / count


def _regression_errors(
    values: Tensor, influence: Choices, rest: ChoiceScores, parts: Superpixels, sampling: Sampling, parameters: int
) -> RowValues:
    """Return relative standard errors from the influence of each choice; `inf` if the residuals say nothing."""
    rows = len(influence)
    if rows <= parameters:
        return torch.full((len(values),), torch.inf, dtype=torch.float64)
    units = (influence[:, None] * rest[:, :, None]).unflatten(0, (-1, COPIES[sampling])).sum(1)
    spread = _norm(units, parts).square().sum(0).sqrt() * (rows / (rows - parameters)) ** 0.5
    size = _norm(values, parts)
    return as_share(spread.masked_fill(spread <= size * torch.finfo(torch.float32).eps, 0), size)


def _norm(values: Float[Tensor, "*rows superpixels"], parts: Superpixels) -> Float[Tensor, "*rows"]:
    """Return the root mean square over pixels of values minus their mean over pixels."""
    centred = values - (values * parts.area).sum(-1, keepdim=True)
    return (centred.square() * parts.area).sum(-1).sqrt()
