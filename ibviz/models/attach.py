"""Insertion of attention, quantiser and bottleneck into an existing classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import functional_call

from ibviz.errors import InputError
from ibviz.models.backbones import BACKBONES
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import LIBRARIES, UNNAMED, InputConfig, ModelConfig
from ibviz.models.gated_network import (
    compute_logits,
    device_and_dtype_of,
    probe_image,
    reproduces,
    split_classifier,
)
from ibviz.models.hooks import evaluating
from ibviz.models.libraries import check_name, create, timm_input
from ibviz.models.loading import WrappedClassifier, load_published
from ibviz.settings import describe_validation_error

_HEAD: dict[str, Any] = {  # see evaluation/results/attention
    "head_depth": 1,
    "head_width": 64,
    "smoothing": 1.5,
    "open_at_start": 0.9,
}
_DORMANT = 1e-3  # weights of a final normalisation or layer scale start at zero or below this


def attach(
    model: nn.Module,
    *,
    layer: str | None = None,
    gate: str = "mul",
    anchors: int | None = 20,
    bottleneck: int = 256,
    class_names: Sequence[str] | None = None,
) -> IBClassifier:
    """Build a classifier with attention from a torchvision or timm network and its weights, in eval mode.

    A timm network brings its own normalisation; a torchvision network is assumed to be trained on ImageNet at 224
    pixels. For other networks, first describe input and name with `ibviz.wrap`. New parts are on the network's device
    and in its precision.

    Args:
        model: Network, which becomes part of the classifier.
        layer: Name of the submodule whose output, a grid of features or of tokens, is gated. None: the last layer with
            cells of at most 16 pixels through which all information passes.
        gate: Effect of attention on features: "residual" (published), "mul", "mean" or "noise" (`ibviz.models.gate`).
        anchors: Number of levels of the attention; None: continuous.
        bottleneck: Dimensions of the Gaussian bottleneck before the last linear layer.
        class_names: Names of the classes; None: those of the model. If their number differs from the model's, the last
            layer is replaced, and classes that the model knows by name keep their weights.

    Returns:
        The classifier with attention.

    Raises:
        InputError: The layer does not fit; the message names layers that do, and the network is unchanged.

    >>> from torchvision.models import resnet18
    >>> model = attach(resnet18(num_classes=4), layer="layer3", anchors=5, bottleneck=8, class_names="abcd")
    >>> model.inspect(torch.rand(1, 3, 224, 224)).attention.values().shape
    torch.Size([1, 14, 14])
    """
    wrapped = model if isinstance(model, WrappedClassifier) else _wrapped(model)
    if wrapped.head != "softmax" or wrapped.output is not None:
        raise InputError(
            "attention is trained with a softmax over the classes that a network gives as (b, classes); "
            f"this one was wrapped with head={wrapped.head!r}, output={wrapped.output!r}"
        )
    spec = wrapped.spec
    if class_names is not None:
        spec = spec.model_copy(update={"class_names": tuple(class_names)})
    given = {"layer": layer, "gate": gate, "anchors": anchors, "latent": bottleneck}
    try:
        config = ModelConfig.model_validate({"backbone": _name(wrapped), **given, **_HEAD})
    except ValidationError as error:
        raise InputError(describe_validation_error(error, ModelConfig)) from error
    return _attached(wrapped.network, config, spec, wrapped.spec.class_names).eval()


def check_buildable(config: ModelConfig, weights: Path | None) -> None:
    """Refuse an unknown network, and weights that are missing or belong to none, before anything is loaded."""
    if config.backbone.startswith(LIBRARIES):
        check_name(config.backbone)
    elif config.pretrained and config.backbone not in _PRETRAINED:
        known = ", ".join([*_PRETRAINED, *(f"{library}NAME" for library in LIBRARIES)])
        raise InputError(f"there are no published weights for {config.backbone}; pretrained is for {known}")
    if weights is not None and not config.pretrained:
        raise InputError(f"--weights {weights} is for recipes with model.pretrained = true")
    if weights is not None and not weights.is_file():
        raise InputError(f"no such file: {weights}")


def build(config: ModelConfig, spec: InputConfig, weights: Path | None = None) -> IBClassifier:
    """Build the classifier of a recipe with random weights, published weights, or the weights of a local file."""
    check_buildable(config, weights)
    if not config.pretrained:
        return IBClassifier(config, spec)
    published = load_published(_PRETRAINED.get(config.backbone, config.backbone), weights)
    spec = spec.model_copy(update={"mean": published.spec.mean, "std": published.spec.std})
    if config.backbone not in _PRETRAINED:
        return _attached(published.network, config, spec, published.spec.class_names)
    model, source = IBClassifier(config, spec), published.network.state_dict()
    own = {name: source[_torchvision_key(name)] for name in model.network.state_dict()}
    model.network.load_state_dict(own)
    return model


_PRETRAINED = {
    "vgg16": "torchvision/vgg16",
    "wrn50_2": "torchvision/wide_resnet50_2",
}  # our backbones, and the published weights for them


def without_attention(model: IBClassifier, images: Tensor) -> Tensor:
    """Return the logits `(b, classes)` of an attached network without gate and bottleneck."""
    if model.config.backbone in BACKBONES:
        raise InputError(f"{model.config.backbone} was built with its bottleneck; only attached networks can bypass it")
    return model.decoder.get_submodule("head")(model.network(model.normalize(images), lambda features: features))


def _attached(network: nn.Module, config: ModelConfig, spec: InputConfig, names: Sequence[str]) -> IBClassifier:
    parts = split_classifier(network, config, spec, names)
    layer = parts.layer.removeprefix("body.")
    return IBClassifier(config.model_copy(update={"layer": layer}), spec, parts).to(device_and_dtype_of(network))


def _torchvision_key(name: str) -> str:
    """Convert a parameter name of our backbones (WRN `stem.layer1.0…`, VGG `stem.0…`) to torchvision's name."""
    bare = name.removeprefix("stem.").removeprefix("encoder.")
    return f"features.{bare}" if bare[0].isdigit() else bare


