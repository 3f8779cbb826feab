"""One door to every classifier: a run, a file, or the name of a torchvision network."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ibviz.config import InputConfig
from ibviz.errors import InputError
from ibviz.models.checkpoint import load_model
from ibviz.models.classifier import IBClassifier
from ibviz.models.wrapped import WrappedClassifier

Classifier = IBClassifier | WrappedClassifier


def load(name: str | Path, *, weights: str | Path | None = None) -> Classifier:
    """Load a classifier in eval mode, on the CPU.

    `name` is a run folder of `ibviz train`, its `model.safetensors`, or a torchvision classifier such as
    `squeezenet1_1`. A torchvision network comes with its published weights (downloaded by torchvision), or with
    those of a local safetensors file given as `weights`.
    """
    path = Path(name)
    if weights is not None and path.exists():
        raise InputError(f"{name} brings its own weights; weights {weights} belong to a torchvision name")
    if path.is_dir():
        return load_model(path / "model.safetensors")
    if path.is_file() or path.suffix:
        return load_model(path)
    return _torchvision(str(name).removeprefix("torchvision/"), None if weights is None else Path(weights))


def _torchvision(name: str, weights: Path | None) -> WrappedClassifier:
    from torchvision.models import get_model, get_model_weights, list_models  # noqa: PLC0415 - slow to import

    if name not in list_models(module=_torchvision_module()):
        raise InputError(f"no run or file {name!r}, and torchvision has no classifier of that name; expected a folder "
                         "written by `ibviz train`, a model.safetensors, or a name such as resnet50")  # fmt: skip
    published = get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    network = _download(get_model, name, published) if weights is None else _fill(get_model(name), name, weights)
    preset = published.transforms()
    spec = InputConfig(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        class_names=tuple(published.meta["categories"]),
    )
    return WrappedClassifier(network, spec).eval()


def _torchvision_module() -> ModuleType:
    import torchvision.models  # noqa: PLC0415 - slow to import

    return torchvision.models


def _download(get_model: Callable[..., nn.Module], name: str, published: object) -> nn.Module:
    try:
        return get_model(name, weights=published)
    except (URLError, OSError) as error:
        raise InputError(f"the weights of {name} could not be downloaded ({error}); give a local safetensors file "
                         "with --weights") from error  # fmt: skip


def _fill(network: nn.Module, name: str, weights: Path) -> nn.Module:
    if not weights.is_file():
        raise InputError(f"no such file: {weights}")
    try:
        network.load_state_dict(load_file(weights))
    except SafetensorError as error:
        raise InputError(f"{weights} is not a safetensors file: {error}") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(f"{weights} does not hold the weights of torchvision's {name}: {reason}") from error
    return network
