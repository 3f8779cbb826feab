"""How good a network is on validation images, and how much it relies on its attention there."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ibviz.config import Recipe, TrainingConfig
from ibviz.models.bottleneck import bits
from ibviz.models.classifier import IBClassifier, Inspection
from ibviz.models.gate import capacity
from ibviz.models.hooks import evaluating
from ibviz.models.reliance import REPLACEMENTS, classification_scores, derangement, mean_map, replacement_maps
from ibviz.training.features import Loader
from ibviz.training.loaders import StreamLoader
from ibviz.training.run import is_saved_epoch
from ibviz.types import Inputs, Labels, Maps

_BATCH_SIZE = 256
_MAX_REPLACED_EPOCHS = 10  # epochs of a run in which the attention is replaced
_REPLACED = [name for name in REPLACEMENTS if name != "own"]
REPLACEMENT_COLUMNS = [f"{number}_{name}_map" for name in _REPLACED for number in ("accuracy", "cross_entropy_nats")]
_EDGE = 0.02  # attention whose mean is this near to 0 or 1 is saturated; if it deviates less within images, it is flat
_Batch = tuple[Tensor, Inputs, Labels]  # numbers of the images of a batch, what the network takes, labels


def is_replacement_epoch(epoch: int, config: TrainingConfig) -> bool:
    """Whether the attention is replaced on validation after this epoch: at most ten checkpoints of a run, and the last.

    >>> [epoch for epoch in range(1, 26) if is_replacement_epoch(epoch, TrainingConfig(epochs=25))]
    [1, 4, 7, 10, 13, 16, 19, 22, 25]
    """
    saved = [one for one in range(1, config.epochs + 1) if is_saved_epoch(one, config)]
    return epoch in saved[:: -math.ceil(len(saved) / _MAX_REPLACED_EPOCHS)]


@torch.inference_mode()
def validate(
    model: IBClassifier,
    images: Loader,
    accelerator: Accelerator | None = None,
    *,
    replaced: bool = False,
) -> dict[str, Any]:
    """Judge a network without noise: accuracy (fraction), cross-entropy (nats), rate (bits), and its attention.

    Of the attention: the number of anchors in use, its mean over all cells, its deviation within images (mean of
    theirs), and the mean of `ibviz.models.gate.capacity`. `replaced` adds accuracy and cross-entropy with the other
    maps of `ibviz.models.reliance.REPLACEMENTS` in its place (None for a single image, which has no other): another
    pass up to the gate and four behind it, with the maps of all images in memory. Which map an image gets depends
    neither on the epoch nor on the number of processes, which share the images and add up what they measure.
    """
    device = next(model.parameters()).device
    totals = torch.zeros(7 + (model.config.anchors or 0), dtype=torch.float64, device=device)
    maps: list[tuple[Tensor, Tensor]] = []
    with evaluating(model):
        for rows, pictures, labels in _batches(images, accelerator):
            seen = model.inspect(pictures)
            totals += _sums(model, seen, labels)
            if replaced:
                maps.append((rows, seen.attention.values()))
        count, correct, cross_entropy, rate, mean, deviation, passed, *cells = _added(totals, accelerator).tolist()
        found = {
            "accuracy": correct / count,
            "cross_entropy_nats": cross_entropy / count,
            "rate_bits": bits(rate / count),
            "anchors_used": sum(number > 0 for number in cells),
            "attention_mean": mean / count,
            "attention_deviation": deviation / count,
            "capacity_nats": passed / count,
        }
        return found | (_with_other_maps(model, images, accelerator, maps) if replaced else {})


def _batches(images: Loader, accelerator: Accelerator | None) -> Iterator[_Batch]:
    """This process's images; those that cannot be read are left out."""
    first, step = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    parts = torch.arange(first, len(images.labels), step).split(_BATCH_SIZE)
    for asked, (pixels, labels) in zip(parts, images.batches(parts), strict=True):
        rows = asked[~images.images.broken[asked]] if isinstance(images, StreamLoader) else asked
        if len(pixels):
            yield rows.to(pixels.device), images.inputs(pixels), labels


