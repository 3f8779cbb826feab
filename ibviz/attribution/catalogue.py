"""All attribution methods by name: a record per method with its function and what suites and tables need to know."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from ibviz.attribution.backpropagation import deep_lift, guided_backprop, lrp
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
from ibviz.attribution.cam_layers import choose_layer
from ibviz.attribution.captum_methods import CAPTUM, captum_function
from ibviz.attribution.controls import average_map, centre, edges, other_image, random_cells, random_pixels, uniform
from ibviz.attribution.gradients import (
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smooth_grad,
    var_grad,
)
from ibviz.attribution.information import iba, layer_of_iba
from ibviz.attribution.intrinsic import attention, attention_mean, module_attention
from ibviz.attribution.perturbation import occlusion, rise
from ibviz.attribution.superpixels import feature_ablation, kernel_shap, lime
from ibviz.attribution.transformer import attention_rollout, gradient_rollout, raw_attention
from ibviz.errors import InputError, unknown
from ibviz.extensions import check_signature, first_line, is_outside, keyword_only, load_outside, positional
from ibviz.types import AttentionMap, Images, Labels

Explanation = Tensor | AttentionMap  # `Maps`, or the trained attention; no shape, since batches are joined
Family = Literal["attention", "transformer", "information", "cam", "gradient", "perturbation", "control", "other"]
GridKind = Literal["attention", "tokens", "layer", "pixels", "cell", "option", "own"]


@dataclass(frozen=True)
class Method:
    """An attribution method: a function `(model, images, targets, *, options)` and the facts that tables need.

    The function returns maps `(b, rows, columns)`, signed and unnormalised, on any grid. A function without targets,
    `(model, images, *, options)`, gives the same map for every class.
    """

    function: Callable[..., Explanation]
    label: str
    family: Family = "other"
    grid: GridKind = "own"  # the source of its cells
    by_gradient: bool = False  # True if the map follows directly from gradients of the target's logit
    rounds: bool = False  # True if it takes differences of nearly equal logits, for which float32 is coarse
    whole: bool = False  # True if it takes all images at once; its option `batch_size` bounds a pass
    quantity: str = ""  # methods that name the same one share a colour bar; empty: its own
    offset: bool = False  # True if zero has no meaning, so that a map is drawn from its least value

    def __call__(self, model: nn.Module, images: Images, targets: Labels, **options: object) -> Explanation:
        """Return the maps; targets are passed to a function that takes them."""
        return self.function(model, images, *([] if self.target_free else [targets]), **options)

    @property
    def target_free(self) -> bool:
        """True if the map is the same for every class."""
        return len(positional(self.function)) == 2

    @property
    def control(self) -> bool:
        """True for a control: a map that ignores the network's decision, which a method should beat."""
        return self.family == "control"

    @property
    def description(self) -> str:
        """The first line of the function's docstring."""
        return first_line(self.function)

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The function's options with their types and defaults."""
        return keyword_only(self.function)


