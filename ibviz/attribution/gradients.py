"""Gradients of the target's logit with respect to the pixels, plain and averaged, computed through Captum.

Contributions (a gradient times a change of the pixels) are signed and summed over colours. A gradient alone says how
fast the logit changes, not whether the evidence is for or against the class; its map is the largest size over colours,
as by Simonyan (2014). Maps have one value per pixel; the baseline is a black image. Noise follows from `seed` alone, is
drawn on the CPU and shared by all images, so that a map depends neither on its batch nor on the device.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Annotated, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ibviz.attribution.forward_pass import (
    at_least_float32,
    copies_per_pass,
    differentiable,
    images_per_pass,
    in_memory_format,
)
from ibviz.attribution.noise import CopyNoise, mean_under_noise
from ibviz.attribution.sampling import ErrorLimit, Sampling, units_in
from ibviz.settings import Count
from ibviz.types import Images, Labels, Maps

NotNegative = Annotated[float, Field(ge=0)]
Copies = Float[Tensor, "n b colours h w"]
DOUBLINGS = 4  # times that the steps of integrated gradients are doubled at most
ROUNDED = 1e-5  # share of the summed size of a map by which its sum may be off through rounding alone


def saliency(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Saliency (Simonyan 2014): size of the gradient of the target's logit, the largest over colours."""
    return gradient(model, images, targets).abs().amax(1).float()


