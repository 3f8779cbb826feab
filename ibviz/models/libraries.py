"""Networks of timm, torchvision and ibviz by name: creation, input, and published weights."""

from collections.abc import Callable, Iterable
from typing import Any, cast

from torch import nn

from ibviz.errors import InputError, did_you_mean
from ibviz.models.config import InputConfig
from ibviz.models.extra_networks import EXTRA_NETWORKS

Fetch = Callable[[], dict[str, Any]]  # downloads published weights


def create(name: str, classes: int | None = None) -> nn.Module:
    """Create a torchvision/NAME, timm/NAME or ibviz/NAME network with random weights.

    `classes` is the number of its outputs; None: its default.
    """
    library, _, bare = name.partition("/")
    sized = {} if classes is None else {"num_classes": classes}
    try:
        return _BUILDERS[library](bare, **sized)
    except (RuntimeError, ValueError) as error:  # raised by timm and torchvision for unknown names
        raise _unknown_network(library, bare, str(error)) from error


def _unknown_network(library: str, bare: str, reason: str) -> InputError:
    return InputError(
        f"{library} has no classifier {bare!r} ({reason}); expected a name such as "
        f"{_EXAMPLES[library]}; its own documentation lists them{did_you_mean(bare, _KNOWN[library]())}"
    )


def check_name(name: str) -> None:
    """Refuse a network that its library does not list, without creating it; names of timm may have a tag."""
    library, _, bare = name.partition("/")
    if bare.partition(".")[0] not in _KNOWN[library]() and ":" not in bare:
        raise _unknown_network(library, bare, "not among its names")


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers."""
    from torchvision import models

    return models.list_models(module=models)


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _create_torchvision(name: str, **sized: Any) -> nn.Module:
    from torchvision import models

    if name not in torchvision_names():
        raise ValueError("not among torchvision.models")
    quiet = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, **sized, **quiet)


def _create_timm(name: str, **sized: Any) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise InputError("timm is not installed; install it: pip install 'ibviz[timm]'") from error
    return timm.create_model(name, **sized)


def _create_extra(name: str, num_classes: int | None = None) -> nn.Module:
    if name not in EXTRA_NETWORKS:
        raise ValueError(f"known: {', '.join(EXTRA_NETWORKS)}")
    return EXTRA_NETWORKS[name].build(*([] if num_classes is None else [num_classes]))


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "torchvision": _create_torchvision,
    "timm": _create_timm,
    "ibviz": _create_extra,
}
_KNOWN: dict[str, Callable[[], Iterable[str]]] = {
    "torchvision": torchvision_names,
    "timm": _timm_names,
    "ibviz": lambda: EXTRA_NETWORKS,
}
_EXAMPLES = {"torchvision": "torchvision/resnet50", "timm": "timm/resnet50", "ibviz": "ibviz/mobilenet_v2_same"}


def input_and_weights(name: str, network: nn.Module) -> tuple[InputConfig, Fetch]:
    """Return the input of a network created by `create(name)`, and a function that downloads its weights."""
    library, _, bare = name.partition("/")
    return _PUBLISHED[library](bare, network)


def _from_torchvision(name: str, _network: nn.Module) -> tuple[InputConfig, Fetch]:
    from torchvision.models import get_model_weights

    published = get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    preset = published.transforms()
    spec = InputConfig(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        class_names=tuple(published.meta["categories"]),
    )
    return spec, lambda: published.get_state_dict(check_hash=True)


def _from_timm(name: str, network: nn.Module) -> tuple[InputConfig, Fetch]:
    import timm

    return timm_input(network), lambda: timm.create_model(name, pretrained=True).state_dict()


def _from_extra(name: str, _network: nn.Module) -> tuple[InputConfig, Fetch]:
    return EXTRA_NETWORKS[name].spec(), _unpublished


def _unpublished() -> dict[str, Any]:
    raise OSError("nobody publishes them in this form")


_PUBLISHED: dict[str, Callable[[str, nn.Module], tuple[InputConfig, Fetch]]] = {
    "ibviz": _from_extra,
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}


def timm_input(network: nn.Module) -> InputConfig:
    """Return the input of a timm network from its configuration; classes outside ImageNet are named by numbers."""
    from timm.data.config import resolve_model_data_config
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    data, subset = resolve_model_data_config(network), infer_imagenet_subset(network)
    count = cast(int, network.num_classes)
    described = map(ImageNetInfo(subset).index_to_description, range(count)) if subset else map(str, range(count))
    return InputConfig(
        size=data["input_size"][-1],
        resize=round(data["input_size"][-1] / data["crop_pct"]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        class_names=tuple(names.split(",")[0] for names in described),
    )
