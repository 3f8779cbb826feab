"""A training run: built from its recipe, saved after each epoch, restored to the bit."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from ibviz.config import InputConfig, Recipe
from ibviz.errors import InputError
from ibviz.files import read_rows, write_rows
from ibviz.models.checkpoint import load_state, read_tensors, save_model, write_tensors
from ibviz.models.classifier import IBClassifier
from ibviz.models.objective import Objective
from ibviz.training.check import check_network

Row = dict[str, Any]


class Run(NamedTuple):
    """What training changes (model, optimizer) and what it needs beside them."""

    recipe: Recipe
    folder: Path
    accelerator: Accelerator
    model: IBClassifier
    objective: nn.Module  # around the model; possibly wrapped for data parallelism
    optimizer: torch.optim.SGD


def start(recipe: Recipe, folder: Path, spec: InputConfig) -> Run:
    """Build everything anew from the recipe's seed; the global random state is left as it was."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())  # else torchrun on a CPU would not distribute
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        model = IBClassifier(recipe.model, spec)
    check_network(recipe, model, spec)
    objective = Objective(model, recipe.objective).to(memory_format=torch.channels_last)
    objective, optimizer = accelerator.prepare(objective, sgd(model, recipe))
    return Run(recipe, folder, accelerator, model, objective, optimizer)


def sgd(model: IBClassifier, recipe: Recipe) -> torch.optim.SGD:
    """SGD in which the anchors have their own share of the learning rate and no weight decay."""
    config = recipe.training
    anchors = [] if model.quantizer is None else [model.quantizer.anchors]
    rest = [p for p in model.parameters() if all(p is not anchor for anchor in anchors)]
    groups = [{"params": rest, "share": 1.0}, {"params": anchors, "share": config.anchor_lr, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def save(run: Run, rows: list[Row]) -> None:
    """Write the log, then the model if this epoch is the best on validation, then the checkpoint that counts."""
    if not run.accelerator.is_main_process:
        return
    write_rows(run.folder / "log.parquet", rows)
    if rows[-1]["validation_accuracy"] >= max(row["validation_accuracy"] for row in rows):
        facts = {"recipe": run.recipe.model_dump(), "epoch": len(rows), "accuracy": rows[-1]["validation_accuracy"]}
        save_model(run.folder / "model.safetensors", run.model, facts)
    tensors = run.model.state_dict() | _momentum(run.optimizer)
    header = {"kind": "checkpoint", "recipe": run.recipe.model_dump(), "epoch": len(rows)}
    write_tensors(run.folder / "checkpoint.safetensors", tensors, header)


def restore(run: Run) -> list[Row]:
    """Put the last finished epoch back and return its log; nothing to restore gives an empty one."""
    path = run.folder / "checkpoint.safetensors"
    if not path.exists():
        return []
    tensors, header = read_tensors(path, "checkpoint")
    if header["recipe"] != json.loads(run.recipe.model_dump_json()):
        raise InputError(f"{run.folder} was trained by another recipe; resume with that one or give another folder")
    rows = read_rows(run.folder / "log.parquet")[: header["epoch"]]
    if len(rows) < header["epoch"]:
        raise InputError(f"{run.folder}/log.parquet lacks epochs of the checkpoint; train anew into another folder")
    momentum = {key: tensor for key, tensor in tensors.items() if key.startswith("momentum.")}
    load_state(run.model, {key: tensor for key, tensor in tensors.items() if key not in momentum}, path)
    for index, parameter in enumerate(_parameters(run.optimizer)):
        if f"momentum.{index}" in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[f"momentum.{index}"])  # keeps the memory format
            run.optimizer.state[parameter]["momentum_buffer"] = buffer
    return rows


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _momentum(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    buffers = [optimizer.state[parameter].get("momentum_buffer") for parameter in _parameters(optimizer)]
    return {f"momentum.{index}": buffer for index, buffer in enumerate(buffers) if buffer is not None}
