"""Logging of a run: its columns of losses, and trackers (TensorBoard, Weights & Biases) through Accelerate."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from ibviz.errors import InputError, unknown
from ibviz.models.bottleneck import bits
from ibviz.models.objective import Losses
from ibviz.training.recipe import Recipe

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def accelerator_for(name: str | None, folder: Path) -> Accelerator:
    """Build an accelerator that logs to the tracker `name` (None: no tracker), with TensorBoard's files in folder/logs.

    Precision, accumulation and compilation come from the recipe; options of `accelerate launch` for them are ignored.
    """
    if name is not None and name not in _PACKAGES:
        raise unknown("tracker", name, list(_PACKAGES))
    if name is not None and find_spec(_PACKAGES[name]) is None:
        raise InputError(f"--log {name} needs the package {_PACKAGES[name]}: pip install 'ibviz[tracking]'")
    return Accelerator(
        cpu=not torch.cuda.is_available(),  # otherwise torchrun on a machine without GPUs would not distribute
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=1
        ),  # a plain number could be overridden by the launcher
        dynamo_backend="no",
        log_with=name,
        project_dir=folder / "logs",
    )


@contextmanager
def tracking(accelerator: Accelerator, recipe: Recipe) -> Iterator[None]:
    """Open the accelerator's tracker, if any, log the recipe, and close it at the end of the block."""
    accelerator.init_trackers("ibviz", config=flat(recipe.model_dump()))
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # end_training would also destroy the process group
            tracker.finish()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables: keys are joined by dots, sequences become text.

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


def loss_columns(losses: Losses, kl: str) -> dict[str, float]:
    """Return the columns of mean losses: information in nats and bits, the authors' rate term without a unit."""
    terms = {name: value.item() for name, value in losses._asdict().items()}
    exact = {"train_rate_nats": terms["rate"], "train_rate_bits": bits(terms["rate"])}
    return {
        "train_total_nats": terms["total"],
        "train_cross_entropy_nats": terms["cross_entropy"],
        "train_cross_entropy_bits": bits(terms["cross_entropy"]),
        **(exact if kl == "exact" else {"train_official_price": terms["rate"]}),
        "train_codebook": terms["codebook"],
        "train_commitment": terms["commitment"],
        "train_attention": terms["attention"],
        "train_capacity_nats": terms["capacity"],
    }
