"""Training loop for a CPU, one GPU, or several GPUs through torchrun.

A resumed run is bit-identical on a CPU, and on a GPU as far as torch's operations are deterministic: cuDNN's are, the
backward pass of adaptive average pooling to several cells (VGG-16) is not.
"""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ibviz.data.image_set import Fault
from ibviz.data.image_stream import ImageData, input_statistics
from ibviz.data.sources import load_split
from ibviz.errors import InputError
from ibviz.files import replacing
from ibviz.models.attach import check_buildable
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig
from ibviz.models.objective import Losses
from ibviz.progress import progress
from ibviz.training.augment import Crops, draw_crops
from ibviz.training.check import check_training_images, image_side, is_large_enough
from ibviz.training.distributed import BatchShard, WholeBatchDropout, batch_shards
from ibviz.training.features import Loader, cached_features
from ibviz.training.loaders import TrainingBatch, make_loader, synchronise_faults
from ibviz.training.recipe import Recipe
from ibviz.training.run import (
    CHECKPOINT,
    LogRow,
    Run,
    is_saved_epoch,
    locked_folder,
    restore,
    save_run,
    start,
    update_average,
)
from ibviz.training.schedule import learning_rate, price_share
from ibviz.training.tracking import accelerator_for, loss_columns, tracking
from ibviz.training.validation import REPLACEMENT_COLUMNS, is_replacement_epoch, unfit_price, validate, warning_of
from ibviz.types import Labels

_CHECK_EVERY = 50  # steps between checks of the loss, each of which waits for the device


def train(  # noqa: PLR0913 - a recipe, and the paths of its files
    recipe: Recipe,
    folder: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    weights: Path | None = None,
    features: Path | None = None,
    log: str | None = None,
    report: Callable[[LogRow], object] = print,
) -> list[LogRow]:
    """Train a recipe in `folder`.

    Every `save_every` epochs and after the last, `checkpoint.safetensors` (weights, their average, optimizer, recipe)
    and `log.parquet` are written, and `model.safetensors` if the epoch is the best so far (see `best_row`), each file
    atomically. Images that cannot be read are listed in `skipped.txt`.

    Args:
        recipe: Data, model, objective and training.
        folder: Folder of the run.
        root: Folder of the data; None: its default.
        resume: Continue after the last saved epoch. The result equals that of an uninterrupted run, on a GPU if all
            operations of the network are deterministic.
        weights: Local file for a recipe with `model.pretrained`; None: published weights.
        features: Folder for the outputs of frozen layers with `training.cache_features`, which other runs of the same
            network and data can share; None: a folder inside the run.
        log: Tracker that also gets each row, "tensorboard" or "wandb"; None: none.
        report: Function that is called with each new row.

    Returns:
        The log, one row per epoch.

    Raises:
        InputError: The data or the folder do not fit the recipe, another process holds the folder, or the loss is not
            finite; then the message names the step, and the last checkpoint remains.
    """
    if (folder / CHECKPOINT).exists() and not resume:
        raise InputError(f"{folder} already holds a run; go on with --resume or give another folder")
    check_buildable(recipe.model, weights)  # before images are loaded
    accelerator = accelerator_for(log, folder)
    with locked_folder(folder, accelerator), tracking(accelerator, recipe):
        with accelerator.main_process_first():  # it may download
            training, validation = (load_split(recipe.data, split, root) for split in ("train", "validation"))
        check_training_images(recipe, (training, validation), processes=accelerator.num_processes)
        run = start(recipe, folder, describe_input(training), accelerator, weights=weights)
        return _train(run, training, validation, features or folder / "features", report)


def _train(
    run: Run, training: ImageData, validation: ImageData, features: Path, report: Callable[[LogRow], object]
) -> list[LogRow]:
    rows, config, accelerator = restore(run), run.recipe.training, run.accelerator
    loaders = _loaders(run, training, validation, features)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for epoch in range(len(rows) + 1, config.epochs + 1):
            rows.append(train_epoch(run, rows, *loaders))
            for images in (training, validation):
                synchronise_faults(images, accelerator)
            if is_saved_epoch(epoch, config):
                save_run(run, rows)
                list_skipped(run, (*training.faults, *validation.faults))
            if accelerator.is_main_process:
                report(rows[-1])
            accelerator.log({key: value for key, value in rows[-1].items() if value is not None}, step=epoch)
    return rows


