"""One training loop for a CPU, a GPU or many (through torchrun).

Resumed bit for bit on a CPU; on a GPU as well, as far as torch's operations are deterministic there. cuDNN's are, the
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
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from ibviz.config import InputConfig, Recipe
from ibviz.data.image_set import Fault, to_float
from ibviz.data.sources import load_split
from ibviz.data.streaming import Images, input_statistics
from ibviz.errors import InputError
from ibviz.files import replacing
from ibviz.models.bottleneck import bits
from ibviz.models.classifier import IBClassifier
from ibviz.models.hooks import evaluating
from ibviz.models.objective import Losses
from ibviz.progress import progress
from ibviz.training.augment import Crops, augment, draw_crops
from ibviz.training.check import check_images, enough, side
from ibviz.training.run import CHECKPOINT, Row, Run, holding, restore, save, saves, start, update_average
from ibviz.training.schedule import learning_rate
from ibviz.training.share import Share, WholeBatchDropout, shares
from ibviz.training.supply import Batch, Resident, Streamed, supply, tell_faults
from ibviz.training.track import accelerator_for, tracking
from ibviz.types import Labels, Pixels

CHECK_EVERY = 50  # steps between two looks at the loss, each of which waits for the device
VALIDATION_BATCH = 256


def train(  # noqa: PLR0913 - what, and where
    recipe: Recipe,
    folder: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    weights: Path | None = None,
    log: str | None = None,
    report: Callable[[Row], object] = print,
) -> list[Row]:
    """Train a recipe into `folder` and return its log, one row an epoch.

    Every `save_every` epochs and after the last, `checkpoint.safetensors` (weights, their average, optimizer, recipe),
    `log.parquet` and, where validation accuracy is the best so far, `model.safetensors` are replaced whole. `resume`
    goes on after the last saved epoch and ends with the weights of an uninterrupted run, on a GPU if its network has no
    other operations than deterministic ones. `report` sees each new row, and so does the tracker that `log` names,
    `tensorboard` or `wandb`. A recipe with `model.pretrained` starts from published weights, or from those in the file
    `weights`. Images that cannot be read are listed in `skipped.txt`. A loss that is not finite stops the run with an
    `InputError` that names the step; the last checkpoint stays. A folder that another run holds is refused.
    """
    if (folder / CHECKPOINT).exists() and not resume:
        raise InputError(f"{folder} already holds a run; go on with --resume or give another folder")
    accelerator = accelerator_for(log, folder)
    with holding(folder, accelerator), tracking(accelerator, recipe):
        with accelerator.main_process_first():  # which downloads, where there is something to download
            training, validation = (load_split(recipe.data, split, root) for split in ("train", "validation"))
        check_images(recipe, (training, validation), processes=accelerator.num_processes)
        run = start(recipe, folder, describe_input(training), accelerator, weights=weights)
        return _train(run, training, validation, report)


def _train(run: Run, training: Images, validation: Images, report: Callable[[Row], object]) -> list[Row]:
    rows, config, accelerator = restore(run), run.recipe.training, run.accelerator
    supplies = supply(training, accelerator.device), supply(validation, accelerator.device)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for epoch in range(len(rows) + 1, config.epochs + 1):
            rows.append(train_epoch(run, epoch, *supplies))
            for images in (training, validation):
                tell_faults(images, accelerator)
            if saves(epoch, config):
                save(run, rows)
                list_skipped(run, (*training.faults, *validation.faults))
            if accelerator.is_main_process:
                report(rows[-1])
            accelerator.log(rows[-1], step=epoch)
    return rows


def describe_input(images: Images) -> InputConfig:
    """What a network trained on these images expects."""
    mean, std = input_statistics(images)
    if min(std) == 0:
        raise InputError("a colour channel has one value in all training images; such images cannot be normalised")
    return InputConfig(size=side(images), mean=mean, std=std, class_names=images.class_names)


def list_skipped(run: Run, faults: Sequence[Fault]) -> None:
    """Write the names of unreadable images, and why they are, beside the checkpoint."""
    if faults and run.accelerator.is_main_process:
        with replacing(run.folder / "skipped.txt") as beside:
            beside.write_text("".join(f"{fault.name}: {fault.reason}\n" for fault in faults))


def train_epoch(run: Run, epoch: int, training: Resident | Streamed, validation: Resident | Streamed) -> Row:
    """One pass over the training images, and the row it leaves in the log."""
    begun = time.monotonic()
    losses = _run_steps(run, epoch, training)
    row = {
        "epoch": epoch,
        "learning_rate": learning_rate(epoch, run.recipe.training),
        "seconds": round(time.monotonic() - begun, 2),
        "anchors": anchor_values(run.judged),
    }
    judged = validate(run.judged, validation, run.accelerator)
    if not math.isfinite(judged["cross_entropy_nats"]):  # the last step broke the weights after its loss was seen
        raise not_finite(f"on validation after epoch {epoch}", run.folder)
    row |= _loss_columns(losses, run.recipe.objective.kl)
    return row | {f"validation_{name}": value for name, value in judged.items()}


def anchor_values(model: IBClassifier) -> list[float]:
    """Anchors in the order of their table, to six decimals; none where attention is continuous."""
    return [] if model.quantizer is None else [round(value, 6) for value in model.quantizer.anchors.tolist()]


def _run_steps(run: Run, epoch: int, training: Resident | Streamed) -> Losses:
    """Every batch of an epoch once; the mean of each term over the steps."""
    run.objective.train()
    run.model.network.train(run.recipe.training.trainable == "all")  # frozen, its batch statistics stay as well
    plan = _plan(run, epoch, len(training.labels))
    batches = training.batches([share.rows(rows) for rows, passes in plan for share in passes])
    losses: list[Tensor] = []  # one row a step, checked in blocks
    block: list[Tensor] = []
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # all that manual_seed reseeds
        for step, (_, passes) in enumerate(progress(plan, f"epoch {epoch}", show=run.accelerator.is_main_process), 1):
            _set_rate(run, epoch, (step - 1) / len(plan))
            block.append(_step(run, batches, passes, stream_seed(run.recipe.training.seed, epoch, step)))
            if len(block) == CHECK_EVERY or step == len(plan):
                losses.append(_checked(run, block, f"of epoch {epoch}", step - len(block)))
                block = []
    return Losses(*torch.cat(losses).mean(0))


def _plan(run: Run, epoch: int, count: int) -> list[tuple[Tensor, list[Share]]]:
    """Row numbers of each batch, in an order that follows from seed and epoch, and this process's shares of it.

    What is left over at the end of an epoch is a batch of its own if it is `enough`, however many processes there are.
    """
    config, processes, process = run.recipe.training, run.accelerator.num_processes, run.accelerator.process_index
    generator = torch.Generator().manual_seed(stream_seed(config.seed, epoch, 0))
    batches = torch.randperm(count, generator=generator).split(config.batch_size)
    deal = partial(shares, process=process, processes=processes, passes=config.accumulate)
    return [(rows, deal(len(rows))) for rows in batches if enough(len(rows), config)]


def _set_rate(run: Run, epoch: int, within: float) -> None:
    rate = learning_rate(epoch, run.recipe.training, within=within)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["share"]


def _step(run: Run, batches: Iterator[Batch], passes: list[Share], seed: int) -> Tensor:
    """One step of the optimizer, on a batch in one or more passes; this process's part in each mean loss."""
    terms = []
    for share in passes:
        last = share is passes[-1]
        with nullcontext() if last else run.accelerator.no_sync(run.objective):  # gradients travel once a step
            terms.append(_pass(run, *next(batches), share, seed))
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average is not None and run.recipe.training.ema is not None:
        update_average(run.average, run.model, run.recipe.training.ema)
    return torch.stack(terms).sum(0)


