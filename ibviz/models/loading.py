"""Loading of classifiers from a run, a file, the Hub, a library or the user's code, and wrapping of any module."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

from huggingface_hub.errors import HfHubHTTPError
from jaxtyping import Float
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from ibviz.errors import InputError, did_you_mean
from ibviz.heads import HeadName, checked_output, find_head
from ibviz.models.checkpoint import load_model, load_weights
from ibviz.models.classifier import IBClassifier, Normalize
from ibviz.models.config import LIBRARIES, InputConfig
from ibviz.models.gated_network import device_and_dtype_of
from ibviz.models.hooks import unsealed
from ibviz.models.huggingface import from_transformers, is_of_transformers
from ibviz.models.libraries import Fetch, create, input_and_weights, torchvision_names
from ibviz.models.official import OFFICIAL_SUFFIXES, load_official
from ibviz.models.outside import TRANSFORMERS, build_outside, is_code
from ibviz.models.texts import joins_texts
from ibviz.reading import parsing
from ibviz.settings import describe_validation_error
from ibviz.types import Images

Output = str | int | Callable[[Any], Tensor]  # key, attribute or index of the logits, or a function that returns them


class WrappedClassifier(nn.Module):
    """Network with its normalisation as first layer, a description of its input, and the meaning of its output."""

    def __init__(
        self,
        network: nn.Module,
        spec: InputConfig,
        name: str | None = None,
        *,
        head: HeadName = "softmax",
        output: Output | None = None,
    ) -> None:
        """Wrap the network unchanged; `get_submodule("network.…")` returns its layers, `name` is used to rebuild it."""
        super().__init__()
        self.spec, self.name = spec, name
        self.head = find_head(head).name
        self.output = "logits" if output is None and is_of_transformers(network) else output
        self.normalize = Normalize(spec.mean, spec.std).to(device_and_dtype_of(network))
        self.network = network

    def forward(self, images: Images) -> Float[Tensor, "rows classes"]:
        """Return the logits of [0, 1] images, one row per image (or more, if hooks repeat rows).

        Raises `InputError` for an output without logits (see `wrap`).
        """
        result = self.network(self.normalize(images))
        if self.output is not None:
            result = select_output(result, self.output)
        single = self.head != "softmax" and isinstance(result, Tensor) and result.ndim < 2
        return checked_output(result.reshape(-1, 1) if single else result, self)  # one number per image is one class


def select_output(result: Any, output: Output) -> Any:
    """Return the part of a network's result that `output` names; an `InputError` lists the parts there are.

    >>> select_output({"logits": 1, "loss": 2}, "logits"), select_output((1, 2), 0), select_output(1j, "imag")
    (1, 1, 1.0)
    """
    if callable(output):
        try:
            return output(result)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise InputError(
                f"the function given as output does not take what the network gives, {type(result).__name__}: "
                f"{type(error).__name__}: {error}"
            ) from error
    try:
        by_name = isinstance(output, str) and not isinstance(result, Mapping)
        return getattr(result, str(output)) if by_name else result[output]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        parts = ", ".join(map(repr, result)) if isinstance(result, Mapping) else type(result).__name__
        raise InputError(
            f"output={output!r} is no part of what the network gives ({parts}); output is a key, an "
            "attribute, a place in a tuple, or a function of it"
        ) from error


Classifier = IBClassifier | WrappedClassifier
MODEL_FILE = "model.safetensors"  # in a run folder
BUNDLED = {name: Path(__file__).with_name(f"{name}.safetensors") for name in ("digits", "photos")}


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
    """Wrap any network as a classifier that takes [0, 1] images and returns logits, in eval mode.

    Args:
        network: Any module that maps normalised images to logits; it stays on its device.
        mean: Mean of each channel in the network's training, in [0, 1] pixel space.
        std: Standard deviation of each channel, likewise.
        class_names: One name per output.
        size: Side of the square input in pixels, or height and width.
        name: Name by which the network can be rebuilt, such as "torchvision/resnet50", if its weights are your own.
            Without a name, the result of `ibviz.attach` can be trained, but not saved and loaded.
        head: Meaning of the outputs: "softmax" for one of several classes, "sigmoid" for a single class or several
            independent labels, "none" for a regression. Scores, RISE, IBA, the predicted class and `ibviz.predict`
            use it.
        output: Part of the network's result that holds the logits: a key, an attribute, an index, or a function of the
            result. None: the result itself or, for a network of `transformers`, its `logits`. Logits `(b,)` of a
            single output need a head other than "softmax".

    Returns:
        A classifier for `ibviz.explain`, `ibviz.evaluate` and `ibviz.predict`.

    Raises:
        InputError: The normalisation constants have different lengths, the head is unknown, or the name belongs to no
            known library.

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
        raise InputError(f"wrap: {describe_validation_error(error, InputConfig)}") from error
    return WrappedClassifier(unsealed(network), spec, name, head=head, output=output).eval()


