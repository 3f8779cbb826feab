"""Gradients of the target's logit with respect to the pixels: plain, through Captum, and by the rules of `operations`.

Contributions (a gradient times a change of the pixels) are signed and summed over colours. A gradient alone says how
fast the logit changes, not which way the evidence points: of these the largest size over colours is taken, as by
Simonyan (2014). The native grid is that of the pixels, the baseline a black image. Noise follows from `seed` alone, is
drawn on the CPU and shared by all images, so that a map depends neither on its batch nor on the device.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Annotated, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ibviz.attribution.operations import (
    LARGEST,
    POOLS,
    Step,
    changed_gradient,
    in_full_precision,
    may_hide_relus,
    recorded,
    refuse,
    steps_reached,
    without_rule,
)
from ibviz.attribution.passes import Count, copies_a_pass, differentiable, fine, laid_out, rows_a_pass
from ibviz.errors import InputError
from ibviz.types import Images, Labels, Maps

Share = Annotated[float, Field(ge=0)]
Copies = Float[Tensor, "n b colours h w"]
DOUBLINGS = 4  # of the steps of integrated gradients, until they add up
ROUNDED = 1e-5  # of the summed size of a map: what its sum may miss by rounding alone
ROUNDING = 256  # times a dtype's epsilon is what DeepLIFT's sum may miss of the numbers that it is made of


def saliency(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Size of the gradient, the largest over colours (Simonyan 2014)."""
    return gradient(model, images, targets).abs().amax(1).float()