def input_x_gradient(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Input x gradient (Shrikumar 2016): pixels times their gradient, summed over colours."""
    return (at_least_float32(images) * gradient(model, images, targets)).sum(1).float()


def integrated_gradients(
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    steps: Count = 32,
    tolerance: NotNegative = 0.05,
    batch_size: Count = 64,
) -> Maps:
    """Integrated gradients (Sundararajan 2017): pixels times the mean gradient on the straight path from black.

    A map is summed over colours. It sums to f(image) - f(black), up to an error that falls with more steps; a correct
    sum does not prove that each pixel is correct.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        steps: Points on the path, doubled up to 4 times for images whose error is above `tolerance`.
        tolerance: Largest accepted error, as a share of f(image) - f(black). A warning names what remains above it.
            With `inf` the number of points is `steps`, as with Captum's `n_steps`.
        batch_size: The most changed images in one pass.

    Returns:
        One signed value per pixel, in units of the logit.
    """
    maps = _path_integral(model, images, targets, steps, batch_size)
    if math.isinf(tolerance):  # nothing is checked
        return maps.float()
    change = _change_from_black(model, images, targets)
    incomplete = _incomplete(maps, change, tolerance)
    for _ in range(DOUBLINGS):
        if not len(incomplete):
            return maps.float()
        steps *= 2
        maps[incomplete] = _path_integral(model, images[incomplete], targets[incomplete], steps, batch_size)
        incomplete = _incomplete(maps, change, tolerance)
    if len(incomplete):
        error = ((maps.sum((1, 2)) - change) / change).abs()[incomplete].max()
        warnings.warn(
            f"integrated gradients of {len(incomplete)} of {len(maps)} images do not add up: after {steps} steps "
            f"their sum misses f(image) - f(black) by up to {error:.0%} of it, where {tolerance:.0%} is tolerated; "
            "begin with more steps, or raise the tolerance",
            stacklevel=2,
        )
    return maps.float()


def _incomplete(maps: Maps, change: Float[Tensor, " b"], tolerance: float) -> Int[Tensor, " n"]:
    """Return the rows of the maps whose sum misses the change of the logit by more than tolerance and rounding."""
    error, size = (maps.sum((1, 2)) - change).abs(), maps.abs().sum((1, 2))
    return (error > tolerance * change.abs() + ROUNDED * size).nonzero().squeeze(1)


def _path_integral(model: nn.Module, images: Images, targets: Labels, steps: int, batch_size: int) -> Maps:
    """Return Captum's integrated gradients with `steps` Gauss-Legendre points, summed over colours."""
    from captum.attr import IntegratedGradients

    rows = max(images_per_pass(images, batch_size), len(images))  # at least one step of every image
    with differentiable(in_memory_format(images)) as inputs:
        parts = IntegratedGradients(model).attribute(
            inputs, baselines=0.0, target=targets, n_steps=steps, internal_batch_size=rows
        )
    return at_least_float32(cast(Tensor, parts).detach().sum(1))


@torch.no_grad()
def _change_from_black(model: nn.Module, images: Images, targets: Labels) -> Float[Tensor, " b"]:
    """Return the target's logit of each image minus that of a black image."""
    ends = (
        at_least_float32(model(images)),
        at_least_float32(model(torch.zeros_like(images[:1])).expand(len(images), -1)),
    )
    image, black = (logits.gather(1, targets[:, None]).squeeze(1) for logits in ends)
    return image - black


def smooth_grad(  # noqa: PLR0913 - three inputs, six options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: Count = 50,
    sampling: Sampling = "paired",
    error: ErrorLimit | None = None,
    deviation: NotNegative = 0.15,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """SmoothGrad (Smilkov 2017): size of the mean gradient over noisy copies of the image, the largest over colours.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        samples: Most noisy copies per image.
        sampling: "paired" for noise that comes with its negative (an odd number of samples is rounded up), or "plain".
        error: Draw in blocks of 64 samples until the standard error is below this share of the size of the mean
            gradient, for each image by itself; None to draw all. Both are root mean squares over pixels and colours;
            `ibviz.attribution.recorded_errors` tells the error reached.
        deviation: Standard deviation of the noise, as a share of the range of the pixels.
        seed: Seed of the noise.
        batch_size: The most copies in one pass.
    """

    def value(copies: Copies, rows: Labels, _: Int[Tensor, " n"]) -> Copies:
        return at_least_float32(_gradients(model, copies, targets[rows]))

    draws = torch.Generator().manual_seed(seed)
    noise = CopyNoise(units_in(samples, sampling), sampling, deviation, draws)
    return mean_under_noise(value, images, noise, error, batch_size).abs().amax(1).float()


def var_grad(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: Count = 50,
    deviation: NotNegative = 0.15,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """VarGrad (Adebayo 2018): variance of the gradient over noisy copies of the image, summed over colours.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        samples: Noisy copies per image.
        deviation: Standard deviation of the noise, as a share of the range of the pixels.
        seed: Seed of the noise.
        batch_size: The most copies in one pass.
    """
    draws = torch.Generator().manual_seed(seed)
    first, total, squares = None, torch.zeros_like(at_least_float32(images)), torch.zeros_like(at_least_float32(images))
    for copies in noisy_copies(images, samples, deviation, draws, batch_size):
        gradients = at_least_float32(_gradients(model, copies, targets))
        first = gradients[0] if first is None else first  # subtracted so that squares do not cancel digits
        total += (gradients - first).sum(0)
        squares += (gradients - first).square().sum(0)
    return (squares / samples - (total / samples).square()).clamp(min=0).sum(1).float()


def gradient_shap(  # noqa: PLR0913 - three inputs, six options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: Count = 50,
    sampling: Sampling = "paired",
    error: ErrorLimit | None = None,
    deviation: NotNegative = 0.1,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """GradientSHAP (Lundberg 2017): noisy copies times their gradient at a random point on the path from black.

    It is the mean over copies, summed over colours. Only the expectation of a map over all draws sums to
    f(image) - f(black), not the mean of `samples` of them. With "paired" noise comes with its negative at the same
    point, and the points are stratified: one in each of as many equal parts of the path.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        samples: Most noisy copies per image.
        sampling: "paired" (an odd number of samples is rounded up) or "plain".
        error: Draw in blocks of 64 samples until the standard error is below this share of the map's size, for each
            image by itself; None to draw all. Both are root mean squares over pixels; with "paired" the standard error
            is an upper bound, since it takes the points for independent. `ibviz.attribution.recorded_errors` tells
            the error reached.
        deviation: Standard deviation of the noise, as a share of the range of the pixels.
        seed: Seed of the noise and of the points.
        batch_size: The most copies in one pass.

    Returns:
        One signed value per pixel, in units of the logit.
    """
    draws, units = torch.Generator().manual_seed(seed), units_in(samples, sampling)
    if sampling == "plain":
        points = torch.rand(units, generator=draws)
    else:
        points = (torch.randperm(units, generator=draws) + torch.rand(units, generator=draws)) / units

    def value(copies: Copies, rows: Labels, number: Int[Tensor, " n"]) -> Float[Tensor, "n b h w"]:
        at = points[number, None, None, None, None].to(copies)
        return (at_least_float32(copies) * _gradients(model, at * copies, targets[rows])).sum(2)

    return mean_under_noise(value, images, CopyNoise(units, sampling, deviation, draws), error, batch_size).float()


def gradient(model: nn.Module, images: Images, targets: Labels) -> Images:
    """Return the gradient of the target's logit with respect to every pixel and colour."""
    from captum.attr import Saliency

    with differentiable(images) as inputs:
        return cast(Tensor, Saliency(model).attribute(inputs, target=targets, abs=False)).detach()


def noisy_copies(
    images: Images, samples: int, deviation: float, draws: torch.Generator, batch_size: int
) -> Iterator[Copies]:
    """Yield the images with `samples` draws of normal noise added, `copies_per_pass` draws at a time."""
    noise = torch.randn(samples, 1, *images.shape[1:], generator=draws).to(images)
    for part in noise.split(copies_per_pass(images, batch_size)):
        yield images + deviation * part


def _gradients(model: nn.Module, copies: Copies, targets: Labels) -> Copies:
    rows = gradient(model, in_memory_format(copies.flatten(0, 1)), targets.repeat(len(copies)))
    return rows.unflatten(0, copies.shape[:2])
