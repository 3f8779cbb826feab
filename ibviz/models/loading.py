"""One door to every classifier: a run, a file, a name on the Hub, in torchvision or timm; or a module of your own."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

from huggingface_hub.errors import HfHubHTTPError
from jaxtyping import Float
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from ibviz.config import LIBRARIES, InputConfig
from ibviz.errors import InputError
from ibviz.heads import HeadName, checked, find_head
from ibviz.models.checkpoint import load_model
from ibviz.models.classifier import IBClassifier, Normalize
from ibviz.models.hooks import unsealed
from ibviz.models.huggingface import from_transformers, is_of_transformers
from ibviz.models.official import SUFFIXES, load_official
from ibviz.models.own import OWN
from ibviz.models.tapped import create, place_of
from ibviz.models.texts import joins_texts
from ibviz.reading import parsing
from ibviz.settings import describe
from ibviz.types import Images

Output = str | int | Callable[[Any], Tensor]  # the key, the attribute or the place of the logits, or what finds them


class WrappedClassifier(nn.Module):
    """A network with its normalisation as first layer, the facts about its input and the meaning of its output."""

    def __init__(
        self,
        network: nn.Module,
        spec: InputConfig,
        name: str | None = None,
        *,
        head: HeadName = "softmax",
        output: Output | None = None,
    ) -> None:
        """Keep the network as it is; `get_submodule("network.…")` names its layers, `name` tells how to build it."""
        super().__init__()
        self.spec, self.name = spec, name
        self.head = find_head(head).name
        self.output = "logits" if output is None and is_of_transformers(network) else output
        self.normalize = Normalize(spec.mean, spec.std).to(place_of(network))
        self.network = network

    def forward(self, images: Images) -> Float[Tensor, "rows classes"]:
        """Logits of [0, 1] images: a row an image, or for each that a hook makes of it.

        Raises `InputError` for an output that holds none (see `wrap`).
        """
        found = self.network(self.normalize(images))
        if self.output is not None:
            found = selected(found, self.output)
        single = self.head != "softmax" and isinstance(found, Tensor) and found.ndim < 2
        return checked(found.reshape(-1, 1) if single else found, self)  # one number an image is one class


def selected(found: Any, output: Output) -> Any:
    """The part of a network's output that `output` names, or an `InputError` that says what there is.

    >>> selected({"logits": 1, "loss": 2}, "logits"), selected((1, 2), 0), selected(1j, "imag")
    (1, 1, 1.0)
    """
    if callable(output):
        try:
            return output(found)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise InputError(
                f"the function given as output does not take what the network gives, {type(found).__name__}: "
                f"{type(error).__name__}: {error}"
            ) from error
    try:
        by_name = isinstance(output, str) and not isinstance(found, Mapping)
        return getattr(found, str(output)) if by_name else found[output]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        parts = ", ".join(map(repr, found)) if isinstance(found, Mapping) else type(found).__name__
        raise InputError(
            f"output={output!r} is no part of what the network gives ({parts}); output is a key, an "
            "attribute, a place in a tuple, or a function of it"
        ) from error


Classifier = IBClassifier | WrappedClassifier
TRANSFORMERS = "transformers/"  # before the name of a classifier of that library
MODEL = "model.safetensors"  # in a run folder
BOX = {name: Path(__file__).with_name(f"{name}.safetensors") for name in ("digits", "photos")}  # bundled networks


def wrap(  # noqa: PLR0913 - what a network takes and what it gives are named apart
    network: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    size: int | tuple[int, int],
    name: str | None = None,
    head: HeadName = "softmax",
    output: Output | None = None,
) -> WrappedClassifier:
    """Give any network the face of ours, in eval mode, where the network lies: [0, 1] images in, logits out.

    Args:
        network: Anything that makes logits of normalised images.
        mean: One number a channel, of the network's training, in [0, 1] pixel space.
        std: The deviation, likewise.
        class_names: One for each output.
        size: Side of its square input in pixels, or height and width.
        name: How to build it, as "torchvision/resnet50" with weights of your own: what `ibviz.attach` makes of a
            network without one can be trained, but not saved and loaded.
        head: What the outputs mean: "softmax" for one class of several, "sigmoid" for one class or several labels
            that are independent of each other, "none" for the numbers of a regression. Scores, RISE, IBA, the
            predicted class and `ibviz.predict` follow it.
        output: Which part of a dictionary, tuple or object holds the logits: a key, an attribute, a place, or a
            function of it; of a network of `transformers` its `logits` if None. Logits `(b,)` of a single output need
            a head other than "softmax" alone.

    Returns:
        A classifier for `ibviz.explain`, `ibviz.evaluate` and `ibviz.predict`.

    Raises:
        InputError: For normalisation constants of different length, an unknown head or a name of no library.

    >>> import torch
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> wrap(network, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=["cat", "dog"], size=8)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 2])
    """
    if name is not None and not name.startswith(LIBRARIES):
        raise InputError(f"name says which library builds the network, as timm/NAME or torchvision/NAME; got {name!r}")
    if joins_texts(network):
        raise InputError(
            f"{type(network).__name__} compares images with texts; make classes of texts first: "
            "ibviz.models.texts_as_classes(network, tokenizer, texts)"
        )
    for what, constants in (("mean", mean), ("std", std), ("class_names", class_names)):
        if not isinstance(constants, Iterable):
            raise InputError(
                f"{what} must be a sequence, such as (0.5, 0.5, 0.5) for three channels; got {constants!r}"
            )
    given = {"size": size, "mean": tuple(mean), "std": tuple(std), "class_names": tuple(class_names)}
    try:
        spec = InputConfig.model_validate(given)
    except ValidationError as error:
        raise InputError(f"wrap: {describe(error, InputConfig)}") from error
    return WrappedClassifier(unsealed(network), spec, name, head=head, output=output).eval()


def load(name: str | Path, *, weights: str | Path | None = None, classes: Sequence[str] | None = None) -> Classifier:
    """Load a classifier in eval mode, on the CPU.

    `name` is "photos" or "digits", the bundled networks with trained attention: a MobileNetV2 for photographs of 200
    classes, and a small network for the embedded images of 48 px. Or it is a run folder of `ibviz train`, its
    `model.safetensors`, a `.tar` or `.pth` file of the authors, a model on the Hugging Face Hub (`owner/name`), or a
    classifier such as `timm/resnet50.a1_in1k` or `torchvision/resnet50` (the prefix may be left out). A library's
    network comes with its published weights, or with those of a local safetensors file given as `weights`. A folder of
    your own that is called photos is meant by "./photos". `transformers/OWNER/NAME` is an image classifier of that
    library, on the Hub or in a folder, whose own files say its normalisation, classes and head. With `classes` it is a
    network of images and texts, such as CLIP and SigLIP, and they are its classes: `["a cat", "a dog"]`.

    >>> load("digits").spec.size
    48
    """
    path, text = Path(BOX.get(name, name) if isinstance(name, str) else name), str(name)
    if classes is not None or text.startswith(TRANSFORMERS):
        return _from_transformers(text, weights, classes)
    if weights is not None and os.path.exists(path):  # which, unlike `Path.exists`, takes any name
        raise InputError(f"{name} brings its own weights; weights {weights} belong to a torchvision or timm name")
    if os.path.isdir(path):
        if runs := runs_in(path):
            raise InputError(f"{name} holds {len(runs)} runs; give one of them, such as {runs[0]}")
        return load_model(path / MODEL)
    if os.path.isfile(path) and path.suffix in SUFFIXES:
        return load_official(path)
    if os.path.isfile(path) or path.suffix == ".safetensors" or text.startswith((".", "/")):
        return load_model(path)
    if text.count("/") == 1 and not text.startswith(LIBRARIES):
        return _from_hub(text)
    return named(text if "/" in text else f"torchvision/{text}", None if weights is None else Path(weights))


def runs_in(folder: Path) -> list[Path]:
    """Return the runs in a folder that is no run itself, as `ibviz train --seeds` leaves one; in the order of numbers.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for seed in (10, 9):
    ...     (folder / f"seed-{seed}").mkdir()
    ...     (folder / f"seed-{seed}" / "model.safetensors").touch()
    >>> [run.name for run in runs_in(folder)], runs_in(folder / "seed-9")
    (['seed-9', 'seed-10'], [])
    """
    if (folder / MODEL).exists():
        return []
    runs = [path.parent for path in folder.glob(f"*/{MODEL}")]
    return sorted(
        runs, key=lambda run: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", run.name)]
    )


def _from_transformers(name: str, weights: str | Path | None, classes: Sequence[str] | None) -> WrappedClassifier:
    if not name.startswith(TRANSFORMERS):
        raise InputError(
            f"classes are the texts of a network such as {TRANSFORMERS}openai/clip-vit-base-patch32; {name} has its own"
        )
    if weights is not None:
        raise InputError(f"{name} brings its own weights; keep others in a folder: {TRANSFORMERS}FOLDER")
    network, spec, head = from_transformers(name.removeprefix(TRANSFORMERS), classes)
    return WrappedClassifier(network, spec, head=head).eval()


def _from_hub(name: str) -> IBClassifier:
    try:
        return IBClassifier.from_pretrained(name)
    except (OSError, HfHubHTTPError) as error:
        raise InputError(
            f"{name} is no file here and could not be had from the Hub ({str(error).splitlines()[0]}); a "
            "library's network is called timm/NAME or torchvision/NAME"
        ) from error


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


def _from_own(name: str, network: nn.Module) -> tuple[InputConfig, Fetch]:  # noqa: ARG001 - as timm needs it
    return OWN[name].spec(), _nowhere


def _nowhere() -> dict[str, Any]:
    raise OSError("nobody publishes them in this form")


LIBRARY: dict[str, Callable[[str, nn.Module], tuple[InputConfig, Fetch]]] = {
    "ibviz": _from_own,
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}


def timm_input(network: nn.Module) -> InputConfig:
    """What a timm network expects, by its own configuration; classes of no ImageNet list have numbers for names."""
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


def _fetched(fetch: Fetch, name: str) -> dict[str, Any]:
    try:
        return fetch()
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the weights of {name} could not be downloaded ({str(error).splitlines()[0]}); give a local "
            "safetensors file with --weights"
        ) from error


def _read(weights: Path) -> dict[str, Any]:
    if not os.path.isfile(weights):
        raise InputError(f"no such file: {weights}")
    with parsing(f"{weights} is not a safetensors file"):
        return load_file(weights)
