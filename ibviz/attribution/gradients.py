"""Gradients of the target's logit with respect to the pixels, plain and modified, through Captum.

Contributions (a gradient times a change of the pixels) are signed and summed over colours. A gradient alone says how
fast the logit changes, not which way the evidence points: of these the largest size over colours is taken, as by
Simonyan (2014). The native grid is that of the pixels, the baseline a black image. Noise follows from `seed` alone, is
drawn on the CPU and shared by all images, so that a map depends neither on its batch nor on the device.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ibviz.attribution.passes import Count, copies_a_pass, differentiable, fine, laid_out, rows_a_pass
from ibviz.errors import InputError
from ibviz.models.classifier import Normalize
from ibviz.types import Images, Labels, Maps

Share = Annotated[float, Field(ge=0)]
Copies = Float[Tensor, "n b colours h w"]
MISSED = 0.01, 1e-5, 0.05  # what DeepLift may miss: of the logit's change, of its contributions' size, with max pools


def saliency(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Size of the gradient, the largest over colours (Simonyan 2014)."""
    return gradient(model, images, targets).abs().amax(1).float()


def input_x_gradient(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Pixels times their gradient, summed over colours (Shrikumar 2016)."""
    return (fine(images) * gradient(model, images, targets)).sum(1).float()


def integrated_gradients(
    model: nn.Module, images: Images, targets: Labels, *, steps: Count = 32, batch_size: Count = 64
) -> Maps:
    """Integrated gradients from a black image (Sundararajan 2017), summed over colours.

    The sum over a map approaches f(image) - f(black) as `steps` grow.
    """
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - a second to import

    rows = max(rows_a_pass(images, batch_size), len(images))  # at least one step of every image
    with differentiable(laid_out(images)) as inputs:
        parts = IntegratedGradients(model).attribute(
            inputs, baselines=0.0, target=targets, n_steps=steps, internal_batch_size=rows
        )
    return cast(Tensor, parts).detach().sum(1).float()


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
    """Noisy copies times their gradient at a random point on the way from black, over colours (Lundberg 2017)."""
    draws = torch.Generator().manual_seed(seed)
    ways = torch.rand(samples, 1, 1, 1, 1, generator=draws).to(images).split(copies_a_pass(images, batch_size))
    total = torch.zeros_like(fine(images))
    for way, copies in zip(ways, noisy_copies(images, samples, deviation, draws, batch_size), strict=True):
        total += (fine(copies) * _gradients(model, way * copies, targets)).sum(0)
    return (total / samples).sum(1).float()


def deep_lift(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """DeepLift's rescale rule against a black image (Shrikumar 2017), summed over colours.

    Raises `InputError` where an activation is no module of its own that runs once: the contributions would not add up
    to f(image) - f(black), which is checked.
    """
    from captum.attr import DeepLift  # noqa: PLC0415 - a second to import

    way_out = "give every activation a module of its own that runs once, or choose integrated_gradients"
    with modifiable(model, images, "deep_lift", way_out) as (network, inputs):
        method = DeepLift(network)
        parts, missed = method.attribute(inputs, baselines=0.0, target=targets, return_convergence_delta=True)
        change, size = parts.flatten(1).sum(1) - missed, parts.flatten(1).abs().sum(1)
        rough = any(isinstance(module, nn.MaxPool2d) for module in network.modules())  # Captum's rule is inexact
        if (missed.abs() > MISSED[0] * change.abs() + MISSED[1 + rough] * size).any():
            raise InputError("deep_lift's contributions do not add up: this network has activations or products "
                             f"outside modules, of which Captum does not know; {way_out}")  # fmt: skip
    return parts.detach().sum(1).float()


def guided_backprop(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Size of the gradient that passes ReLUs where it is positive, the largest over colours (Springenberg 2015).

    Raises `InputError` for a network without ReLU modules.
    """
    return guided_gradient(model, images, targets).abs().amax(1).float()


def lrp(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Layer-wise relevance propagation with the epsilon rule (Bach 2015), summed over colours.

    Relevance passes the network's normalisation unchanged. Raises `InputError` for layers of which Captum knows no
    rule, and for sums and products outside modules, such as those of residual blocks.
    """
    from captum.attr import LRP  # noqa: PLC0415 - a second to import
    from captum.attr._utils.lrp_rules import EpsilonRule, IdentityRule  # noqa: PLC0415

    way_out = "choose integrated_gradients or input_x_gradient"
    with modifiable(model, images, "lrp", way_out) as (network, inputs):
        if joins := _joins(network(inputs).sum(), inputs):
            raise InputError(f"lrp: this network joins activations outside modules ({', '.join(sorted(joins))}), for "
                             f"which Captum has no rule; {way_out}")  # fmt: skip
        rules = {Normalize: IdentityRule, nn.Flatten: EpsilonRule, nn.Identity: EpsilonRule}
        for module in network.modules():
            if type(module) in rules:
                cast(Any, module).rule = rules[type(module)]()
        parts = LRP(network).attribute(inputs, target=targets)
    return cast(Tensor, parts).detach().sum(1).float()


def gradient(model: nn.Module, images: Images, targets: Labels) -> Images:
    """Gradient of the target's logit with respect to every pixel and colour."""
    from captum.attr import Saliency  # noqa: PLC0415 - a second to import

    with differentiable(images) as inputs:
        return cast(Tensor, Saliency(model).attribute(inputs, target=targets, abs=False)).detach()


def guided_gradient(model: nn.Module, images: Images, targets: Labels) -> Images:
    """The gradient with respect to every pixel and colour, passing ReLUs where it is positive."""
    from captum.attr import GuidedBackprop  # noqa: PLC0415 - a second to import

    if not any(isinstance(module, nn.ReLU) for module in model.modules()):
        raise InputError("guided backprop changes how nn.ReLU modules pass gradients, and this network has none; "
                         "choose saliency or smooth_grad")  # fmt: skip
    with modifiable(model, images, "guided_backprop", "choose saliency") as (network, inputs):
        return cast(Tensor, GuidedBackprop(network).attribute(inputs, target=targets)).detach()


@contextmanager
def modifiable(model: nn.Module, images: Images, method: str, way_out: str) -> Iterator[tuple[nn.Module, Images]]:
    """Copies of network and images for methods that hook into activations, without autocast or TF32.

    Whatever goes wrong, the network itself is untouched: the copy has modules, and with them hooks, of its own. It
    shares the weights, which none of the methods changes. What Captum refuses becomes an `InputError`.
    """
    network = copy.deepcopy(model, {id(weight): weight for weight in [*model.parameters(), *model.buffers()]})
    try:
        with warnings.catch_warnings(), torch.autocast(images.device.type, enabled=False), _without_tf32():
            warnings.filterwarnings("ignore", message="Setting ")  # Captum announces its hooks
            with differentiable(images) as inputs:
                yield network, inputs
    except (InputError, torch.OutOfMemoryError):
        raise
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        raise InputError(f"{method} does not fit this network: {str(error)[:200]}; {way_out}") from error


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Inside the block, GPUs multiply float32 numbers as such, so that sums that are checked are exact enough."""
    backends = cast(Any, torch.backends.cudnn).conv, cast(Any, torch.backends.cuda).matmul
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


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


def _joins(output: Tensor, inputs: Tensor) -> set[str]:
    """Names of the operations behind `output` in which two paths from `inputs` meet."""
    if output.grad_fn is None:
        raise RuntimeError("the output does not require grad")
    reached: dict[Any, bool] = {}
    joins, stack = set(), [cast(Any, output.grad_fn)]
    while stack:
        node = stack[-1]
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        waiting = [parent for parent in parents if parent not in reached]
        stack.extend(waiting)
        if not waiting:
            paths = sum(reached[parent] for parent in parents)
            reached[stack.pop()] = paths > 0 or getattr(node, "variable", None) is inputs
            joins |= {node.name()} if paths > 1 else set()
    return joins