def input_x_gradient(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Pixels times their gradient, summed over colours (Shrikumar 2016)."""
    return (fine(images) * gradient(model, images, targets)).sum(1).float()


def integrated_gradients(
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    steps: Count = 32,
    tolerance: Share = 0.05,
    batch_size: Count = 64,
) -> Maps:
    """Integrated gradients from a black image (Sundararajan 2017), summed over colours.

    A map sums to f(image) - f(black), but for an error that falls as steps grow. `steps` are doubled for the images
    whose error is more than `tolerance` of that difference, up to 4 times; what is off even then is warned of. A sum
    that is right does not prove that each pixel is. With `tolerance = inf` a map has exactly `steps`, as one of
    Captum's with `n_steps`.
    """
    maps, change = _path_integral(model, images, targets, steps, batch_size), _change_from_black(model, images, targets)
    off = _not_adding_up(maps, change, tolerance)
    for _ in range(DOUBLINGS):
        if not len(off):
            return maps.float()
        steps *= 2
        maps[off] = _path_integral(model, images[off], targets[off], steps, batch_size)
        off = _not_adding_up(maps, change, tolerance)
    if len(off):
        error = ((maps.sum((1, 2)) - change) / change).abs()[off].max()
        warnings.warn(
            f"integrated gradients of {len(off)} of {len(maps)} images do not add up: after {steps} steps their sum "
            f"misses f(image) - f(black) by up to {error:.0%} of it, where {tolerance:.0%} is tolerated; begin with "
            "more steps, or raise the tolerance",
            stacklevel=2,
        )
    return maps.float()


def _not_adding_up(maps: Maps, change: Float[Tensor, " b"], tolerance: float) -> Int[Tensor, " off"]:
    """Rows of the maps whose sum is further from the change of the logit than is tolerated, and than rounding is."""
    missed, size = (maps.sum((1, 2)) - change).abs(), maps.abs().sum((1, 2))
    return (missed > tolerance * change.abs() + ROUNDED * size).nonzero().squeeze(1)


def _path_integral(model: nn.Module, images: Images, targets: Labels, steps: int, batch_size: int) -> Maps:
    """Captum's integrated gradients, summed over colours, by its rule of `steps` points (Gauss-Legendre)."""
    from captum.attr import IntegratedGradients

    rows = max(rows_a_pass(images, batch_size), len(images))  # at least one step of every image
    with differentiable(laid_out(images)) as inputs:
        parts = IntegratedGradients(model).attribute(
            inputs, baselines=0.0, target=targets, n_steps=steps, internal_batch_size=rows
        )
    return fine(cast(Tensor, parts).detach().sum(1))


@torch.no_grad()
def _change_from_black(model: nn.Module, images: Images, targets: Labels) -> Float[Tensor, " b"]:
    """How much higher the target's logit is for each image than for a black one."""
    ends = fine(model(images)), fine(model(torch.zeros_like(images[:1])).expand(len(images), -1))
    image, black = (logits.gather(1, targets[:, None]).squeeze(1) for logits in ends)
    return image - black


def smooth_grad(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: Count = 50,
    deviation: Share = 0.15,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """Size of the mean gradient over noisy copies of the image, the largest over colours (Smilkov 2017).

    `deviation` is that of the noise, as a share of the range of the pixels.
    """
    draws, total = torch.Generator().manual_seed(seed), torch.zeros_like(fine(images))
    for copies in noisy_copies(images, samples, deviation, draws, batch_size):
        total += fine(_gradients(model, copies, targets)).sum(0)
    return (total / samples).abs().amax(1).float()


def var_grad(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: Count = 50,
    deviation: Share = 0.15,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """Variance of the gradient over noisy copies of the image, summed over colours (Adebayo 2018)."""
    draws = torch.Generator().manual_seed(seed)
    first, total, squares = None, torch.zeros_like(fine(images)), torch.zeros_like(fine(images))
    for copies in noisy_copies(images, samples, deviation, draws, batch_size):
        gradients = fine(_gradients(model, copies, targets))
        first = gradients[0] if first is None else first  # moments about it do not cancel
        total += (gradients - first).sum(0)
        squares += (gradients - first).square().sum(0)
    return (squares / samples - (total / samples).square()).clamp(min=0).sum(1).float()


def gradient_shap(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: Count = 50,
    deviation: Share = 0.1,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """Noisy copies times their gradient at a random point on the way from black, over colours (Lundberg 2017).

    The sum over a map is f(image) - f(black) on average over draws alone, not for the `samples` that are drawn.
    """
    draws = torch.Generator().manual_seed(seed)
    ways = torch.rand(samples, 1, 1, 1, 1, generator=draws).to(images).split(copies_a_pass(images, batch_size))
    total = torch.zeros_like(fine(images))
    for way, copies in zip(ways, noisy_copies(images, samples, deviation, draws, batch_size), strict=True):
        total += (fine(copies) * _gradients(model, way * copies, targets)).sum(0)
    return (total / samples).sum(1).float()


def deep_lift(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """DeepLIFT's rescale rule against a black image (Shrikumar 2017), summed over colours.

    Every activation passes on the change of its output over the change of its input, every max pool the change of its
    output to the place of the larger of its two maxima. Raises `InputError` for a network that computes anything else
    that is not linear, such as products of activations and softmax, and where the contributions do not add up to
    f(image) - f(black).
    """
    way_out = "choose integrated_gradients"
    with in_full_precision(images.device), differentiable(images) as inputs:
        black = recorded(model, torch.zeros_like(inputs).requires_grad_())
        run = recorded(model, inputs)
        refuse("deep_lift", without_rule(run, lambda _: True), way_out)
        if [one.before.shape for one in run.steps] != [one.before.shape for one in black.steps]:
            raise InputError(
                f"deep_lift compares every step for an image with that for a black one, and this network "
                f"takes other steps there; {way_out}"
            )
        rescaled = partial(_rescaled, black.steps)
        parts = inputs * changed_gradient(run, _score(run.output, targets), rescaled, inputs)
    logit, start = (one.output.detach().gather(1, targets.unsqueeze(1)).squeeze(1) for one in (run, black))
    missed = (parts.flatten(1).sum(1) - (logit - start)).abs()
    size = torch.stack([parts.flatten(1).abs().sum(1), logit.abs(), start.abs()]).amax(0)
    if (missed > ROUNDING * torch.finfo(parts.dtype).eps * size).any():
        raise InputError(f"deep_lift's contributions do not add up to the change of the logit; {way_out}")
    return parts.detach().sum(1).float()


def guided_backprop(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Size of the gradient that passes ReLUs where it is positive, the largest over colours (Springenberg 2015).

    Raises `InputError` for a network without ReLUs, and where one could hide.
    """
    return guided_gradient(model, images, targets).abs().amax(1).float()


def lrp(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Layer-wise relevance propagation (Bach 2015), summed over colours: the epsilon rule, with an epsilon of 0.

    Activations and the network's own normalisation pass relevance on unchanged, sums share it out in proportion,
    constants such as biases take their share, and a max pool gives it to its largest input. It is the input times a
    gradient in which an activation f counts as f(z) / z (Ancona 2018). Raises `InputError` for a network that computes
    anything else that is not linear, such as products of activations, softmax, or activations that are not 0 at 0.
    """
    with in_full_precision(images.device), differentiable(images) as inputs:
        run = recorded(model, inputs)
        refuse(
            "lrp", without_rule(run, _is_zero_at_zero, also=LARGEST), "choose integrated_gradients or input_x_gradient"
        )
        relevance = changed_gradient(run, _score(run.output, targets), _as_share, run.normalized) * run.normalized
    return relevance.detach().sum(1).float()


def gradient(model: nn.Module, images: Images, targets: Labels) -> Images:
    """Gradient of the target's logit with respect to every pixel and colour."""
    from captum.attr import Saliency

    with differentiable(images) as inputs:
        return cast(Tensor, Saliency(model).attribute(inputs, target=targets, abs=False)).detach()


def guided_gradient(model: nn.Module, images: Images, targets: Labels) -> Images:
    """The gradient with respect to every pixel and colour, passing ReLUs where it is positive."""
    with in_full_precision(images.device), differentiable(images) as inputs:
        run = recorded(model, inputs)
        refuse("guided_backprop", may_hide_relus(run), "choose saliency or smooth_grad")
        relus = {place for place in steps_reached(run) if _is_relu(run.steps[place])}
        if not relus:
            raise InputError(
                "guided backprop changes how ReLUs pass gradients, and this network has none; choose "
                "saliency or smooth_grad"
            )
        return changed_gradient(run, _score(run.output, targets), partial(_positive, relus), inputs)


def noisy_copies(
    images: Images, samples: int, deviation: float, draws: torch.Generator, batch_size: int
) -> Iterator[Copies]:
    """The images under `samples` draws of normal noise, as many as `copies_a_pass` at a time."""
    noise = torch.randn(samples, 1, *images.shape[1:], generator=draws).to(images)
    for part in noise.split(copies_a_pass(images, batch_size)):
        yield images + deviation * part


def _gradients(model: nn.Module, copies: Copies, targets: Labels) -> Copies:
    rows = gradient(model, laid_out(copies.flatten(0, 1)), targets.repeat(len(copies)))
    return rows.unflatten(0, copies.shape[:2])


def _score(logits: Tensor, targets: Labels) -> Tensor:
    return logits.gather(1, targets.unsqueeze(1)).sum()


def _rescaled(black: list[Step], place: int, step: Step, behind: Tensor, before: Tensor) -> Tensor:
    """Change of the output over that of the input, or the slope where the two inputs are the same but for rounding."""
    other = black[place]
    if step.name in POOLS:
        return _rescaled_pool(step, other, behind)
    change = step.before - other.before
    small = change.abs() <= 4 * torch.finfo(change.dtype).eps * (step.before.abs() + other.before.abs())
    return torch.where(small, before, behind * (step.after() - other.after()) / torch.where(small, 1.0, change))


def _rescaled_pool(step: Step, other: Step, behind: Tensor) -> Tensor:
    """Give the change of each window's largest number to the place where the larger of the two stands."""
    (largest, places), (largest_before, places_before) = step.compute(step.before), other.compute(other.before)
    places = torch.where(largest >= largest_before, places, places_before).flatten(2)
    change = (step.before - other.before).flatten(2).gather(2, places)
    share = (largest - largest_before).flatten(2) / torch.where(change == 0, 1.0, change)
    passed = behind.flatten(2) * torch.where(change == 0, 1.0, share)
    return torch.zeros_like(step.before).flatten(2).scatter_add(2, places, passed).view_as(step.before)


def _is_zero_at_zero(step: Step) -> bool:
    return step.name in POOLS or not step.compute(torch.zeros_like(step.before)).any()


def _as_share(place: int, step: Step, behind: Tensor, before: Tensor) -> Tensor:  # noqa: ARG001 - a rule's signature
    """Output over input, so that relevance passes unchanged; the slope where the input is 0, and for a pool."""
    empty = step.before == 0
    if step.name in POOLS:
        return before
    return torch.where(empty, before, behind * step.after() / torch.where(empty, 1.0, step.before))


def _is_relu(step: Step) -> bool:
    """Whether a step gives 0 for negative numbers and small positive ones back: a ReLU under any name, or ReLU6."""
    if step.name in POOLS:
        return False
    negative, small = (torch.full_like(step.before, number) for number in (-1.0, 2**-7))
    return not step.compute(negative).any() and bool((step.compute(small) == small).all())


def _positive(relus: set[int], place: int, step: Step, behind: Tensor, before: Tensor) -> Tensor:  # noqa: ARG001
    """What a ReLU passes on of the gradient, without its negative part; other steps pass the plain one."""
    return before.clamp(min=0) if place in relus else before