def _pass(run: Run, pixels: Pixels, labels: Labels, share: Share, seed: int) -> Tensor:
    """Add the gradients of one share of a batch.

    All that is random follows from the step's seed and is drawn for the whole batch, whoever holds its rows.
    """
    if not len(pixels):
        raise InputError("none of the images of a batch could be read; take broken files out of the data")
    config, device = run.recipe.training, pixels.device
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)  # for dropout, which takes no generator
    for module in run.model.modules():
        if isinstance(module, WholeBatchDropout):
            module.share = share
    drawn = draw_crops(share.whole, generator, padding=config.crop_padding, flip=config.flip)
    crops = Crops(*(share.rows(part, len(pixels)) for part in drawn))
    images = augment(to_float(pixels), crops, padding=config.crop_padding)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        losses = Losses(*run.objective(images, labels, partial(share.randn, generator=generator)))
    weight = share.weight(run.accelerator.num_processes)
    run.accelerator.backward(losses.total * weight)
    return torch.stack(losses).detach() * weight


def stream_seed(seed: int, epoch: int, stream: int) -> int:
    """One number for each recipe seed, epoch and stream of randomness, in the 32 bits that the CPU's generator reads.

    Stream 0 is the order of an epoch, stream n its step n.

    >>> len({stream_seed(seed, epoch, stream) for seed in range(3) for epoch in range(3) for stream in range(3)})
    27
    """
    return zlib.crc32(f"{seed} {epoch} {stream}".encode())


