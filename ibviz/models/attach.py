"""Attention, quantiser and bottleneck put into somebody else's classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import functional_call

from ibviz.config import LIBRARIES, UNNAMED, InputConfig, ModelConfig
from ibviz.errors import InputError
from ibviz.models.backbones import BACKBONES
from ibviz.models.classifier import IBClassifier
from ibviz.models.gated_network import (
    compute_logits,
    create,
    device_and_dtype_of,
    probe_image,
    reproduces,
    split_classifier,
)
from ibviz.models.hooks import evaluating
from ibviz.models.loading import WrappedClassifier, load_published, timm_input
from ibviz.settings import describe_validation_error

_HEAD: dict[str, Any] = {  # see evaluation/results/attention
    "head_depth": 1,
    "head_width": 64,
    "smoothing": 1.5,
    "open_at_start": 0.9,
}
_DORMANT = 1e-3  # a last normalisation or a layer scale starts at zero or below this


def attach(
    model: nn.Module,
    *,
    layer: str | None = None,
    gate: str = "mul",
    anchors: int | None = 20,
    bottleneck: int = 256,
    class_names: Sequence[str] | None = None,
) -> IBClassifier:
    """Return a classifier of ours, in eval mode, made of a torchvision or timm network and its weights.

    A bare timm network brings its normalisation, a bare torchvision one counts as trained on ImageNet at 224 pixels;
    for others `ibviz.wrap` says what they expect, and by which name a file can build them again. New parts are on the
    network's device, in its precision.

    Args:
        model: Network, which becomes a part of the classifier.
        layer: Name of the submodule whose output, a grid of features or of tokens, is gated. None: the last layer with
            cells of at most 16 pixels that everything passes.
        gate: What attention does to features: "residual" (published), "mul", "mean" or "noise" (`ibviz.models.gate`).
        anchors: Number of levels of the attention; None: continuous.
        bottleneck: Dimensions of the Gaussian bottleneck before the last linear layer.
        class_names: If their number is not that of the model's classes, they get a new last layer, in which those that
            the model knows by name keep their weights.

    Raises:
        InputError: A layer does not fit; some that do are named, and the network is as it was.

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


def build(config: ModelConfig, spec: InputConfig, weights: Path | None = None) -> IBClassifier:
    """The classifier that a recipe starts from: random, or from published weights or those of a local file."""
    if not config.pretrained:
        if weights is not None:
            raise InputError(f"--weights {weights} is for recipes with model.pretrained = true")
        return IBClassifier(config, spec)
    if config.backbone not in _PRETRAINED and not config.backbone.startswith(LIBRARIES):
        known = ", ".join([*_PRETRAINED, *(f"{library}NAME" for library in LIBRARIES)])
        raise InputError(f"there are no published weights for {config.backbone}; pretrained is for {known}")
    published = load_published(_PRETRAINED.get(config.backbone, config.backbone), weights)
    spec = spec.model_copy(update={"mean": published.spec.mean, "std": published.spec.std})
    if config.backbone not in _PRETRAINED:
        return _attached(published.network, config, spec, published.spec.class_names)
    model, source = IBClassifier(config, spec), published.network.state_dict()
    own = {name: source[_torchvision_key(name)] for name in model.network.state_dict()}
    model.network.load_state_dict(own)
    return model


_PRETRAINED = {"vgg16": "torchvision/vgg16", "wrn50_2": "torchvision/wide_resnet50_2"}  # ours, and where they are from


def without_attention(model: IBClassifier, images: Tensor) -> Tensor:
    """Return the logits that the attached network gave on its own, without gate and bottleneck."""
    if model.config.backbone in BACKBONES:
        raise InputError(f"{model.config.backbone} was built with its bottleneck; only attached networks can bypass it")
    return model.decoder.get_submodule("head")(model.network(model.normalize(images), lambda features: features))


def _attached(network: nn.Module, config: ModelConfig, spec: InputConfig, names: Sequence[str]) -> IBClassifier:
    parts = split_classifier(network, config, spec, names)
    found = parts.layer.removeprefix("body.")
    return IBClassifier(config.model_copy(update={"layer": found}), spec, parts).to(device_and_dtype_of(network))


def _torchvision_key(name: str) -> str:
    """`stem.layer1.0…` of the WRN and `stem.0…` of the VGG in torchvision's naming."""
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
    """Name by which a checkpoint can build the network again, after a look whether that computes the same."""
    if wrapped.name is None:
        return UNNAMED
    with torch.random.fork_rng(devices=[]):  # the weights drawn here change nobody's draws
        rebuilt = create(wrapped.name, len(wrapped.spec.class_names)).to(device_and_dtype_of(wrapped.network))
    image = probe_image(wrapped.network, wrapped.spec)
    return wrapped.name if _computes_the_same(rebuilt, wrapped.network, image) else UNNAMED


def _computes_the_same(rebuilt: nn.Module, network: nn.Module, image: Tensor) -> bool:
    """Whether both hold weights of the same shapes and, with those of `network`, come to the same logits."""
    held, state = rebuilt.state_dict(), {key: _awake(value) for key, value in network.state_dict().items()}
    if {key: value.shape for key, value in held.items()} != {key: value.shape for key, value in state.items()}:
        return False
    with torch.no_grad(), evaluating(rebuilt), evaluating(network):
        compute_logits(network, image)  # or it is said why there are none
        expected = functional_call(network, state, (image,))
        return reproduces(lambda: functional_call(rebuilt, state, (image,)), expected)


def _awake(weights: Tensor) -> Tensor:
    """Noise in the place of weights near zero, behind which a branch hides that has not begun to learn."""
    if not weights.is_floating_point() or (weights.abs() > _DORMANT).any():
        return weights
    return 0.02 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)).to(weights)
