"""One training loop for a CPU, a GPU or many (through torchrun), resumed bit for bit on the same device."""

import math
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from ibviz.attribution.methods import evaluating
from ibviz.config import InputConfig, Recipe
from ibviz.data.image_set import ImageSet, statistics, to_float
from ibviz.data.sources import load_split
from ibviz.errors import InputError
from ibviz.files import ensure_folder
from ibviz.models.bottleneck import bits
from ibviz.models.classifier import IBClassifier
from ibviz.models.objective import Losses
from ibviz.progress import progress
from ibviz.training.augment import augment
from ibviz.training.check import check_images
from ibviz.training.run import Row, Run, restore, save, start
from ibviz.training.schedule import learning_rate

CHECK_EVERY = 50  # steps between two looks at the loss, each of which waits for the device
VALIDATION_BATCH = 256


class Resident(NamedTuple):
    """A split on the device, as uint8."""

    images: Tensor
    labels: Tensor


def train(
    recipe: Recipe,
    folder: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    report: Callable[[Row], object] = print,
) -> list[Row]:
    """Train a recipe into `folder` and return its log, one row an epoch.

    After each epoch `checkpoint.safetensors` (weights, optimizer, recipe), `log.parquet` and, where validation
    accuracy is the best so far, `model.safetensors` are replaced whole. `resume` goes on after the last finished epoch
    and ends with the weights of an uninterrupted run. `report` sees each new row. A loss that is not finite stops the
    run with an `InputError` that names the step; the last checkpoint stays.
    """
    if (folder / "checkpoint.safetensors").exists() and not resume:
        raise InputError(f"{folder} already holds a run; go on with --resume or give another folder")
    ensure_folder(folder)
    training, validation = (load_split(recipe.data, split, root) for split in ("train", "validation"))
    check_images(recipe, (training, validation))
    run = start(recipe, folder, describe_input(training))
    rows = restore(run)
    resident = to_device(training, run.accelerator.device), to_device(validation, run.accelerator.device)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for epoch in range(len(rows) + 1, recipe.training.epochs + 1):
            rows.append(train_epoch(run, epoch, *resident))
            save(run, rows)
            if run.accelerator.is_main_process:
                report(rows[-1])
    return rows


def describe_input(images: ImageSet) -> InputConfig:
    """What a network trained on these images expects."""
    mean, std = statistics(images.images)
    if min(std) == 0:
        raise InputError("a colour channel has one value in all training images; such images cannot be normalised")
    return InputConfig(size=images.images.shape[-1], mean=mean, std=std, class_names=images.class_names)


def to_device(images: ImageSet, device: torch.device) -> Resident:
    """Move pixels and labels, once."""
    return Resident(images.images.to(device), images.labels.to(device))


def train_epoch(run: Run, epoch: int, training: Resident, validation: Resident) -> Row:
    """One pass over the training images, and the row it leaves in the log."""
    begun, rate = time.monotonic(), learning_rate(epoch, run.recipe.training)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["share"]
    losses = _run_steps(run, epoch, training)
    seconds = time.monotonic() - begun
    row = {"epoch": epoch, "learning_rate": rate, "seconds": round(seconds, 2)} | _loss_columns(losses)
    judged = validate(run.model, validation)
    if not math.isfinite(judged["cross_entropy_nats"]):  # the last step broke the weights after its loss was seen
        raise not_finite(f"on validation after epoch {epoch}", run.folder)
    return row | {f"validation_{name}": value for name, value in judged.items()}


def _run_steps(run: Run, epoch: int, training: Resident) -> Losses:
    """Every batch of an epoch once; the mean of each term over the steps."""
    run.objective.train()
    device = training.images.device
    seed = stream_seed(run.recipe.training.seed, epoch, run.accelerator.process_index + 1)
    generator = torch.Generator(device).manual_seed(seed)
    seen: list[Tensor] = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # for dropout, which takes no generator
        batches = _batches(run, epoch, len(training.labels))
        shown = progress(batches, f"epoch {epoch}", show=run.accelerator.is_main_process)
        for step, rows in enumerate(shown, 1):
            seen.append(_step(run, training, rows.to(device), generator))
            if step % CHECK_EVERY == 0 or step == len(batches):
                _check_finite(run, seen, epoch)
    return Losses(*_over_processes(run, seen).mean(0))