def load(name: str | Path, *, weights: str | Path | None = None, classes: Sequence[str] | None = None) -> Classifier:
    """Load a classifier in eval mode, on the CPU.

    Args:
        name: One of

            - "photos" or "digits", the bundled networks with trained attention: a MobileNetV2 for photographs of 200
              classes, and a small network for the embedded images of 48 px (write "./photos" for your own folder);
            - a run folder of `ibviz train`, its `model.safetensors`, or a `.tar` or `.pth` file of the authors;
            - OWNER/NAME of an ibviz model on the Hugging Face Hub;
            - timm/NAME or torchvision/NAME, such as `timm/resnet50.a1_in1k` (the prefix "torchvision/" is optional);
            - transformers/OWNER/NAME or transformers/FOLDER, whose files describe normalisation, classes and head;
            - `file.py:name` or `package.module:name` of your own code: a network of `wrap` or `ibviz.attach`, or a
              function without arguments that returns one.
        weights: Local safetensors file for a network of timm, of torchvision or of your own code, with the names of
            the network that was wrapped, or of what `ibviz.attach` returned; None: those that come with the network.
        classes: Texts that become the classes of a network of images and texts from `transformers`, such as CLIP or
            SigLIP: `["a cat", "a dog"]`.

    Returns:
        The classifier; its `spec` describes size, normalisation and class names.

    Raises:
        InputError: There is no such network, it cannot be downloaded, or the weights do not fit.

    >>> load("digits").spec.size
    48
    """
    path, text = Path(BUNDLED.get(name, name) if isinstance(name, str) else name), str(name)
    if classes is not None or text.startswith(TRANSFORMERS):
        return _from_transformers(text, weights, classes)
    if weights is not None and os.path.exists(path):  # accepts any name, unlike `Path.exists`
        raise InputError(f"{name} has its own weights; {weights} is for torchvision/NAME, timm/NAME or FILE.py:NAME")
    if is_code(text):
        return _from_code(text, weights)
    if os.path.isdir(path):
        if runs := runs_in(path):
            raise InputError(f"{name} holds {len(runs)} runs; give one of them, such as {runs[0]}")
        return load_model(path / MODEL_FILE)
    if os.path.isfile(path) and path.suffix in OFFICIAL_SUFFIXES:
        return load_official(path)
    if os.path.isfile(path) or path.suffix == ".safetensors" or text.startswith((".", "/")):
        return load_model(path)
    return _from_hub_or_library(text, weights)


def _from_code(name: str, weights: str | Path | None) -> Classifier:
    model = build_outside(name)
    if not isinstance(model, Classifier):
        raise InputError(
            f"{name} gives {type(model).__name__}, which does not say how its images are normalised; return "
            "ibviz.wrap(network, mean=..., std=..., class_names=..., size=...)"
        )
    if weights is not None:
        network = model.network if isinstance(model, WrappedClassifier) else model
        load_weights(network, _read(Path(weights)), f"{weights} does not hold the weights of {name}")
    return model.eval()


def _from_hub_or_library(name: str, weights: str | Path | None) -> Classifier:
    if name.count("/") == 1 and not name.startswith(LIBRARIES):
        return _from_hub(name)
    return load_published(_with_library(name), None if weights is None else Path(weights))


def _with_library(name: str) -> str:
    """Return a name with its library; refuse a bare one that torchvision does not know with the kinds of names."""
    if "/" in name:
        return name
    known = torchvision_names()
    if name not in known:
        raise InputError(
            f"torchvision has no classifier {name!r}, nor is it a file or bundled; expected a name such as "
            f"torchvision/resnet50, timm/NAME, transformers/OWNER/NAME or OWNER/NAME on the Hub, {', '.join(BUNDLED)}, "
            f"or a run folder or its {MODEL_FILE}{did_you_mean(name, [*BUNDLED, *known])}"
        )
    return f"torchvision/{name}"


def runs_in(folder: Path) -> list[Path]:
    """Return the runs inside a folder that is no run itself, such as one of `ibviz train --seeds`, in natural order.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for seed in (10, 9):
    ...     (folder / f"seed-{seed}").mkdir()
    ...     (folder / f"seed-{seed}" / "model.safetensors").touch()
    >>> [run.name for run in runs_in(folder)], runs_in(folder / "seed-9")
    (['seed-9', 'seed-10'], [])
    """
    if (folder / MODEL_FILE).exists():
        return []
    runs = [path.parent for path in folder.glob(f"*/{MODEL_FILE}")]
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


def load_published(name: str, weights: Path | None = None) -> WrappedClassifier:
    """Load a torchvision/NAME or timm/NAME classifier with its published weights, or those of a local file."""
    network = create(name)
    spec, fetch = input_and_weights(name, network)
    state = _fetched(fetch, name) if weights is None else _read(weights)
    failure = f"{weights or 'what was downloaded'} does not hold the weights of {name}"
    load_weights(network, state, failure)
    return WrappedClassifier(network, spec, name).eval()


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
