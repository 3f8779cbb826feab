"""Validation of a network: accuracy, rate, attention, and its reliance on the attention."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ibviz.models.bottleneck import bits
from ibviz.models.classifier import IBClassifier, Inspection
from ibviz.models.gate import capacity
from ibviz.models.hooks import evaluating
from ibviz.models.reliance import REPLACEMENTS, classification_scores, derangement, mean_map, replacement_maps
from ibviz.training.features import Loader
from ibviz.training.loaders import StreamLoader
from ibviz.training.recipe import Recipe, TrainingConfig
from ibviz.training.run import is_saved_epoch
from ibviz.types import Inputs, Labels, Maps

_BATCH_SIZE = 256
_MAX_REPLACED_EPOCHS = 10  # epochs of a run after which the attention is replaced
_REPLACED = [name for name in REPLACEMENTS if name != "own"]
REPLACEMENT_COLUMNS = [f"{number}_{name}_map" for name in _REPLACED for number in ("accuracy", "cross_entropy_nats")]
_EDGE = 0.02  # attention is saturated if its mean is this close to 0 or 1, flat if its deviation is smaller
_Batch = tuple[Tensor, Inputs, Labels]  # indices of the images, input of the network, labels


def is_replacement_epoch(epoch: int, config: TrainingConfig) -> bool:
    """Return True if the attention is replaced after this epoch: for at most ten saved epochs, including the last.

    >>> [epoch for epoch in range(1, 26) if is_replacement_epoch(epoch, TrainingConfig(epochs=25))]
    [1, 4, 7, 10, 13, 16, 19, 22, 25]
    """
    saved = [number for number in range(1, config.epochs + 1) if is_saved_epoch(number, config)]
    return epoch in saved[:: -math.ceil(len(saved) / _MAX_REPLACED_EPOCHS)]


@torch.inference_mode()
def validate(
    model: IBClassifier,
    images: Loader,
    accelerator: Accelerator | None = None,
    *,
    replaced: bool = False,
) -> dict[str, Any]:
    """Validate a network without noise.

    Args:
        model: The network.
        images: Loader of the validation images.
        accelerator: Its processes share the images; None: a single process.
        replaced: Also measure accuracy and cross-entropy with the maps of `ibviz.models.reliance.REPLACEMENTS`. This
            takes another pass up to the gate and four after it, with the maps of all images in memory. The assignment
            of maps to images is the same for all epochs and numbers of processes.

    Returns:
        Accuracy (fraction), cross-entropy (nats), rate (bits), number of anchors in use, and of the attention its mean
        over cells, its mean deviation within images, and its mean capacity (`ibviz.models.gate.capacity`, nats). With
        `replaced`, also `REPLACEMENT_COLUMNS`, which are None for a single image.
    """
    device = next(model.parameters()).device
    totals = torch.zeros(7 + (model.config.anchors or 0), dtype=torch.float64, device=device)
    maps: list[tuple[Tensor, Tensor]] = []
    with evaluating(model):
        for rows, pictures, labels in _batches(images, accelerator):
            inspection = model.inspect(pictures)
            totals += _sums(model, inspection, labels)
            if replaced:
                maps.append((rows, inspection.attention.values()))
        sums = _sum_over_processes(totals, accelerator).tolist()
        count, correct, cross_entropy, rate, mean, deviation, passed, *cells = sums
        results = {
            "accuracy": correct / count,
            "cross_entropy_nats": cross_entropy / count,
            "rate_bits": bits(rate / count),
            "anchors_used": sum(number > 0 for number in cells),
            "attention_mean": mean / count,
            "attention_deviation": deviation / count,
            "capacity_nats": passed / count,
        }
        return results | (_with_other_maps(model, images, accelerator, maps) if replaced else {})


def _batches(images: Loader, accelerator: Accelerator | None) -> Iterator[_Batch]:
    """Yield the batches of this process; unreadable images are left out."""
    first, step = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    parts = torch.arange(first, len(images.labels), step).split(_BATCH_SIZE)
    for part, (pixels, labels) in zip(parts, images.batches(parts), strict=True):
        rows = part[~images.images.broken[part]] if isinstance(images, StreamLoader) else part
        if len(pixels):
            yield rows.to(pixels.device), images.inputs(pixels), labels


def _sums(model: IBClassifier, inspection: Inspection, labels: Labels) -> Tensor:
    """Sum over a batch: images, correct ones, cross-entropy, rate, maps' mean, deviation, capacity; cells by anchor."""
    correct = (inspection.logits.argmax(1) == labels).sum()
    cross_entropy = F.cross_entropy(inspection.logits.float(), labels, reduction="sum")
    values = inspection.attention.values().float().flatten(1)
    of_maps = values.mean(1).sum(), values.std(1, correction=0).sum(), capacity(values).mean(1).sum()
    images, rate = correct.new_tensor(len(labels)), inspection.rate.sum()
    sums = torch.stack([images, correct, cross_entropy, rate, *of_maps]).double()
    if inspection.attention.index is None:
        return sums
    cells = inspection.attention.index.flatten()
    used = torch.zeros(model.config.anchors or 0, dtype=torch.float64, device=cells.device)
    return torch.cat([sums, used.index_add_(0, cells, torch.ones_like(cells, dtype=torch.float64))])


