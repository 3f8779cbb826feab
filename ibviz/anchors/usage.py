"""Usage of anchors by the attention: counts, perplexity, dead anchors, rate, drift, and stability under noise."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ibviz.anchors.batches import images_at, index_batches, require_attention
from ibviz.data.image_set import ImageSet
from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.models.hooks import evaluating
from ibviz.types import AttentionMap, Labels, Maps, Scores

AnchorCounts = Int[Tensor, " q"]


class Usage(NamedTuple):
    """Counts of anchors in the quantised attention of many images; anchors are in the order of their table."""

    anchors: Float[Tensor, " q"]  # values
    cells: Int[Tensor, "classes q"]  # number of cells at each anchor, by class of the image
    rate_bits: Scores  # exact KL of each image's latent
    unstable: Scores  # expected share of each image's cells that the attention's noise moves to another anchor

    @property
    def counts(self) -> AnchorCounts:
        """Number of cells at each anchor, over all images."""
        return self.cells.sum(0)

    @property
    def occupancy(self) -> Float[Tensor, "classes q"]:
        """Share of the cells at each anchor, by class; NaN for a class without images."""
        return self.cells / self.cells.sum(1, keepdim=True)

    @property
    def dead(self) -> list[int]:
        """Indices of anchors that no cell uses."""
        return (self.counts == 0).nonzero().flatten().tolist()

    @property
    def perplexity(self) -> float:
        """Perplexity of the anchors: 2 to the power of their entropy in bits; 1 if all cells share one anchor."""
        return 2**self.bits_per_cell

    @property
    def bits_per_cell(self) -> float:
        """Entropy of the anchors' overall frequencies, in bits."""
        return entropy_bits(self.counts)

    @property
    def bits_per_image(self) -> float:
        """Upper bound on the bits of a whole map: `bits_per_cell` times its cells, as if cells were independent."""
        return self.bits_per_cell * int(self.counts.sum()) / len(self.rate_bits)


def usage(model: nn.Module, images: ImageSet, *, batch_size: int = 64) -> Usage:
    """Count the anchors in the attention of many images; memory grows by two numbers per image.

    An image counts for the class of its label or, without a label, for the predicted class. Raises `InputError` for a
    model without anchors.
    """
    model = require_attention(model)
    if model.quantizer is None:
        raise InputError("this model's attention is continuous and has no anchors; train with model.anchors = 20")
    anchors = model.quantizer.anchors.detach()
    cells = torch.zeros(len(model.spec.class_names), len(anchors), dtype=torch.int64, device=anchors.device)
    rates, unstable = [], []
    with evaluating(model), torch.inference_mode():
        for rows in index_batches(images, batch_size, "counting anchors"):
            inspection = model.inspect(images_at(images, rows, model))
            index, labels = inspection.attention.index, images.labels[rows].to(anchors.device)
            assert index is not None
            cells += count_cells(index, labels.where(labels >= 0, inspection.logits.argmax(1)), like=cells)
            rates.append(inspection.rate / math.log(2))
            unstable.append(moved_by_noise(inspection.attention).mean((1, 2)))
    return Usage(anchors, cells, torch.cat(rates), torch.cat(unstable))


def count_cells(
    index: Int[Tensor, "b gh gw"], classes: Labels, *, like: Int[Tensor, "classes q"]
) -> Int[Tensor, "classes q"]:
    """Count the cells at each anchor by class, in a table with the shape of `like`.

    >>> count_cells(torch.tensor([[[0, 2]], [[2, 2]]]), torch.tensor([0, 1]), like=torch.zeros(2, 3).long())
    tensor([[1, 0, 1],
            [0, 0, 2]])
    """
    places = (classes[:, None, None] * like.shape[1] + index).flatten()
    return torch.zeros_like(like.flatten()).index_add_(0, places, torch.ones_like(places)).view_as(like)


def entropy_bits(counts: AnchorCounts) -> float:
    """Entropy of the distribution given by counts, in bits.

    >>> entropy_bits(torch.tensor([2, 1, 1, 0]))
    1.5
    """
    share = counts.double() / counts.sum()
    return -torch.xlogy(share, share).sum().item() / math.log(2)


def moved_by_noise(attention: AttentionMap) -> Maps:
    """Probability per cell that a noisy draw of the attention is quantised to another anchor than its mean.

    In closed form: the mass of N(mean, deviation²) beyond the midpoints to the neighbouring anchors.

    >>> mean, anchors = torch.full((1, 1, 1), 0.5), torch.tensor([0.0, 1.0])
    >>> moved_by_noise(AttentionMap(mean, mean / 10, torch.zeros(1, 1, 1).long(), anchors))
    tensor([[[0.5000]]])
    """
    index, anchors = attention.index, attention.anchors
    if index is None or anchors is None:
        raise InputError("continuous attention has no anchors that noise could change")
    gaps = anchors - anchors[:, None]  # to every other anchor; equal anchors count as one
    above, below = gaps.masked_fill(gaps <= 0, torch.inf).amin(1), gaps.masked_fill(gaps >= 0, -torch.inf).amax(1)
    low, high = (anchors + below / 2)[index], (anchors + above / 2)[index]
    deviation = attention.deviation.clamp_min(torch.finfo(attention.deviation.dtype).tiny)
    beyond = ((low - attention.mean) / deviation, (attention.mean - high) / deviation)
    return torch.special.ndtr(beyond[0]) + torch.special.ndtr(beyond[1])


def drift(model: IBClassifier) -> Float[Tensor, "epochs q"] | None:
    """Anchor values at the start of training and after each epoch up to the saved one; None if its file lacks them."""
    logged = model.facts.get("anchors", [])
    if model.quantizer is None or not logged or not all(logged):
        return None
    start = torch.linspace(0.0, 1.0, len(logged[0]))
    return torch.cat([start[None], torch.tensor(logged)])