METHODS: dict[str, Method] = {
    "attention": Method(attention, "Attention", family="attention", grid="attention", quantity="attention"),
    "attention_mean": Method(
        attention_mean, "Attention, mean", family="attention", grid="attention", quantity="attention"
    ),
    "module_attention": Method(module_attention, "Module attention", family="attention", grid="attention"),
    "raw_attention": Method(raw_attention, "Raw attention", family="transformer", grid="tokens"),
    "attention_rollout": Method(attention_rollout, "Attention rollout", family="transformer", grid="tokens"),
    "gradient_rollout": Method(gradient_rollout, "Gradient rollout", family="transformer", grid="tokens"),
    "iba": Method(iba, "IBA", family="information", grid="layer"),
    "grad_cam": Method(grad_cam, "Grad-CAM", family="cam", grid="layer", by_gradient=True),
    "grad_cam_pp": Method(grad_cam_pp, "Grad-CAM++", family="cam", grid="layer", by_gradient=True),
    "hires_cam": Method(hires_cam, "HiResCAM", family="cam", grid="layer", by_gradient=True),
    "layer_cam": Method(layer_cam, "Layer-CAM", family="cam", grid="layer", by_gradient=True),
    "xgrad_cam": Method(xgrad_cam, "XGrad-CAM", family="cam", grid="layer", by_gradient=True),
    "score_cam": Method(score_cam, "Score-CAM", family="cam", grid="layer"),
    "ablation_cam": Method(ablation_cam, "Ablation-CAM", family="cam", grid="layer"),
    "eigen_cam": Method(eigen_cam, "Eigen-CAM", family="cam", grid="layer"),
    "guided_grad_cam": Method(guided_grad_cam, "Guided Grad-CAM", family="cam", grid="pixels", by_gradient=True),
    "saliency": Method(saliency, "Saliency", family="gradient", grid="pixels", by_gradient=True),
    "input_x_gradient": Method(
        input_x_gradient, "Input x gradient", family="gradient", grid="pixels", by_gradient=True
    ),
    "integrated_gradients": Method(
        integrated_gradients, "Integrated gradients", family="gradient", grid="pixels", by_gradient=True, rounds=True
    ),
    "smooth_grad": Method(smooth_grad, "SmoothGrad", family="gradient", grid="pixels", by_gradient=True, rounds=True),
    "var_grad": Method(var_grad, "VarGrad", family="gradient", grid="pixels", by_gradient=True, rounds=True),
    "gradient_shap": Method(gradient_shap, "GradientSHAP", family="gradient", grid="pixels", by_gradient=True),
    "deep_lift": Method(deep_lift, "DeepLIFT", family="gradient", grid="pixels"),
    "guided_backprop": Method(guided_backprop, "Guided backprop", family="gradient", grid="pixels"),
    "lrp": Method(lrp, "LRP", family="gradient", grid="pixels"),
    "occlusion": Method(occlusion, "Occlusion", family="perturbation", grid="pixels", rounds=True),
    "rise": Method(rise, "RISE", family="perturbation", grid="pixels", offset=True),  # a mean probability
    "feature_ablation": Method(
        feature_ablation, "Superpixel ablation", family="perturbation", grid="pixels", rounds=True
    ),
    "lime": Method(lime, "LIME", family="perturbation", grid="pixels", rounds=True),
    "kernel_shap": Method(kernel_shap, "KernelSHAP", family="perturbation", grid="pixels", rounds=True),
    "uniform": Method(uniform, "uniform", family="control", grid="cell"),
    "centre": Method(centre, "centre", family="control", grid="pixels"),
    "random_cells": Method(random_cells, "random cells", family="control", grid="option"),
    "random_pixels": Method(random_pixels, "random pixels", family="control", grid="pixels"),
    "edges": Method(edges, "edges", family="control", grid="pixels"),
    "average_map": Method(average_map, "average map", family="control", grid="attention", whole=True),
    "other_image": Method(other_image, "other image", family="control", grid="attention", whole=True),
}
# Layer at which the methods of a family work if none is named.
LAYER_RULES: dict[str, Callable[[nn.Module, Images], str]] = {"cam": choose_layer, "information": layer_of_iba}
ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)  # options may be tensors
CONTROLS = {method.label: name for name, method in METHODS.items() if method.control}


def method_of(method: "str | Method | Callable[..., Explanation]") -> Method:
    """Return the method for a name in `METHODS`, `captum:NAME`, `file.py:name`, `package.module:name` or a function.

    Raises `InputError` for an unknown name and for an object that cannot be called as a method.

    >>> method_of("grad_cam").label
    'Grad-CAM'
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        if method in METHODS:
            return METHODS[method]
        if method.startswith(CAPTUM):
            return captum_method(method.removeprefix(CAPTUM))
        if not is_outside(method):
            raise unknown("method", method, list(METHODS))
        given, name = load_outside(method), method
    else:
        given, name = method, getattr(method, "__name__", type(method).__name__)
    if isinstance(given, Method):
        return given
    check_signature(name, given, least=2, most=3)
    return Method(given, name.rpartition(":")[2])


def captum_method(name: str) -> Method:
    """Return an attribution of Captum as a method.

    >>> captum_method("Saliency").label
    'Captum Saliency'
    """
    return Method(captum_function(name), f"Captum {name}", grid="pixels")


def checked_options(method: Method, options: Mapping[str, object]) -> dict[str, object]:
    """Return the options of a method, converted to their types; `InputError` for a wrong name, type or range.

    >>> checked_options(METHODS["random_cells"], {"grid": [2, 3]})
    {'grid': (2, 3)}
    """
    known = method.options
    for name in options:
        if name not in known:
            raise unknown(f"option of {method.label}", name, list(known) or ["none"])
    try:
        return {
            name: TypeAdapter(_annotation(known[name]), config=ANY_TYPE).validate_python(value)
            for name, value in options.items()
        }
    except ValidationError as error:
        raise InputError(f"options of {method.label}, {dict(options)}: {error.errors()[0]['msg']}") from error


def _annotation(parameter: inspect.Parameter) -> Any:
    return Any if parameter.annotation is parameter.empty else parameter.annotation
