"""Backpropagation by other rules at activations and pools: DeepLIFT, guided backpropagation and LRP.

DeepLIFT and LRP give signed contributions, summed over colours; guided backpropagation gives the largest size over
colours. The maps have one value per pixel; the baseline is a black image.
"""

from functools import partial

import torch
from torch import Tensor, nn

from ibviz.attribution.forward_pass import differentiable
from ibviz.attribution.operation_names import MAX_POOLS, MAX_REDUCTIONS
from ibviz.attribution.operations import (
    RecordedStep,
    in_full_precision,
    modified_gradient,
    operations_hiding_relus,
    operations_without_rule,
    record_pass,
    refuse_operations,
    steps_reached,
)
from ibviz.errors import InputError
from ibviz.types import Images, Labels, Maps

_ROUNDING = 256  # the sum of DeepLIFT may miss this many machine epsilons of its largest part


def deep_lift(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """DeepLIFT (Shrikumar 2017): contributions of the pixels against a black image, by the rescale rule.

    At an activation the gradient is multiplied by the change of the output over the change of the input; at a max pool
    the change of the output goes to the place of the larger of the two maxima. A map sums to f(image) - f(black).

    Raises:
        InputError: For a network with any other non-linear operation, such as products of activations or a softmax, and
            if the contributions do not sum to f(image) - f(black).
    """
    way_out = "choose integrated_gradients"
    with in_full_precision(images.device), differentiable(images) as inputs:
        black = record_pass(model, torch.zeros_like(inputs).requires_grad_())
        run = record_pass(model, inputs)
        refuse_operations("deep_lift", operations_without_rule(run, lambda _: True), way_out)
        if [step.before.shape for step in run.steps] != [step.before.shape for step in black.steps]:
            raise InputError(
                f"deep_lift compares every step for an image with that for a black one, and this network "
                f"takes other steps there; {way_out}"
            )
        rescaled = partial(_rescaled, black.steps)
        parts = inputs * modified_gradient(run, _score(run.output, targets), rescaled, inputs)
    logit, baseline = (recorded.output.detach().gather(1, targets.unsqueeze(1)).squeeze(1) for recorded in (run, black))
    error = (parts.flatten(1).sum(1) - (logit - baseline)).abs()
    size = torch.stack([parts.flatten(1).abs().sum(1), logit.abs(), baseline.abs()]).amax(0)
    if (error > _ROUNDING * torch.finfo(parts.dtype).eps * size).any():
        raise InputError(f"deep_lift's contributions do not add up to the change of the logit; {way_out}")
    return parts.detach().sum(1).float()


def guided_backprop(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Guided backpropagation (Springenberg 2015): gradient that passes ReLUs only if positive; its size per pixel.

    It is the largest size over colours. Raises `InputError` for a network without ReLUs, or with operations that may
    hide one.
    """
    return guided_gradient(model, images, targets).abs().amax(1).float()


def lrp(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """LRP, layer-wise relevance propagation (Bach 2015): relevance of each pixel by the epsilon rule with epsilon 0.

    Activations and the network's own normalisation pass relevance on unchanged, sums distribute it in proportion,
    constants such as biases take their share, and a max pool gives it to its largest input. This is the input times a
    gradient in which an activation f counts as f(z) / z (Ancona 2018), summed over colours.

    Raises:
        InputError: For a network with any other non-linear operation, such as products of activations, a softmax, or an
            activation that is not 0 at 0.
    """
    with in_full_precision(images.device), differentiable(images) as inputs:
        run = record_pass(model, inputs)
        refuse_operations(
            "lrp",
            operations_without_rule(run, _is_zero_at_zero, also=MAX_REDUCTIONS),
            "choose integrated_gradients or input_x_gradient",
        )
        relevance = (
            modified_gradient(run, _score(run.output, targets), _output_over_input, run.normalized) * run.normalized
        )
    return relevance.detach().sum(1).float()


def guided_gradient(model: nn.Module, images: Images, targets: Labels) -> Images:
    """Return the gradient with respect to every pixel and colour, with its negative part removed at every ReLU."""
    with in_full_precision(images.device), differentiable(images) as inputs:
        run = record_pass(model, inputs, values=False)
        refuse_operations("guided_backprop", operations_hiding_relus(run), "choose saliency or smooth_grad")
        relus = {place for place in steps_reached(run) if _is_relu(run.steps[place])}
        if not relus:
            raise InputError(
                "guided backprop changes how ReLUs pass gradients, and this network has none; choose "
                "saliency or smooth_grad"
            )
        return modified_gradient(run, _score(run.output, targets), partial(_guided, relus), inputs)


def _score(logits: Tensor, targets: Labels) -> Tensor:
    return logits.gather(1, targets.unsqueeze(1)).sum()


def _rescaled(black: list[RecordedStep], place: int, step: RecordedStep, behind: Tensor, before: Tensor) -> Tensor:
    """Return DeepLIFT's gradient before a step: that behind it times change of output over change of input.

    It is the plain gradient `before` if the two inputs are equal up to rounding.
    """
    baseline = black[place]
    if step.name in MAX_POOLS:
        return _rescaled_pool(step, baseline, behind)
    change = step.before - baseline.before
    small = change.abs() <= 4 * torch.finfo(change.dtype).eps * (step.before.abs() + baseline.before.abs())
    return torch.where(small, before, behind * (step.after() - baseline.after()) / torch.where(small, 1.0, change))


def _rescaled_pool(step: RecordedStep, baseline: RecordedStep, behind: Tensor) -> Tensor:
    """Return DeepLIFT's gradient before a max pool: the change of each window's maximum, at the larger maximum."""
    (maxima, places), (baseline_maxima, baseline_places) = (run.compute(run.before) for run in (step, baseline))
    places = torch.where(maxima >= baseline_maxima, places, baseline_places).flatten(2)
    change = (step.before - baseline.before).flatten(2).gather(2, places)
    share = (maxima - baseline_maxima).flatten(2) / torch.where(change == 0, 1.0, change)
    passed = behind.flatten(2) * torch.where(change == 0, 1.0, share)
    return torch.zeros_like(step.before).flatten(2).scatter_add(2, places, passed).view_as(step.before)


def _is_zero_at_zero(step: RecordedStep) -> bool:
    return step.name in MAX_POOLS or not step.value_at(0.0).any()


def _output_over_input(place: int, step: RecordedStep, behind: Tensor, before: Tensor) -> Tensor:  # noqa: ARG001 - a rule's signature
    """Return LRP's gradient before a step: that behind it times output over input.

    It is the plain gradient `before` if the input is 0, and for a max pool.
    """
    if step.name in MAX_POOLS:
        return before
    zero = step.before == 0
    return torch.where(zero, before, behind * step.after() / torch.where(zero, 1.0, step.before))


def _is_relu(step: RecordedStep) -> bool:
    """Return True if a step maps negative numbers to 0 and small positive ones to themselves, as ReLU and ReLU6."""
    if step.name in MAX_POOLS:
        return False
    small = 2**-7
    return not step.value_at(-1.0).any() and bool((step.value_at(small) == small).all())


def _guided(relus: set[int], place: int, step: RecordedStep, behind: Tensor, before: Tensor) -> Tensor:  # noqa: ARG001
    """Return the plain gradient before a step, without its negative part if the step is a ReLU."""
    return before.clamp(min=0) if place in relus else before
