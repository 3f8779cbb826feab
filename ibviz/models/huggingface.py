"""Image classifiers of the library `transformers`: loading, with the input and head that their files describe."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ibviz.errors import InputError
from ibviz.heads import HeadName
from ibviz.models.config import InputConfig
from ibviz.models.texts import head_for_texts, texts_as_classes

BYTE = 1 / 255  # rescaling of pixels to [0, 1], as in ibviz
HEADS_BY_PROBLEM: dict[str | None, HeadName] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}


def is_of_transformers(network: nn.Module) -> bool:
    """Return True for a network of `transformers`, whose outputs have an attribute `logits`.

    >>> is_of_transformers(nn.Linear(2, 2))
    False
    """
    return any(kind.__name__ == "PreTrainedModel" for kind in type(network).__mro__)


def from_transformers(name: str, classes: Sequence[str] | None = None) -> tuple[nn.Module, InputConfig, HeadName]:
    """Load an image classifier by OWNER/NAME on the Hub or by its folder, with its input and its head.

    With `classes`, the network is one of images and texts, such as CLIP or SigLIP, and these are the texts. Raises
    `InputError` if `transformers` is not installed, if there is no such network, or if its images are prepared in
    another way than resizing, cropping, division by 255 and normalisation.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError("transformers is not installed; install it: pip install 'ibviz[transformers]'") from error
    kind = "image classifier" if classes is None else "network of images and texts"
    try:
        build = transformers.AutoModelForImageClassification if classes is None else transformers.AutoModel
        network = build.from_pretrained(name)
        prepared = transformers.AutoImageProcessor.from_pretrained(name).to_dict()
        tokenizer: Any = None if classes is None else transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"transformers has no {kind} {name} ({lines[0]}); expected OWNER/NAME on the Hub, or "
            "a folder with its config.json, preprocessor_config.json and weights"
        ) from error
    if classes is None:
        config = network.config
        names = [config.id2label[number] for number in range(config.num_labels)]
        return network, input_of(config, prepared, name, names), head_for(config)
    joined = texts_as_classes(network, tokenizer, classes)
    return joined, input_of(network.config.vision_config, prepared, name, classes), head_for_texts(network)


def head_for(config: Any) -> HeadName:
    """Return the head that the configuration names, or by default the one with which `transformers` trains."""
    usual = "regression" if config.num_labels == 1 else "single_label_classification"
    return HEADS_BY_PROBLEM[config.problem_type or usual]


def input_of(config: Any, prepared: dict[str, Any], name: str, class_names: Sequence[str]) -> InputConfig:
    """Return the input of a classifier from its files.

    Args:
        config: Configuration of the network.
        prepared: Settings of its image processor.
        name: Name of the network, for the error.
        class_names: One name per class.

    Raises:
        InputError: The pixels are not divided by 255.
    """
    if not prepared.get("do_rescale", True) or abs(prepared.get("rescale_factor", BYTE) - BYTE) > 1e-9:
        raise InputError(
            f"{name} does not divide its pixels by 255; load it with transformers and tell ibviz.wrap the "
            "mean and std in [0, 1] pixel space"
        )
    size, resize = _sizes(config, prepared)
    channels = getattr(config, "num_channels", 3)
    normalises = prepared.get("do_normalize", True)
    return InputConfig(
        size=size,
        resize=resize,
        mean=_constants(prepared.get("image_mean") if normalises else 0.0, channels),
        std=_constants(prepared.get("image_std") if normalises else 1.0, channels),
        class_names=tuple(class_names),
    )


def _constants(given: Any, channels: int) -> tuple[float, ...]:
    return tuple(map(float, given)) if isinstance(given, list | tuple) else (float(given),) * channels


def _sizes(config: Any, prepared: dict[str, Any]) -> tuple[int | tuple[int, int], int | None]:
    """Return the size of the input, and the short side of an image before the crop (None: no crop)."""
    size, crop = dict(prepared.get("size") or {}), dict(prepared.get("crop_size") or {})
    short = size.get("shortest_edge")
    if prepared.get("do_center_crop") and crop:
        return _side(crop["height"], crop["width"]), short or min(size["height"], size["width"])
    if short and prepared.get("crop_pct") and short < 384:  # ConvNeXt's processor resizes, then crops to this side
        return short, int(short / prepared["crop_pct"])
    if short:
        return short, None
    if size:
        return _side(size["height"], size["width"]), None
    own = config.image_size
    return (own, None) if isinstance(own, int) else (_side(*own), None)


def _side(height: int, width: int) -> int | tuple[int, int]:
    return height if height == width else (height, width)
