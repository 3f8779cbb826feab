"""Conversion of the authors' released weights to our module names (github ashleylqx/AIB at 77e418c)."""

import os
import re
from argparse import Namespace
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.reading import reason_of, validated

RenameRules = tuple[tuple[str, str], ...]

_MAX_SIDE = 2**16  # largest side of a tensor in their files
OFFICIAL_SUFFIXES = (".tar", ".pth", ".pt")
_VGG32: RenameRules = (
    (r"features\.(\d)\.op\.", r"network.stem.\1."),
    (r"encode\.(\d)\.op\.", r"network.encoder.\1."),
    (r"encode\.5\.", "network.encoder.5."),
    (r"encode\.8\.", "bottleneck.project."),
)
_WIDE: RenameRules = (
    (r"conv1\.", "network.stem.0."),
    (r"block([12])\.layer\.", r"network.stem.\1."),
    (r"encode\.0\.layer\.", "network.encoder.0."),
    (r"encode\.1\.", "network.encoder.1."),
    (r"encode\.5\.", "bottleneck.project."),
    (r"att_module_mu\.0\.layer\.", "attention.head.0."),
)
_VGG16: RenameRules = (
    (r"features\.", "network.stem."),
    (r"encode\.2\.", "bottleneck.project."),
)
_WRN50: RenameRules = (
    (r"(conv1|bn1|layer[123])\.", r"network.stem.\1."),
    (r"encode\.0\.", "network.encoder.layer4."),
    (r"encode\.3\.", "bottleneck.project."),
)
_SHARED: RenameRules = (
    (r"att_module_mu\.", "attention.head."),
    (r"att_module_std\.0\.", "attention.scale."),
    (r"decode\.", "decoder."),
    (r"emb\.weight$", "quantizer.anchors"),
)
# Key: a tensor that only this family has. Value: its rules, and a pattern of modules to drop, which are registered a
# second time under another name or never used (`tmp_layer`).
_FAMILIES: dict[str, tuple[RenameRules, str]] = {
    "features.0.op.0.weight": (_VGG32, r"^$"),
    "att_block3.layer.0.conv1.weight": (_WIDE, r"(att_block3|bn_att\d?|att_conv\d?|block3|bn1)\."),
    "features.28.weight": (_VGG16, r"^$"),
    "att_layer4.0.conv1.weight": (_WRN50, r"(att_layer4|layer4|tmp_layer)\."),
}
# Normalisation of their training: CIFAR-100 constants for both CIFAR sets, other constants in the WRN code, ImageNet's.
NORMALISATION = {
    "vgg32": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "wrn28_10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "wrn10_2": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "vgg16": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "wrn50_2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a state_dict of the authors and drop aliases; the normalisation is not included."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    family = next((known for key, known in _FAMILIES.items() if key in state), None)
    if family is None:
        raise InputError(
            f"these tensors ({', '.join(list(state)[:3])}, ...) are of none of the authors' networks: "
            "VGG-32, WRN at 32 px, VGG-16 and WRN-50-2 at 224 px"
        )
    rules, aliases = family
    kept = {key: tensor for key, tensor in state.items() if not re.match(aliases, key)}
    renamed = {_rename(key, rules + _SHARED): tensor for key, tensor in kept.items()}
    if "quantizer.anchors" in renamed:
        renamed["quantizer.anchors"] = renamed["quantizer.anchors"].flatten()
    return renamed


def _rename(key: str, rules: RenameRules) -> str:
    for pattern, replacement in rules:
        name, hits = re.subn(f"^{pattern}", replacement, key)
        if hits:
            return name.replace("convShortcut", "shortcut")
    raise InputError(f"{key} is no tensor of the authors' network that the others belong to")


def from_official(state: Mapping[str, Tensor], spec: InputConfig) -> IBClassifier:
    """Build a classifier with the authors' weights; sizes come from the tensors, input and classes from `spec`."""
    renamed = convert(state)
    with torch.device("meta"):  # only the names and shapes of its own weights matter
        model = IBClassifier(_config(renamed), spec)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (spec.mean, spec.std))
    renamed |= {"normalize.mean": mean, "normalize.std": std}
    try:
        model.load_state_dict(renamed, assign=True)
    except RuntimeError as error:
        reasons = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise InputError(f"the weights are not those of a {model.config.backbone} of the authors: {reasons}") from error
    return model.eval()


