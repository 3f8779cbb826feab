"""Models of the command line: loaded onto a device, and described for sidecars."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ibviz.digests import digest_files
from ibviz.errors import InputError
from ibviz.extensions import hash_outside
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import LIBRARIES
from ibviz.models.loading import BUNDLED, MODEL_FILE, Classifier, load
from ibviz.models.outside import is_code


class ModelSource(NamedTuple):
    """The name and the weights by which a model was loaded."""

    name: str
    weights: Path | None = None

    def facts(self) -> dict[str, Any]:
        """Return name, file and SHA-256 of the file, if the model comes from one, and the hash of its code.

        >>> ModelSource("photos").facts()["file"]
        'photos.safetensors'
        """
        path = self.weights or BUNDLED.get(self.name, Path(self.name))
        path = path / MODEL_FILE if path.is_dir() else path
        named = {"name": self.name} | ({"code": hash_outside(self.name)} if is_code(self.name) else {})
        if not path.is_file():
            return named
        shown = path.name if self.name in BUNDLED else str(path)
        return named | {"file": shown, "sha256": digest_files(path.parent, [path.name])[path.name]}


def load_on(name: str, weights: Path | None, device: str) -> Classifier:
    """Load a classifier onto a device; "auto" is a GPU (one per process), or the CPU if there is none."""
    place = _usable_device(device)  # before a download
    return load(name, weights=weights).to(memory_format=torch.channels_last).to(place)  # convolutions prefer it


def _usable_device(device: str) -> str:
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    place = device.replace("auto", "cpu")
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return place


def load_trained(name: str, weights: Path | None, device: str) -> Classifier:
    """Load a network with trained attention; a library's name is refused before its weights are downloaded."""
    if name.startswith(LIBRARIES):
        raise InputError(
            f"{name} has no trained attention; expected a run folder of `ibviz train`, its model.safetensors, "
            f"{' or '.join(BUNDLED)}, or FILE.py:NAME of a network that `ibviz.attach` gave one"
        )
    return load_on(name, weights, device)


def describe(model: Classifier) -> dict[str, Any]:
    """Return the description of a model for a sidecar."""
    if isinstance(model, IBClassifier):
        return {"kind": "ibviz", **model.config.model_dump()}
    return {"kind": type(model.network).__name__, "size": model.spec.size}