def _wrapped(model: nn.Module) -> WrappedClassifier:
    if isinstance(published := getattr(model, "pretrained_cfg", None), dict):
        return WrappedClassifier(model, timm_input(model), f"timm/{published['architecture']}")
    spec = InputConfig(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), class_names=())
    with torch.no_grad(), evaluating(model):
        count = compute_logits(model, probe_image(model, spec)).shape[-1]
    return WrappedClassifier(model, spec.model_copy(update={"class_names": tuple(map(str, range(count)))}))


def _name(wrapped: WrappedClassifier) -> str:
    """Return the name by which a checkpoint can rebuild the network, after a check that it computes the same."""
    if wrapped.name is None:
        return UNNAMED
    with torch.random.fork_rng(devices=[]):  # leaves the global random state unchanged
        rebuilt = create(wrapped.name, len(wrapped.spec.class_names)).to(device_and_dtype_of(wrapped.network))
    image = probe_image(wrapped.network, wrapped.spec)
    return wrapped.name if _computes_the_same(rebuilt, wrapped.network, image) else UNNAMED


def _computes_the_same(rebuilt: nn.Module, network: nn.Module, image: Tensor) -> bool:
    """Return True if both networks have weights of the same shapes and, with the same weights, equal logits."""
    held, state = rebuilt.state_dict(), {key: _awake(value) for key, value in network.state_dict().items()}
    if {key: value.shape for key, value in held.items()} != {key: value.shape for key, value in state.items()}:
        return False
    with torch.no_grad(), evaluating(rebuilt), evaluating(network):
        compute_logits(network, image)  # raises InputError if there are no logits
        expected = functional_call(network, state, (image,))
        return reproduces(lambda: functional_call(rebuilt, state, (image,)), expected)


def _awake(weights: Tensor) -> Tensor:
    """Replace weights near zero by noise, so that a branch scaled by zero shows in the comparison."""
    if not weights.is_floating_point() or (weights.abs() > _DORMANT).any():
        return weights
    return 0.02 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)).to(weights)