def _with_other_maps(
    model: IBClassifier,
    images: Loader,
    accelerator: Accelerator | None,
    maps: Sequence[tuple[Tensor, Tensor]],
) -> dict[str, float | None]:
    """Return the `REPLACEMENT_COLUMNS`, given the maps of this process's images."""
    whole, index_of = _all_maps(len(images.labels), maps, accelerator)
    if len(whole) < 2:
        return dict.fromkeys(REPLACEMENT_COLUMNS)
    average, others = mean_map(whole), whole[derangement(len(whole), seed=0).to(whole.device)]
    totals = torch.zeros(len(REPLACEMENT_COLUMNS), dtype=torch.float64, device=whole.device)
    for rows, pictures, labels in _batches(images, accelerator):
        indices = index_of[rows]
        values = replacement_maps(whole[indices], average, others[indices])[1:]  # results with its own map are known
        numbers = classification_scores(model.with_gate(pictures, values), labels)
        totals += torch.stack(numbers, dim=1).double().sum(2).flatten()
    means = _sum_over_processes(totals, accelerator) / len(whole)
    return dict(zip(REPLACEMENT_COLUMNS, means.tolist(), strict=True))


def _all_maps(
    count: int, maps: Sequence[tuple[Tensor, Tensor]], accelerator: Accelerator | None
) -> tuple[Maps, Tensor]:
    """Gather the maps of all readable images from all processes, and the index of each image's map among them."""
    rows, own = (torch.cat(column) for column in zip(*maps, strict=True))
    whole, readers = own.new_zeros(count, *own.shape[1:]), own.new_zeros(count)
    whole[rows], readers[rows] = own, 1
    readable = _sum_over_processes(readers, accelerator) > 0
    return _sum_over_processes(whole, accelerator)[readable], readable.cumsum(0) - 1


def _sum_over_processes(numbers: Tensor, accelerator: Accelerator | None) -> Tensor:
    if accelerator is None or accelerator.num_processes == 1:
        return numbers
    total = accelerator.reduce(numbers, "sum")
    assert isinstance(total, Tensor)
    return total


def unfit_price(recipe: Recipe) -> str | None:
    """Return a warning if a price on attention is combined with the residual gate, else None.

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
    """Return a warning for attention with a saturated mean or a small deviation within images, else None.

    >>> warning_of(0.4, 0.2), (warning_of(0.63, 0.004) or "").partition(":")[0]
    (None, 'the attention is flat, its deviation within images 0.0040')
    """
    if mean < _EDGE:
        return (
            f"the attention is shut, its mean {mean:.4f}: lower attention_price under [objective] or let it rise "
            "later (attention_warmup), or start with more of it open (open_at_start under [model]); batch norm that "
            'trains behind the gate undoes a factor on all maps: there only gate = "noise" makes closing cost anything'
        )
    if mean > 1 - _EDGE:
        return (
            f"the attention is open everywhere, its mean {mean:.4f}: give it a price (attention_price under "
            '[objective]) with a gate that the network cannot undo (gate = "mul" under [model])'
        )
    if deviation < _EDGE:
        return (
            f"the attention is flat, its deviation within images {deviation:.4f}: use a gate that the network "
            'cannot undo (gate = "mul" under [model], or "noise" if batch norm behind it trains) with a price '
            "(attention_price under [objective]), or let the head learn faster (head_lr under [training])"
        )
    return None
