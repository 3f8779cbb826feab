"""A training run: building it from a recipe, saving it after an epoch, and restoring it bit for bit."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ibviz.errors import InputError
from ibviz.files import ensure_folder, keep_previous, locked, read_rows, write_rows
from ibviz.models.after_gate import after_gate, parameters_after_gate
from ibviz.models.attach import build
from ibviz.models.checkpoint import load_state, read_header, read_tensors, save_model, write_tensors
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ObjectiveConfig
from ibviz.models.objective import Objective
from ibviz.progress import tell
from ibviz.reading import validated
from ibviz.training.check import check_network
from ibviz.training.distributed import use_whole_batch_layers
from ibviz.training.recipe import Recipe, TrainingConfig

LogRow = dict[str, Any]
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"


class Run(NamedTuple):
    """State of a training (model, average, optimizer), and what it needs beside."""

    recipe: Recipe
    folder: Path
    accelerator: Accelerator
    model: IBClassifier
    average: IBClassifier | None  # moving average of the weights over steps
    view: Callable[[IBClassifier], IBClassifier]  # returns what sees a batch: the model, or its part after the gate
    objective: nn.Module  # contains the model; may be wrapped for data parallelism
    optimizer: torch.optim.Optimizer

    @property
    def judged(self) -> IBClassifier:
        """Return the model that is validated and saved: the average if there is one."""
        return self.average or self.model


@contextmanager
def locked_folder(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Lock the folder of a run, remove temporary files of a killed run, and repair its checkpoint."""
    if not accelerator.is_main_process:  # the others write nothing
        yield
        return
    ensure_folder(folder)
    with locked(folder):
        for leftover in folder.glob(".*.[0-9]*.part*"):  # see `ibviz.files.replacing`
            leftover.unlink()
        _repair_checkpoint(folder)
        yield


def _repair_checkpoint(folder: Path) -> None:
    """Replace a damaged checkpoint by the previous one, with a message."""
    path, previous = folder / CHECKPOINT, folder / PREVIOUS
    if not path.exists():
        return
    try:
        read_tensors(path, "checkpoint")
    except InputError as error:
        if not previous.exists():
            raise InputError(f"{error}; there is no checkpoint before it: train anew into another folder") from error
        _, header = read_tensors(previous, "checkpoint")
        tell(f"{error}; training goes on from the one before, after epoch {header.get('epoch')}")
        previous.replace(path)


def start(
    recipe: Recipe, folder: Path, spec: InputConfig, accelerator: Accelerator, *, weights: Path | None = None
) -> Run:
    """Build a run from the recipe's seed; the global random state is unchanged.

    Args:
        recipe: Model, objective and training.
        folder: Folder of the run.
        spec: Input of the network.
        accelerator: Device and processes.
        weights: Local file for a pretrained network; None: published weights.
    """
    config = recipe.training
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # all that manual_seed reseeds
        torch.manual_seed(config.seed)
        model = build(recipe.model, spec, weights)
    check_network(recipe, model, spec)
    model.to(accelerator.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average = None if config.ema is None else copy.deepcopy(model).eval()
    processes = accelerator.num_processes
    use_whole_batch_layers(model, processes=processes, passes=config.accumulate, device=accelerator.device)
    _set_trainable(model, config)  # last, since the layers added above would train
    view = after_gate if config.cache_features else _whole
    objective = Objective(view(model), recipe.objective)
    if config.compile:
        objective.compile()
    wrapped, optimizer = accelerator.prepare(
        objective, OPTIMIZERS[config.optimizer](parameter_groups(model, config), config)
    )
    return Run(recipe, folder, accelerator, model, average, view, wrapped, optimizer)


def _whole(model: IBClassifier) -> IBClassifier:
    return model


def _set_trainable(model: IBClassifier, config: TrainingConfig) -> None:
    model.network.requires_grad_(config.trainable == "all")
    if config.trainable == "tail":
        for parameter in parameters_after_gate(model):
            parameter.requires_grad_()


def parameter_groups(model: IBClassifier, config: TrainingConfig) -> list[dict[str, Any]]:
    """Group all trainable parameters; `share` is the factor on the learning rate; anchors have no weight decay."""
    anchors = [] if model.quantizer is None else [model.quantizer.anchors]
    head = list(model.attention.parameters())
    apart = {id(parameter) for parameter in (*anchors, *head)}
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in apart]
    return [
        {"params": rest, "share": 1.0},
        {"params": head, "share": config.head_lr},
        {"params": anchors, "share": config.anchor_lr, "weight_decay": 0.0},
    ]


def sgd(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    """Build SGD with momentum (not Nesterov)."""
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)