def _sums(model: IBClassifier, seen: Inspection, labels: Labels) -> Tensor:
    """Images, correct ones; sums of cross-entropy, rate, mean, deviation, capacity of maps; cells of each anchor."""
    correct = (seen.logits.argmax(1) == labels).sum()
    cross_entropy = F.cross_entropy(seen.logits.float(), labels, reduction="sum")
    values = seen.attention.values().float().flatten(1)
    of_maps = values.mean(1).sum(), values.std(1, correction=0).sum(), capacity(values).mean(1).sum()
    sums = torch.stack([correct.new_tensor(len(labels)), correct, cross_entropy, seen.rate.sum(), *of_maps]).double()
    if seen.attention.index is None:
        return sums
    cells = seen.attention.index.flatten()
    used = torch.zeros(model.config.anchors or 0, dtype=torch.float64, device=cells.device)
    return torch.cat([sums, used.index_add_(0, cells, torch.ones_like(cells, dtype=torch.float64))])


def _with_other_maps(
    model: IBClassifier,
    images: Loader,
    accelerator: Accelerator | None,
    maps: Sequence[tuple[Tensor, Tensor]],
) -> dict[str, float | None]:
    """`REPLACEMENT_COLUMNS`, from the maps of this process's images."""
    whole, place = _all_maps(len(images.labels), maps, accelerator)
    if len(whole) < 2:
        return dict.fromkeys(REPLACEMENT_COLUMNS)
    average, others = mean_map(whole), whole[derangement(len(whole), seed=0).to(whole.device)]
    totals = torch.zeros(len(REPLACEMENT_COLUMNS), dtype=torch.float64, device=whole.device)
    for rows, pictures, labels in _batches(images, accelerator):
        here = place[rows]
        values = replacement_maps(whole[here], average, others[here])[1:]  # how it decides with its own is known
        numbers = classification_scores(model.with_gate(pictures, values), labels)
        totals += torch.stack(numbers, dim=1).double().sum(2).flatten()
    return dict(zip(REPLACEMENT_COLUMNS, (_added(totals, accelerator) / len(whole)).tolist(), strict=True))


def _all_maps(
    count: int, maps: Sequence[tuple[Tensor, Tensor]], accelerator: Accelerator | None
) -> tuple[Maps, Tensor]:
    """The maps of all images that any process could read, and where that of each of `count` images stands."""
    rows, own = (torch.cat(column) for column in zip(*maps, strict=True))
    whole, there = own.new_zeros(count, *own.shape[1:]), own.new_zeros(count)
    whole[rows], there[rows] = own, 1
    readable = _added(there, accelerator) > 0
    return _added(whole, accelerator)[readable], readable.cumsum(0) - 1


def _added(numbers: Tensor, accelerator: Accelerator | None) -> Tensor:
    """The sum over all processes."""
    if accelerator is None or accelerator.num_processes == 1:
        return numbers
    found = accelerator.reduce(numbers, "sum")
    assert isinstance(found, Tensor)
    return found


def unfit_price(recipe: Recipe) -> str | None:
    """Say that a price can only close the residual gate, whose network does not need it open; None: nothing is wrong.

    >>> (unfit_price(Recipe.model_validate({"objective": {"attention_price": 0.5}})) or "").partition(":")[0]
    'attention_price with gate = "residual" can only close the attention'
    """
    if not recipe.objective.attention_price or recipe.model.gate != "residual":
        return None
    return (
        'attention_price with gate = "residual" can only close the attention: features pass at 0 as well, so that '
        'nothing is lost by it; set gate = "mul" under [model]'
    )


def warning_of(mean: float, deviation: float) -> str | None:
    """What is wrong with attention of this mean and this deviation within images, and the way out; None: nothing.

    >>> warning_of(0.4, 0.2), (warning_of(0.63, 0.004) or "").partition(":")[0]
    (None, 'the attention is flat, its deviation within images 0.0040')
    """
    if mean < _EDGE:
        return (
            f"the attention is shut, its mean {mean:.4f}: lower attention_price under [objective] or let it rise "
            "later (attention_warmup), or start with more of it open (open_at_start under [model])"
        )
    if mean > 1 - _EDGE:
        return (
            f"the attention is open everywhere, its mean {mean:.4f}: give it a price (attention_price under "
            '[objective]) with a gate that the network cannot undo (gate = "mul" under [model])'
        )
    if deviation < _EDGE:
        return (
            f"the attention is flat, its deviation within images {deviation:.4f}: use a gate that the network "
            'cannot undo (gate = "mul" under [model]) with a price (attention_price under [objective]), or let '
            "the head learn faster (head_lr under [training])"
        )
    return None