def _loaders(run: Run, training: ImageData, validation: ImageData, features: Path) -> tuple[Loader, Loader]:
    """Return the loaders of the training and the validation split."""
    device, config = run.accelerator.device, run.recipe.training
    plain = make_loader(training, device), make_loader(validation, device)
    if not config.cache_features:
        return plain
    stored = partial(cached_features, run.model, accelerator=run.accelerator)
    return (
        stored(training, plain[0], features / "train.npy", flip=config.flip),
        stored(validation, plain[1], features / "validation.npy", flip=False),
    )


def describe_input(images: ImageData) -> InputConfig:
    """Return the input of a network trained on these images: size, normalisation, class names."""
    mean, std = input_statistics(images)
    if min(std) == 0:
        raise InputError("a colour channel has one value in all training images; such images cannot be normalised")
    return InputConfig(size=image_side(images), mean=mean, std=std, class_names=images.class_names)


def list_skipped(run: Run, faults: Sequence[Fault]) -> None:
    """Write the names of unreadable images, with the reason, beside the checkpoint."""
    if faults and run.accelerator.is_main_process:
        with replacing(run.folder / "skipped.txt") as beside:
            beside.write_text("".join(f"{fault.name}: {fault.reason}\n" for fault in faults))


def train_epoch(run: Run, rows: Sequence[LogRow], training: Loader, validation: Loader) -> LogRow:
    """Train for one epoch after those of the log `rows`, validate, and return the new row of the log."""
    begin, epoch = time.monotonic(), len(rows) + 1
    losses_before = [row["train_cross_entropy_nats"] for row in rows]
    losses = _run_steps(run, losses_before, training)
    row = {
        "epoch": epoch,
        "learning_rate": learning_rate(epoch, run.recipe.training),
        "seconds": round(time.monotonic() - begin, 2),
        "anchors": anchor_values(run.judged),
        "price_share": _price_share(run, losses_before, 1.0).item(),
    }
    config = run.recipe.training
    judged: LogRow = dict.fromkeys(REPLACEMENT_COLUMNS)  # None for epochs in which the attention is not replaced
    judged |= validate(run.view(run.judged), validation, run.accelerator, replaced=is_replacement_epoch(epoch, config))
    if not math.isfinite(judged["cross_entropy_nats"]):  # the last step broke the weights after its loss was checked
        raise loss_not_finite(f"on validation after epoch {epoch}", run.folder)
    # Warn once when the price counts in full, and again after the last epoch.
    due = row["price_share"] == 1 and (epoch == config.epochs or not any(before.get("warning") for before in rows))
    warning = unfit_price(run.recipe) if epoch == 1 else None
    if warning is None and due:
        warning = warning_of(judged["attention_mean"], judged["attention_deviation"])
    judgement = {f"validation_{name}": value for name, value in judged.items()}
    return row | loss_columns(losses, run.recipe.objective.kl) | judgement | {"warning": warning}


def anchor_values(model: IBClassifier) -> list[float]:
    """Return the anchors in the order of their table, to six decimals; empty for continuous attention."""
    return [] if model.quantizer is None else [round(value, 6) for value in model.quantizer.anchors.tolist()]


def _run_steps(run: Run, before: Sequence[float], training: Loader) -> Losses:
    """Train on every batch once and return the mean of each term; `before` are the cross-entropies of past epochs."""
    epoch, inputs = len(before) + 1, training.inputs
    run.objective.train()
    run.model.network.train(run.recipe.training.trainable == "all")  # a frozen network keeps its batch statistics
    plan = _plan(run, epoch, len(training.labels))
    batches = training.batches([shard.rows(rows) for rows, passes in plan for shard in passes])
    losses: list[Tensor] = []  # one row per step, checked in blocks
    block: list[Tensor] = []
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # all that manual_seed reseeds
        for step, (_, passes) in enumerate(progress(plan, f"epoch {epoch}", show=run.accelerator.is_main_process), 1):
            _set_rate(run, epoch, (step - 1) / len(plan))
            price = _price_share(run, before, (step - 1) / len(plan))
            seed = stream_seed(run.recipe.training.seed, epoch, step)
            block.append(_step(run, batches, passes, partial(_pass, run, inputs=inputs, price=price, seed=seed)))
            if len(block) == _CHECK_EVERY or step == len(plan):
                losses.append(_checked(run, block, f"of epoch {epoch}", step - len(block)))
                block = []
    return Losses(*torch.cat(losses).mean(0))