def _checked(run: Run, block: list[Tensor], where: str, before: int) -> Tensor:
    """Terms of some steps as means over their whole batches, after a look at whether they are finite."""
    losses = run.accelerator.reduce(torch.stack(block), "mean")
    assert isinstance(losses, Tensor)
    broken = (~losses[:, 0].isfinite()).nonzero()
    if len(broken):
        raise not_finite(f"at step {before + int(broken[0]) + 1} {where}", run.folder)
    return losses


def not_finite(where: str, folder: Path) -> InputError:
    """Error for a loss that became NaN or infinite."""
    return InputError(
        f"the loss is not finite {where}: lower the learning rate or beta; "
        f"the last good epoch, if any, is kept in {folder}"
    )


def _loss_columns(losses: Losses, kl: str) -> dict[str, float]:
    """Training means; information in nats and in bits, the authors' price, which is no information, without a unit."""
    terms = {name: value.item() for name, value in losses._asdict().items()}
    exact = {"train_rate_nats": terms["rate"], "train_rate_bits": bits(terms["rate"])}
    return {
        "train_total_nats": terms["total"],
        "train_cross_entropy_nats": terms["cross_entropy"],
        "train_cross_entropy_bits": bits(terms["cross_entropy"]),
        **(exact if kl == "exact" else {"train_official_price": terms["rate"]}),
        "train_codebook": terms["codebook"],
        "train_commitment": terms["commitment"],
    }


@torch.inference_mode()
def validate(
    model: IBClassifier, images: Resident | Streamed, accelerator: Accelerator | None = None
) -> dict[str, float]:
    """Deterministic accuracy (fraction), cross-entropy (nats), rate (bits) and number of anchors in use.

    Processes of an `accelerator` take every other image each and add up what they find.
    """
    first, step = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    rows = torch.arange(first, len(images.labels), step)
    device = next(model.parameters()).device
    totals = torch.zeros(4 + (model.config.anchors or 0), dtype=torch.float64, device=device)
    with evaluating(model):
        for pixels, labels in images.batches(rows.split(VALIDATION_BATCH)):
            if len(pixels):
                totals += _judge(model, pixels, labels)
    if accelerator is not None and accelerator.num_processes > 1:
        totals = accelerator.reduce(totals, "sum")
    assert isinstance(totals, Tensor)
    count, correct, cross_entropy, rate, *cells = totals.tolist()
    return {
        "accuracy": correct / count,
        "cross_entropy_nats": cross_entropy / count,
        "rate_bits": bits(rate / count),
        "anchors_used": sum(number > 0 for number in cells),
    }


def _judge(model: IBClassifier, pixels: Pixels, labels: Labels) -> Tensor:
    """Images, correct ones, summed cross-entropy and rate, then cells of each anchor."""
    seen = model.inspect(to_float(pixels).contiguous(memory_format=torch.channels_last))
    correct = (seen.logits.argmax(1) == labels).sum()
    cross_entropy = F.cross_entropy(seen.logits.float(), labels, reduction="sum")
    sums = torch.stack([correct.new_tensor(len(labels)), correct, cross_entropy, seen.rate.sum()]).double()
    if seen.attention.index is None:
        return sums
    cells = seen.attention.index.flatten()
    used = torch.zeros(model.config.anchors or 0, dtype=torch.float64, device=cells.device)
    return torch.cat([sums, used.index_add_(0, cells, torch.ones_like(cells, dtype=torch.float64))])
