"""The authors' released weights, renamed onto our modules (github ashleylqx/AIB at 77e418c)."""

import re
from collections.abc import Mapping

from torch import Tensor

from ibviz.config import Backbone, InputConfig, ModelConfig
from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier

Rules = tuple[tuple[str, str], ...]

VGG32: Rules = (
    (r"features\.(\d)\.op\.", r"stem.\1."),
    (r"encode\.(\d)\.op\.", r"encoder.\1."),
    (r"encode\.5\.", "encoder.5."),
    (r"encode\.8\.", "bottleneck.project."),
)
WIDE: Rules = (
    (r"conv1\.", "stem.0."),
    (r"block([12])\.layer\.", r"stem.\1."),
    (r"encode\.0\.layer\.", "encoder.0."),
    (r"encode\.1\.", "encoder.1."),
    (r"encode\.5\.", "bottleneck.project."),
    (r"att_module_mu\.0\.layer\.", "attention.head.0."),
)
SHARED: Rules = (
    (r"att_module_mu\.", "attention.head."),
    (r"att_module_std\.0\.", "attention.scale."),
    (r"decode\.", "decoder."),
    (r"emb\.weight$", "quantizer.anchors"),
)
# Modules that the authors registered a second time under another name.
ALIASES = re.compile(r"(att_block3|bn_att\d?|att_conv\d?|block3|bn1)\.")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a VGG-32 or WRN state_dict; aliases are dropped, normalisation is not in it."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    rules = (VGG32 if any(".op." in key for key in state) else WIDE) + SHARED
    kept = {key: tensor for key, tensor in state.items() if not ALIASES.match(key)}
    renamed = {_rename(key, rules): tensor for key, tensor in kept.items()}
    if "quantizer.anchors" in renamed:
        renamed["quantizer.anchors"] = renamed["quantizer.anchors"].flatten()
    return renamed


def _rename(key: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name, hits = re.subn(f"^{pattern}", replacement, key)
        if hits:
            return name.replace("convShortcut", "shortcut")
    raise InputError(f"{key} is not a tensor of the authors' VGG-32 or WRN networks; their names are in the method")


def from_official(state: Mapping[str, Tensor], spec: InputConfig) -> IBClassifier:
    """A classifier with the authors' weights; sizes are read off the tensors, class names come from `spec`."""
    renamed = convert(state)
    model = IBClassifier(_config(renamed), spec)
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    absent = sorted(set(missing) - {"normalize.mean", "normalize.std"})
    if absent or unexpected:
        raise InputError(f"the weights lack {absent[:3]} or hold more: {unexpected[:3]}")
    return model.eval()


def _config(renamed: Mapping[str, Tensor]) -> ModelConfig:
    anchors = renamed.get("quantizer.anchors")
    return ModelConfig(
        backbone=_backbone(renamed),
        anchors=None if anchors is None else len(anchors),
        latent=len(renamed["bottleneck.project.bias"]) // 2,
    )


def _backbone(renamed: Mapping[str, Tensor]) -> Backbone:
    if "stem.0.0.weight" in renamed:
        return "vgg32"
    wide: dict[int, Backbone] = {640: "wrn28_10", 128: "wrn10_2"}
    return wide[renamed["bottleneck.project.weight"].shape[1]]
