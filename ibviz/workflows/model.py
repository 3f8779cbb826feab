"""A model for a job: loaded onto its device, and described for a sidecar."""

from pathlib import Path
from typing import Any

import torch

from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import Classifier, load


def load_on(name: str, weights: Path | None, device: str) -> Classifier:
    """Load a classifier onto a device; `auto` is the first GPU, or the CPU where there is none."""
    model = load(name, weights=weights).to(memory_format=torch.channels_last)  # convolutions prefer it
    try:
        return model.to("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def describe(model: Classifier) -> dict[str, Any]:
    """What a sidecar says of a model."""
    if isinstance(model, IBClassifier):
        return {"kind": "ibviz", **model.config.model_dump()}
    return {"kind": type(model.network).__name__, "size": model.spec.size}
