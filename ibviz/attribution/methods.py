"""Every attribution method by name, and the one door to them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from ibviz.attribution.cam import (
    ablation_cam,
    eigen_cam,
    grad_cam,
    grad_cam_pp,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    score_cam,
    xgrad_cam,
)
from ibviz.attribution.controls import average_map, centre, edges, other_image, random_cells, random_pixels, uniform
from ibviz.attribution.door import GivenTargets, admitted, check_batch, guarded, one_class_each
from ibviz.attribution.gradients import (
    deep_lift,
    gradient_shap,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    lrp,
    saliency,
    smooth_grad,
    var_grad,
)
from ibviz.attribution.information import iba
from ibviz.attribution.intrinsic import attention, attention_mean, module_attention
from ibviz.attribution.perturbation import feature_ablation, kernel_shap, lime, occlusion, rise
from ibviz.attribution.transformer import attention_rollout, gradient_rollout, raw_attention
from ibviz.attribution.trial import tried
from ibviz.errors import InputError, not_finite, unknown
from ibviz.heads import head_of
from ibviz.metrics.score import targets_by
from ibviz.models.hooks import as_written, evaluating, replaced_output, unsealed
from ibviz.progress import progress
from ibviz.types import AttentionMap, Given, Images, Labels, Maps

Explanation = Tensor | AttentionMap  # `Maps`, or the trained attention; no shape, since batches are joined


class Method(NamedTuple):
    """A function `(model, images, targets, **options)` and what a table has to know of it."""

    function: Callable[..., Explanation]
    label: str
    target_free: bool = False
    control: bool = False
    whole: bool = False  # takes all images at once, not a chunk of them; its option `batch_size` bounds a pass


METHODS: dict[str, Method] = {
    "attention": Method(attention, "Attention", target_free=True),
    "attention_mean": Method(attention_mean, "Attention, mean", target_free=True),
    "module_attention": Method(module_attention, "Module attention", target_free=True),
    "raw_attention": Method(raw_attention, "Raw attention", target_free=True),
    "attention_rollout": Method(attention_rollout, "Attention rollout", target_free=True),
    "gradient_rollout": Method(gradient_rollout, "Gradient rollout"),
    "iba": Method(iba, "IBA"),
    "grad_cam": Method(grad_cam, "Grad-CAM"),
    "grad_cam_pp": Method(grad_cam_pp, "Grad-CAM++"),
    "hires_cam": Method(hires_cam, "HiResCAM"),
    "layer_cam": Method(layer_cam, "Layer-CAM"),
    "xgrad_cam": Method(xgrad_cam, "XGrad-CAM"),
    "score_cam": Method(score_cam, "Score-CAM"),
    "ablation_cam": Method(ablation_cam, "Ablation-CAM"),
    "eigen_cam": Method(eigen_cam, "Eigen-CAM", target_free=True),
    "guided_grad_cam": Method(guided_grad_cam, "Guided Grad-CAM"),
    "saliency": Method(saliency, "Saliency"),
    "input_x_gradient": Method(input_x_gradient, "Input x gradient"),
    "integrated_gradients": Method(integrated_gradients, "Integrated gradients"),
    "smooth_grad": Method(smooth_grad, "SmoothGrad"),
    "var_grad": Method(var_grad, "VarGrad"),
    "gradient_shap": Method(gradient_shap, "GradientSHAP"),
    "deep_lift": Method(deep_lift, "DeepLIFT"),
    "guided_backprop": Method(guided_backprop, "Guided backprop"),
    "lrp": Method(lrp, "LRP"),
    "occlusion": Method(occlusion, "Occlusion"),
    "rise": Method(rise, "RISE"),
    "feature_ablation": Method(feature_ablation, "Superpixel ablation"),
    "lime": Method(lime, "LIME"),
    "kernel_shap": Method(kernel_shap, "KernelSHAP"),
    "uniform": Method(uniform, "uniform", target_free=True, control=True),
    "centre": Method(centre, "centre", target_free=True, control=True),
    "random_cells": Method(random_cells, "random cells", target_free=True, control=True),
    "random_pixels": Method(random_pixels, "random pixels", target_free=True, control=True),
    "edges": Method(edges, "edges", target_free=True, control=True),
    "average_map": Method(average_map, "average map", target_free=True, control=True, whole=True),
    "other_image": Method(other_image, "other image", target_free=True, control=True, whole=True),
}
ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)  # of an option: tensors as well
CONTROLS = {method.label: name for name, method in METHODS.items() if method.control}


def explain(
    model: nn.Module,
    images: Given,
    method: str,
    *,
    targets: GivenTargets | None = None,
    batch_size: int = 64,
    **options: object,
) -> Explanation:
    """Maps of a batch by one method of `METHODS`, on the method's native grid, signed and unnormalised.

    Args:
        model: Any network; it runs in eval mode and is left as it was.
        images: `(b, channels, h, w)` in [0, 1], a tensor or a NumPy array, which no network can change.
        method: A key of `METHODS`.
        targets: Class of each image, or one for all; by default those that the model predicts.
        batch_size: The most images, changed or not, in one pass.
        options: The method's own.

    Returns:
        An `AttentionMap` of `attention`, a tensor of every other method.

    Raises:
        InputError: For an unknown method or option, listing the known ones, for targets that are no class of the
            network, for images that are none, and for an output that is no `(b, classes)` (see `ibviz.wrap`).

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> explain(network, torch.rand(2, 3, 8, 8), "uniform").shape
    torch.Size([2, 1, 1])
    """
    function = bind(method, options)
    if "batch_size" in options_of(method):
        function = partial(function, batch_size=batch_size)
    check_batch(images, batch_size)
    model = unsealed(model)
    with evaluating(model), as_written(model), torch.inference_mode(False):  # a copy of the labels can enter a graph
        images = admitted(model, images)
        if targets is not None:
            targets = one_class_each(targets, images)
        free = METHODS[method].control and not METHODS[method].whole  # of the network
        with guarded(model, images), nullcontext() if free else tried(model, images):
            maps = _explained(model, images, method, function, targets, batch_size)
    if not (maps.mean if isinstance(maps, AttentionMap) else maps).isfinite().all():
        raise not_finite(f"maps of {method}")
    return maps


def _explained(
    model: nn.Module,
    images: Images,
    method: str,
    function: Callable[..., Explanation],
    targets: Labels | None,
    batch_size: int,
) -> Explanation:
    if METHODS[method].target_free:  # nothing is asked of the network about classes
        targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    elif targets is None:
        targets = targets_by("predicted", _probabilities(model, images, batch_size), head=head_of(model)).classes
    size = len(images) if METHODS[method].whole else batch_size
    chunks = list(zip(images.split(size), targets.split(size), strict=True))
    with classes_in_range(model, targets):
        return concatenate([function(model, *chunk) for chunk in progress(chunks, method)])


@contextmanager
def classes_in_range(model: nn.Module, targets: Labels) -> Iterator[None]:
    """Inside the block, a pass whose logits lack one of the targets is an `InputError`; none is made to ask first."""
    low, high = (int(one) for one in targets.aminmax())

    def check(logits: Tensor) -> Tensor:
        if low < 0 or high >= logits.shape[1]:
            raise InputError(
                f"targets must be classes, 0 to {logits.shape[1] - 1} of this model; got {low} to {high}; "
                "leave out images whose class is unknown, or targets, for those predicted"
            )
        return logits

    with replaced_output(model, check):
        yield


def bind(method: str, options: Mapping[str, object]) -> "partial[Explanation]":
    """The function of a method with its options, after a check of their names, types and ranges.

    >>> bind("random_cells", {"grid": [2, 3]}).keywords
    {'grid': (2, 3)}
    """
    if method not in METHODS:
        raise unknown("method", method, list(METHODS))
    known = options_of(method)
    for name in options:
        if name not in known:
            raise unknown(f"option of {method}", name, list(known) or ["none"])
    try:
        checked = {
            n: TypeAdapter(known[n].annotation, config=ANY_TYPE).validate_python(value) for n, value in options.items()
        }
    except ValidationError as error:
        raise InputError(f"options of {method}, {dict(options)}: {error.errors()[0]['msg']}") from error
    return partial(METHODS[method].function, **checked)


def options_of(method: str) -> dict[str, inspect.Parameter]:
    """Options of a method's own, with their types and defaults.

    >>> list(options_of("random_cells"))
    ['grid', 'seed']
    """
    parameters = inspect.signature(METHODS[method].function).parameters
    return {name: one for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}


def predict(model: nn.Module, images: Given, *, batch_size: int = 256) -> Tensor:
    """Class probabilities `(b, classes)` by the model's head, float32; of a regression its outputs.

    Raises `InputError` for images that are none, and for an output that is no `(b, classes)` (see `ibviz.wrap`).
    """
    check_batch(images, batch_size)
    model, images = unsealed(model), admitted(model, images)
    with evaluating(model), guarded(model, images), tried(model, images):
        return _probabilities(model, images, batch_size)


@torch.no_grad()
def _probabilities(model: nn.Module, images: Images, batch_size: int) -> Tensor:
    head = head_of(model)
    probabilities = torch.cat([head.probability(model(part).float()) for part in images.split(batch_size)])
    if not probabilities.isfinite().all():
        raise not_finite("outputs of the network")
    return probabilities


def concatenate(parts: list[Explanation]) -> Explanation:
    """Explanations of consecutive chunks as one."""
    if not parts:
        raise InputError("there are no images to explain; expected a batch (b, 3, h, w) with b of at least 1")
    if not isinstance(parts[0], AttentionMap):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    maps = [part for part in parts if isinstance(part, AttentionMap)]
    indices = [one.index for one in maps if one.index is not None]
    return AttentionMap(
        mean=torch.cat([one.mean for one in maps]),
        deviation=torch.cat([one.deviation for one in maps]),
        index=torch.cat(indices) if indices else None,
        anchors=maps[0].anchors,
    )


def values(explanation: Explanation) -> Maps:
    """The numbers of an explanation, quantised where it has anchors."""
    return explanation.values() if isinstance(explanation, AttentionMap) else explanation