def load_official(
    path: Path, spec: InputConfig | None = None, *, weights: Literal["net", "net_ema"] = "net"
) -> IBClassifier:
    """Load a classifier from a `.tar` or `.pth` file of the authors; only tensors and plain settings are unpickled.

    Without `spec`, the input is normalised as in their training on CIFAR or CUB, and classes are numbers; their SVHN
    networks need 0.5 for all means and deviations. If a file has both, `weights` chooses between the weights ("net")
    and their moving average ("net_ema").
    """
    state = read_container(path, weights)
    return from_official(state, spec or _usual_input(convert(state)))


def read_container(path: Path, weights: str = "net") -> dict[str, Tensor]:
    """Read the tensors of a file of the authors, in any of the layouts that they use."""
    if not os.path.isfile(path):
        raise InputError(f"cannot read {path}: No such file")
    try:
        with torch.serialization.safe_globals([Namespace]):  # their flags: names and plain values
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling may raise anything
        requested = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {requested[1]}" if requested else reason_of(error)
        raise InputError(
            f"{path} is no PyTorch file, or holds more than tensors and settings and could run any code, "
            f"so it is not opened ({reason}); save its state_dict alone with "
            "torch.save, on a machine that may run it"
        ) from error
    for keys in (("model_states", weights), ("state_dict",), ()):
        candidate = _descend(content, keys)
        if _are_weights(candidate):
            return dict(candidate)
    held = str(list(islice(content, 5))) if isinstance(content, Mapping) else type(content).__name__
    raise InputError(
        f"{path} holds no weights where the authors' files have them (model_states.{weights}, "
        f"state_dict, or the tensors themselves); it has {held[:200]}"
    )


def _are_weights(candidate: Any) -> bool:
    """Return True for a non-empty mapping from names to plain tensors."""
    return (
        isinstance(candidate, Mapping)
        and len(candidate) > 0
        and all(isinstance(name, str) for name in candidate)
        and all(isinstance(value, Tensor) and _is_plain(value) for value in candidate.values())
    )


def _is_plain(tensor: Tensor) -> bool:
    """Return True if a tensor has real numbers that are all stored; an expanded tensor could claim any size."""
    real = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex())
    return real and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _descend(content: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _usual_input(renamed: Mapping[str, Tensor]) -> InputConfig:
    backbone, classes = _backbone(renamed), _classes(renamed)
    mean, std = NORMALISATION[backbone]
    size = 224 if backbone in ("vgg16", "wrn50_2") else 32
    return InputConfig(size=size, mean=mean, std=std, class_names=tuple(map(str, range(classes))))


def _classes(renamed: Mapping[str, Tensor]) -> int:
    names = [name for name in renamed if name.startswith("decoder.")]
    return _length(renamed, names[-1] if names else "decoder.weight")


def _length(renamed: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    """Return the length of a tensor along an axis; raise `InputError` if either is missing, or the length too large."""
    shape = tuple(renamed[name].shape) if name in renamed else ()
    if len(shape) <= axis or not 0 < shape[axis] <= _MAX_SIDE:
        held = f"is {shape}" if name in renamed else "is not there"
        raise InputError(
            f"the weights are not those of a network of the authors: {name} should have 1 to {_MAX_SIDE:,} "
            f"values along axis {axis}; it {held}"
        )
    return shape[axis]


def _config(renamed: Mapping[str, Tensor]) -> ModelConfig:
    backbone = _backbone(renamed)
    head = [key for key in renamed if re.fullmatch(r"attention\.head\.\d+\.weight", key)]
    sizes = {
        "backbone": backbone,
        "anchors": _length(renamed, "quantizer.anchors") if "quantizer.anchors" in renamed else None,
        "latent": _length(renamed, "bottleneck.project.bias") // 2,
        "head_depth": len(head) - 1 if backbone.startswith("vgg") else 0,
    }
    return validated(ModelConfig, sizes, "the weights are not those of a network of the authors")


def _backbone(renamed: Mapping[str, Tensor]) -> str:
    if "network.stem.0.0.weight" in renamed:
        return "vgg32"
    width = {4608: "vgg16", 2048: "wrn50_2", 640: "wrn28_10", 128: "wrn10_2"}
    reads = _length(renamed, "bottleneck.project.weight", 1)
    if reads not in width:
        raise InputError(
            f"the weights are not those of a network of the authors: its bottleneck reads {reads} values "
            f"instead of one of {', '.join(map(str, width))}"
        )
    return width[reads]