def _over_processes(run: Run, losses: list[Tensor]) -> Tensor:
    """Terms of each step, averaged over the processes, so that all of them see the same."""
    return cast(Tensor, run.accelerator.reduce(torch.stack(losses), "mean"))


def _step(run: Run, training: Resident, rows: Tensor, generator: torch.Generator) -> Tensor:
    config = run.recipe.training
    images = augment(to_float(training.images[rows]), generator, padding=config.crop_padding, flip=config.flip)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        losses = Losses(*run.objective(images, training.labels[rows], generator))
    run.accelerator.backward(losses.total)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return torch.stack(losses).detach()


def _batches(run: Run, epoch: int, count: int) -> list[Tensor]:
    """Row numbers of each batch, in an order that depends on seed and epoch alone; this process's share of it."""
    config, world = run.recipe.training, run.accelerator.num_processes
    generator = torch.Generator().manual_seed(stream_seed(config.seed, epoch, 0))
    batches = torch.randperm(count, generator=generator).split(config.batch_size)
    enough = 2 * world  # batch norm cannot train on a single image
    shares = [batch[run.accelerator.process_index :: world] for batch in batches if len(batch) >= enough]
    if not shares:
        raise InputError(f"{count} images in batches of {config.batch_size} are too few for {world} processes")
    return shares


def stream_seed(seed: int, epoch: int, stream: int) -> int:
    """One number for each recipe seed, epoch and stream of randomness, in the 32 bits that the CPU's generator reads.

    >>> len({stream_seed(seed, epoch, stream) for seed in range(3) for epoch in range(3) for stream in range(3)})
    27
    """
    return zlib.crc32(f"{seed} {epoch} {stream}".encode())


def _check_finite(run: Run, losses: list[Tensor], epoch: int) -> None:
    broken = (~_over_processes(run, losses)[:, 0].isfinite()).nonzero()
    if len(broken):
        raise not_finite(f"at step {int(broken[0]) + 1} of epoch {epoch}", run.folder)


def not_finite(where: str, folder: Path) -> InputError:
    """Error for a loss that became NaN or infinite."""
    return InputError(
        f"the loss is not finite {where}: lower the learning rate or beta; "
        f"the last good epoch, if any, is kept in {folder}"
    )


def _loss_columns(losses: Losses) -> dict[str, float]:
    """Training means; information in nats and in bits."""
    terms = {name: value.item() for name, value in losses._asdict().items()}
    return {
        "train_total_nats": terms["total"],
        "train_cross_entropy_nats": terms["cross_entropy"],
        "train_cross_entropy_bits": bits(terms["cross_entropy"]),
        "train_rate_nats": terms["rate"],
        "train_rate_bits": bits(terms["rate"]),
        "train_codebook": terms["codebook"],
        "train_commitment": terms["commitment"],
    }


@torch.inference_mode()
def validate(model: IBClassifier, images: Resident) -> dict[str, float]:
    """Deterministic accuracy (fraction), cross-entropy (nats), rate (bits) and number of anchors in use."""
    correct = cross_entropy = rate = images.images.new_zeros((), dtype=torch.float32)
    used = torch.zeros(model.config.anchors or 0, dtype=torch.bool, device=images.images.device)
    with evaluating(model):
        for pixels, labels in zip(*(part.split(VALIDATION_BATCH) for part in images), strict=True):
            seen = model.inspect(to_float(pixels).contiguous(memory_format=torch.channels_last))
            correct = correct + (seen.logits.argmax(1) == labels).sum()
            cross_entropy = cross_entropy + F.cross_entropy(seen.logits, labels, reduction="sum")
            rate = rate + seen.rate.sum()
            if seen.attention.index is not None:
                used[seen.attention.index.flatten()] = True
    count = len(images.labels)
    return {
        "accuracy": correct.item() / count,
        "cross_entropy_nats": cross_entropy.item() / count,
        "rate_bits": bits(rate.item() / count),
        "anchors_used": int(used.sum()),
    }
