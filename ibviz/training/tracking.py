"""Rows of a run to TensorBoard or Weights & Biases as well, through Accelerate."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from ibviz.config import Recipe
from ibviz.errors import InputError, unknown

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def accelerator_for(name: str | None, folder: Path) -> Accelerator:
    """An accelerator that can log to the tracker `name`, TensorBoard's files in `folder`/logs; None: nowhere.

    Precision, accumulation and compilation are the recipe's, whatever `accelerate launch` was told about them.
    """
    if name is not None and name not in _PACKAGES:
        raise unknown("tracker", name, list(_PACKAGES))
    if name is not None and find_spec(_PACKAGES[name]) is None:
        raise InputError(f"--log {name} needs the package {_PACKAGES[name]}: pip install 'ibviz[tracking]'")
    return Accelerator(
        cpu=not torch.cuda.is_available(),  # else torchrun on a machine without GPUs would not distribute
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the plain number yields to the launcher
        dynamo_backend="no",
        log_with=name,
        project_dir=folder / "logs",
    )


@contextmanager
def tracking(accelerator: Accelerator, recipe: Recipe) -> Iterator[None]:
    """The accelerator's tracker, if any, open: it gets the recipe first, and is closed at the end."""
    accelerator.init_trackers("ibviz", config=flat(recipe.model_dump()))
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # not end_training, which would end the processes' group as well
            tracker.finish()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys joined by dots, sequences as text.

    >>> flat({"training": {"lr": 0.1, "warmup": (0.01,)}})
    {'training.lr': 0.1, 'training.warmup': '(0.01,)'}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = str(value) if isinstance(value, list | tuple) else value
    return leaves
