"""Models of the command line: loaded onto a device, and described for sidecars."""

import os
from pathlib import Path
from typing import Any

import torch

from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import LIBRARIES
from ibviz.models.loading import BUNDLED, Classifier, load


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


def load_trained(name: str, device: str) -> Classifier:
    """Load a network with trained attention; a library's name is refused before its weights are downloaded."""
    if name.startswith(LIBRARIES):
        raise InputError(
            f"{name} has no trained attention; expected a run folder of `ibviz train`, its model.safetensors, or "
            f"{' or '.join(BUNDLED)}"
        )
    return load_on(name, None, device)


def describe(model: Classifier) -> dict[str, Any]:
    """Return the description of a model for a sidecar."""
    if isinstance(model, IBClassifier):
        return {"kind": "ibviz", **model.config.model_dump()}
    return {"kind": type(model.network).__name__, "size": model.spec.size}