def adam(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    """Build Adam with the recipe's momentum as its first beta."""
    betas = (config.momentum, 0.999)
    return torch.optim.Adam(groups, lr=config.lr, betas=betas, weight_decay=config.weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], TrainingConfig], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
}


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Update an exponential moving average of the model's weights and running statistics; counts are copied.

    After t steps, the initial value has the weight decay^t, and that of step i (1 - decay)·decay^(t - i).
    """
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]
    get_ema_multi_avg_fn(decay)([mean for mean, _ in moving], [new for _, new in moving], 0)
    for mean, new in pairs:
        if not mean.is_floating_point():
            mean.copy_(new)


def is_saved_epoch(epoch: int, config: TrainingConfig) -> bool:
    """Return True if a checkpoint is written after this 1-based epoch: every `save_every` epochs and the last."""
    return epoch % config.save_every == 0 or epoch == config.epochs


def save_run(run: Run, rows: list[LogRow]) -> None:
    """Write the log, the model if its epoch is the best so far, and last the checkpoint, from which a run resumes."""
    if not run.accelerator.is_main_process:
        return
    columns = list(rows[-1])  # older rows may have others
    write_rows(run.folder / "log.parquet", [{key: row.get(key) for key in columns} for row in rows])
    if rows[-1] is best_row(rows, run.recipe):
        judged = {
            key.removeprefix("validation_"): value
            for key, value in rows[-1].items()
            if "validation_" in key and value is not None
        }
        facts = {"recipe": run.recipe.model_dump(), "epoch": len(rows), "validation": judged}
        facts["anchors"] = [row.get("anchors", []) for row in rows]  # after each epoch; older logs lack them
        save_model(run.folder / "model.safetensors", run.judged, facts)
    classes = len(run.model.spec.class_names)
    header = {"kind": "checkpoint", "recipe": run.recipe.model_dump(), "epoch": len(rows), "classes": classes}
    keep_previous(run.folder / CHECKPOINT, run.folder / PREVIOUS)
    write_tensors(run.folder / CHECKPOINT, _state(run), header)


def best_row(rows: Sequence[LogRow], recipe: Recipe) -> LogRow:
    """Return the row of the saved epoch that is best on validation; the latest if several are equal.

    The criterion is accuracy or, if open attention has a price, the sum of cross-entropy and price: by accuracy alone,
    the epoch with the most open attention would win. Epochs in which the price was still rising are considered only if
    there are no others.
    """
    saved = [row for row in rows if is_saved_epoch(row["epoch"], recipe.training)]
    return max(saved, key=lambda row: (row.get("price_share", 1.0), _merit(row, recipe.objective), row["epoch"]))


def _merit(row: LogRow, config: ObjectiveConfig) -> float:
    if not (config.attention_price or config.capacity):
        return row["validation_accuracy"]
    price = (
        config.attention_price * row["validation_attention_mean"] + config.capacity * row["validation_capacity_nats"]
    )
    return -(row["validation_cross_entropy_nats"] + price)


def restore(run: Run) -> list[LogRow]:
    """Restore the last saved epoch and return the log up to it; empty if there is no checkpoint."""
    path = run.folder / CHECKPOINT
    if not path.exists():
        return []
    rows = stored_rows(run.recipe, run.folder)
    tensors, header = read_tensors(path, "checkpoint")
    if header.get("classes") != (count := len(run.model.spec.class_names)):
        raise InputError(
            f"{path} was trained on {header.get('classes')} classes, the data has {count}; resume with "
            "the data of that run or give another folder"
        )
    load_state(run.model, _within(tensors, "model"), path)
    if run.average is not None:
        load_state(run.average, _within(tensors, "average"), path)
    parameters = _parameters(run.optimizer)
    for key, tensor in _within(tensors, "optimizer").items():
        index, _, name = key.partition(".")
        if not (index.isdecimal() and int(index) < len(parameters)):
            raise InputError(
                f"{path} keeps {key!r} of the optimizer, which has no such parameter; it is of another run"
            )
        parameter = parameters[int(index)]
        value = torch.empty_like(parameter if tensor.shape == parameter.shape else tensor, device=parameter.device)
        run.optimizer.state[parameter][name] = value.copy_(tensor)  # keeps the parameter's memory format
    return rows


class CheckpointHeader(BaseModel):
    """Header of a checkpoint."""

    recipe: dict[str, Any]
    epoch: int = Field(ge=1)
    classes: int


class LoggedEpoch(BaseModel):
    """Columns that every row of a log must have."""

    epoch: int
    validation_accuracy: float


def stored_rows(recipe: Recipe, folder: Path) -> list[LogRow]:
    """Read the log up to the checkpoint in `folder`; raise `InputError` if the checkpoint is of another recipe."""
    path = folder / CHECKPOINT
    header = validated(CheckpointHeader, read_header(path, "checkpoint"), f"{path} is of another version of ibviz")
    if header.recipe != json.loads(recipe.model_dump_json()):
        raise InputError(f"{folder} was trained by another recipe; resume with that one or give another folder")
    rows = read_rows(folder / "log.parquet")[: header.epoch]
    if len(rows) < header.epoch:
        raise InputError(f"{folder}/log.parquet lacks epochs of the checkpoint; train anew into another folder")
    for row in rows:
        validated(LoggedEpoch, row, f"{folder}/log.parquet is no log of a training", "train anew into another folder")
    return rows


def _state(run: Run) -> dict[str, Tensor]:
    optimizer = {
        f"optimizer.{index}.{name}": value
        for index, parameter in enumerate(_parameters(run.optimizer))
        for name, value in run.optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }
    average = {} if run.average is None else run.average.state_dict(prefix="average.")
    return run.model.state_dict(prefix="model.") | average | optimizer


def _within(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{part}."): tensor for key, tensor in tensors.items() if key.startswith(f"{part}.")}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
