"""One door to every classifier: a run, a file, a name on the Hub, in torchvision or timm; or a module of your own."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

from huggingface_hub.errors import HfHubHTTPError
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from ibviz.config import LIBRARIES, InputConfig
from ibviz.errors import InputError
from ibviz.models.checkpoint import load_model
from ibviz.models.classifier import IBClassifier, Normalize
from ibviz.models.official import SUFFIXES, load_official
from ibviz.models.tapped import create, place_of
from ibviz.reading import parsing
from ibviz.types import Images


class WrappedClassifier(nn.Module):
    """A network with its normalisation as first layer and the facts about its input."""

    def __init__(self, network: nn.Module, spec: InputConfig, name: str | None = None) -> None:
        """Keep the network as it is; `get_submodule("network.…")` names its layers, `name` tells how to build it."""
        super().__init__()
        self.spec, self.name = spec, name
        self.normalize = Normalize(spec.mean, spec.std).to(place_of(network))
        self.network = network

    def forward(self, images: Images) -> Float[Tensor, "rows classes"]:
        """Logits of [0, 1] images: a row an image, or for each that a hook makes of it."""
        return self.network(self.normalize(images))


Classifier = IBClassifier | WrappedClassifier
BOX = {"digits": Path(__file__).with_name("digits.safetensors")}  # trained networks that come with the package


def wrap(
    network: nn.Module,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    class_names: Sequence[str],
    size: int,
    name: str | None = None,
) -> WrappedClassifier:
    """Give any network that returns logits the face of ours, in eval mode, where the network lies.

    `mean` and `std` are those of the network's training, in [0, 1] pixel space; `size` is the side of its input. `name`
    says how to build it, as "torchvision/resnet50" with weights of your own: what `ibviz.attach` makes of a network
    without one can be trained, but not saved and loaded.

    >>> import torch
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> wrap(network, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=["cat", "dog"], size=8)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 2])
    """
    if name is not None and not name.startswith(LIBRARIES):
        raise InputError(f"name says which library builds the network, as timm/NAME or torchvision/NAME; got {name!r}")
    spec = InputConfig(size=size, mean=mean, std=std, class_names=tuple(class_names))
    return WrappedClassifier(network, spec, name).eval()


def load(name: str | Path, *, weights: str | Path | None = None) -> Classifier:
    """Load a classifier in eval mode, on the CPU.

    `name` is "digits", the network in the box for the embedded images of 48 px; a run folder of `ibviz train`, its
    `model.safetensors`, a `.tar` or `.pth` file of the authors, a model on the Hugging Face Hub (`owner/name`), or a
    classifier such as `timm/resnet50.a1_in1k` or `torchvision/resnet50` (the prefix may be left out). A library's
    network comes with its published weights, or with those of a local safetensors file given as `weights`. A folder of
    your own that is called digits is meant by "./digits".

    >>> load("digits").spec.size
    48
    """
    path, text = Path(BOX.get(name, name) if isinstance(name, str) else name), str(name)
    if weights is not None and os.path.exists(path):  # which, unlike `Path.exists`, takes any name
        raise InputError(f"{name} brings its own weights; weights {weights} belong to a torchvision or timm name")
    if os.path.isdir(path):
        return load_model(path / "model.safetensors")
    if os.path.isfile(path) and path.suffix in SUFFIXES:
        return load_official(path)
    if os.path.isfile(path) or path.suffix == ".safetensors" or text.startswith((".", "/")):
        return load_model(path)
    if text.count("/") == 1 and not text.startswith(LIBRARIES):
        return _from_hub(text)
    return named(text if "/" in text else f"torchvision/{text}", None if weights is None else Path(weights))


def _from_hub(name: str) -> IBClassifier:
    try:
        return IBClassifier.from_pretrained(name)
    except (OSError, HfHubHTTPError) as error:
        raise InputError(f"{name} is no file here and could not be had from the Hub ({str(error).splitlines()[0]}); a "
                         "library's network is called timm/NAME or torchvision/NAME") from error  # fmt: skip


def named(name: str, weights: Path | None = None) -> WrappedClassifier:
    """A torchvision/NAME or timm/NAME classifier with its published weights, or those of a local file."""
    library, _, bare = name.partition("/")
    network = create(name)
    spec, fetch = LIBRARY[library](bare, network)
    state = _fetched(fetch, name) if weights is None else _read(weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{weights or 'what was downloaded'} does not hold the weights of {name}: {reason}") from error
    return WrappedClassifier(network, spec, name).eval()


Fetch = Callable[[], dict[str, Any]]


def _from_torchvision(name: str, network: nn.Module) -> tuple[InputConfig, Fetch]:  # noqa: ARG001 - as timm needs it
    from torchvision.models import get_model_weights  # noqa: PLC0415 - slow to import

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
    import timm  # noqa: PLC0415 - optional, and slow to import

    return timm_input(network), lambda: timm.create_model(name, pretrained=True).state_dict()


LIBRARY: dict[str, Callable[[str, nn.Module], tuple[InputConfig, Fetch]]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}


def timm_input(network: nn.Module) -> InputConfig:
    """What a timm network expects, by its own configuration; classes of no ImageNet list have numbers for names."""
    from timm.data.config import resolve_model_data_config  # noqa: PLC0415 - see above
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset  # noqa: PLC0415

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


def _fetched(fetch: Fetch, name: str) -> dict[str, Any]:
    try:
        return fetch()
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(f"the weights of {name} could not be downloaded ({str(error).splitlines()[0]}); give a local "
                         "safetensors file with --weights") from error  # fmt: skip


def _read(weights: Path) -> dict[str, Any]:
    if not os.path.isfile(weights):
        raise InputError(f"no such file: {weights}")
    with parsing(f"{weights} is not a safetensors file"):
        return load_file(weights)