def _plan(run: Run, epoch: int, count: int) -> list[tuple[Tensor, list[BatchShard]]]:
    """Return the image indices of each batch, shuffled by seed and epoch, with this process's shards of it.

    The rest at the end of an epoch is a smaller batch if it is large enough, independent of the number of processes.
    """
    config, processes, process = run.recipe.training, run.accelerator.num_processes, run.accelerator.process_index
    generator = torch.Generator().manual_seed(stream_seed(config.seed, epoch, 0))
    batches = torch.randperm(count, generator=generator).split(config.batch_size)
    deal = partial(batch_shards, process=process, processes=processes, passes=config.accumulate)
    return [(rows, deal(len(rows))) for rows in batches if is_large_enough(len(rows), config)]


def _set_rate(run: Run, epoch: int, within: float) -> None:
    rate = learning_rate(epoch, run.recipe.training, within=within)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["share"]


def _price_share(run: Run, before: Sequence[float], within: float) -> Tensor:
    """Return the share of the attention's price as a tensor, since `torch.compile` would treat a float as constant."""
    config, classes = run.recipe.objective, len(run.model.spec.class_names)
    share = 1.0
    if config.attention_price or config.capacity:
        schedule = {"warmup": config.attention_warmup, "epochs": run.recipe.training.epochs}
        share = price_share(len(before) + within, before, classes, **schedule)
    return torch.tensor(share, device=run.accelerator.device)


def _step(
    run: Run, batches: Iterator[TrainingBatch], passes: list[BatchShard], one_pass: Callable[..., Tensor]
) -> Tensor:
    """Take one optimizer step on a batch, in one or more passes; return this process's part of each mean loss."""
    terms = []
    for shard in passes:
        last = shard is passes[-1]
        with nullcontext() if last else run.accelerator.no_sync(run.objective):  # synchronise gradients once per step
            terms.append(one_pass(*next(batches), shard))
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average is not None and run.recipe.training.ema is not None:
        update_average(run.average, run.model, run.recipe.training.ema)
    return torch.stack(terms).sum(0)


def _pass(  # noqa: PLR0913 - a batch, and the settings of its step
    run: Run,
    pixels: Tensor,
    labels: Labels,
    shard: BatchShard,
    *,
    inputs: Callable[..., Tensor],
    price: Tensor,
    seed: int,
) -> Tensor:
    """Add the gradients of one shard of a batch.

    Everything random follows from the step's seed and is drawn for the whole batch, whichever process holds its rows.
    """
    if not len(pixels):
        raise InputError("none of the images of a batch could be read; take broken files out of the data")
    config, device = run.recipe.training, pixels.device
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)  # for dropout, which takes no generator
    for module in run.model.modules():
        if isinstance(module, WholeBatchDropout):
            module.shard = shard
    drawn = draw_crops(shard.whole, generator, padding=config.crop_padding, flip=config.flip)
    crops = Crops(*(shard.rows(part, len(pixels)) for part in drawn))
    images = inputs(pixels, crops, padding=config.crop_padding)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        losses = Losses(*run.objective(images, labels, partial(shard.randn, generator=generator), price))
    weight = shard.weight(run.accelerator.num_processes)
    run.accelerator.backward(losses.total * weight)
    return torch.stack(losses).detach() * weight


def stream_seed(seed: int, epoch: int, stream: int) -> int:
    """Derive a 32-bit seed from the recipe's seed, the epoch and the stream: 0 for the order of images, n for step n.

    >>> len({stream_seed(seed, epoch, stream) for seed in range(3) for epoch in range(3) for stream in range(3)})
    27
    """
    return zlib.crc32(f"{seed} {epoch} {stream}".encode())


def _checked(run: Run, block: list[Tensor], where: str, before: int) -> Tensor:
    """Average the terms of some steps over processes, and raise an error if the loss of a step is not finite."""
    losses = run.accelerator.reduce(torch.stack(block), "mean")
    assert isinstance(losses, Tensor)
    broken = (~losses[:, 0].isfinite()).nonzero()
    if len(broken):
        raise loss_not_finite(f"at step {before + int(broken[0]) + 1} {where}", run.folder)
    return losses


def loss_not_finite(where: str, folder: Path) -> InputError:
    """Return the error for a loss that became NaN or infinite."""
    return InputError(
        f"the loss is not finite {where}: lower the learning rate or beta; "
        f"the last good epoch, if any, is kept in {folder}"
    )
