"""Every attribution method by name, and the one door to them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
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
from ibviz.errors import InputError, not_finite, unknown
from ibviz.models.hooks import as_written, evaluating, replaced_output, unsealed
from ibviz.progress import progress
from ibviz.types import AttentionMap, Images, Labels, Maps

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
CONTROLS = {method.label: name for name, method in METHODS.items() if method.control}


def explain(
    model: nn.Module,
    images: Images,
    method: str,
    *,
    targets: Labels | None = None,
    batch_size: int = 64,
    **options: object,
) -> Explanation:
    """Maps of a batch by one method of `METHODS`, on the method's native grid, signed and unnormalised.

    `targets` default to the classes the model predicts; `options` are the method's own. The model runs in eval mode and
    is left as it was. `attention` gives an `AttentionMap`, every other method a tensor. Raises `InputError` for an
    unknown method or option, listing the known ones, and for targets that are no class of the network.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> explain(network, torch.rand(2, 3, 8, 8), "uniform").shape
    torch.Size([2, 1, 1])
    """
    function = bind(method, options)
    if "batch_size" in options_of(method):
        function = partial(function, batch_size=batch_size)
    if not len(images) or batch_size < 1:
        raise InputError(f"expected images, and a batch_size of at least 1; got {len(images)} and {batch_size}")
    model = unsealed(model)
    with evaluating(model), as_written(model), torch.inference_mode(False):  # a copy of the labels can enter a graph
        images = images.detach()
        if targets is not None:
            targets = one_class_each(targets, images)
        if METHODS[method].target_free:  # nothing is asked of the network about classes
            targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
        elif targets is None:
            targets = predict(model, images, batch_size=batch_size).argmax(1)
        size = len(images) if METHODS[method].whole else batch_size
        chunks = list(zip(images.split(size), targets.split(size), strict=True))
        with classes_in_range(model, targets):
            parts = [function(model, *chunk) for chunk in progress(chunks, method)]
    maps = concatenate(parts)
    if not (maps.mean if isinstance(maps, AttentionMap) else maps).isfinite().all():
        raise not_finite(f"maps of {method}")
    return maps


def one_class_each(targets: Tensor, images: Images) -> Labels:
    """A copy of the targets on the images' device, or an `InputError` where they are no whole number for each image."""
    if targets.shape != images.shape[:1] or targets.is_floating_point() or targets.dtype == torch.bool:
        raise InputError(f"targets must be whole numbers ({len(images)},), a class for each image; got {targets.dtype} "
                         f"{tuple(targets.shape)}; for one class of all, torch.full(({len(images)},), 3)")  # fmt: skip
    return targets.to(images.device, torch.long, copy=True)


@contextmanager
def classes_in_range(model: nn.Module, targets: Labels) -> Iterator[None]:
    """Inside the block, a pass whose logits lack one of the targets is an `InputError`; none is made to ask first."""
    low, high = (int(one) for one in targets.aminmax())

    def check(logits: Tensor) -> Tensor:
        if low < 0 or high >= logits.shape[1]:
            raise InputError(f"targets must be classes, 0 to {logits.shape[1] - 1} of this model; got {low} to {high}; "
                             "leave out images whose class is unknown, or targets, for those predicted")  # fmt: skip
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
        checked = {n: TypeAdapter(known[n].annotation).validate_python(value) for n, value in options.items()}
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


@torch.no_grad()
def predict(model: nn.Module, images: Images, *, batch_size: int = 256) -> Tensor:
    """Class probabilities `(b, classes)`, float32."""
    with evaluating(model):
        return torch.cat([model(part).float().softmax(1) for part in images.split(batch_size)])


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
