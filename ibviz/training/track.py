"""Rows of a run to TensorBoard or Weights & Biases as well, through Accelerate."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ibviz.config import Recipe
from ibviz.errors import InputError, unknown

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


@contextmanager
def tracking(name: str | None, recipe: Recipe, folder: Path) -> Iterator[Accelerator]:
    """An accelerator whose `log` also goes to the tracker `name`, which is closed at the end; None: nowhere.

    TensorBoard's files lie in `folder`/logs.
    """
    if name is not None and name not in PACKAGES:
        raise unknown("tracker", name, list(PACKAGES))
    if name is not None and find_spec(PACKAGES[name]) is None:
        raise InputError(f"--log {name} needs the package {PACKAGES[name]}: pip install 'ibviz[tracking]'")
    place = folder / "logs"
    # cpu: else torchrun on a machine without GPUs would not distribute
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), log_with=name, project_dir=place)
    if name is not None:
        accelerator.init_trackers("ibviz", config=flat(recipe.model_dump()))
    try:
        yield accelerator
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
