"""How attention uses its anchors: the health of a codebook, its rate, its drift and how firm its choices are."""

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
    """What the quantised attention of many images is made of; anchors in the order of their table."""

    anchors: Float[Tensor, " q"]  # values
    cells: Int[Tensor, "classes q"]  # cells at each anchor, in the images of each class
    rate_bits: Scores  # of each image's latent: exact KL
    unstable: Scores  # share of each image's cells that the attention's noise is expected to move to another anchor

    @property
    def counts(self) -> AnchorCounts:
        """Cells at each anchor, over all images."""
        return self.cells.sum(0)

    @property
    def occupancy(self) -> Float[Tensor, "classes q"]:
        """Share of the cells of a class at each anchor; NaN for a class without images."""
        return self.cells / self.cells.sum(1, keepdim=True)

    @property
    def dead(self) -> list[int]:
        """Anchors without a cell."""
        return (self.counts == 0).nonzero().flatten().tolist()

    @property
    def perplexity(self) -> float:
        """Number of equally used anchors that would be as hard to guess; 1 where all cells share one."""
        return 2**self.bits_per_cell

    @property
    def bits_per_cell(self) -> float:
        """Bits that a code by the anchors' overall frequency spends on a cell."""
        return entropy_bits(self.counts)

    @property
    def bits_per_image(self) -> float:
        """The same for a whole map: what it costs at most, since neighbouring cells tell of each other."""
        return self.bits_per_cell * int(self.counts.sum()) / len(self.rate_bits)


def usage(model: nn.Module, images: ImageSet, *, batch_size: int = 64) -> Usage:
    """Count anchors over many images in batches; memory grows by two numbers an image.

    An image belongs to the class of its label, or where it has none to the predicted one. Raises `InputError` for a
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
            seen = model.inspect(images_at(images, rows, model))
            index, labels = seen.attention.index, images.labels[rows].to(anchors.device)
            assert index is not None
            cells += count_cells(index, labels.where(labels >= 0, seen.logits.argmax(1)), like=cells)
            rates.append(seen.rate / math.log(2))
            unstable.append(moved_by_noise(seen.attention).mean((1, 2)))
    return Usage(anchors, cells, torch.cat(rates), torch.cat(unstable))


def count_cells(
    index: Int[Tensor, "b gh gw"], classes: Labels, *, like: Int[Tensor, "classes q"]
) -> Int[Tensor, "classes q"]:
    """Cells at each anchor in the images of each class, in a table the size of `like`.

    >>> count_cells(torch.tensor([[[0, 2]], [[2, 2]]]), torch.tensor([0, 1]), like=torch.zeros(2, 3).long())
    tensor([[1, 0, 1],
            [0, 0, 2]])
    """
    places = (classes[:, None, None] * like.shape[1] + index).flatten()
    return torch.zeros_like(like.flatten()).index_add_(0, places, torch.ones_like(places)).view_as(like)


def entropy_bits(counts: AnchorCounts) -> float:
    """Entropy of the shares that counts are of their sum, in bits.

    >>> entropy_bits(torch.tensor([2, 1, 1, 0]))
    1.5
    """
    share = counts.double() / counts.sum()
    return -torch.xlogy(share, share).sum().item() / math.log(2)


def moved_by_noise(attention: AttentionMap) -> Maps:
    """Probability of each cell that a draw of the attention's noise is nearest to another anchor than its mean is.

    In closed form: how much of N(mean, deviation²) lies beyond half the way to the next anchors.

    >>> mean, anchors = torch.full((1, 1, 1), 0.5), torch.tensor([0.0, 1.0])
    >>> moved_by_noise(AttentionMap(mean, mean / 10, torch.zeros(1, 1, 1).long(), anchors))
    tensor([[[0.5000]]])
    """
    index, anchors = attention.index, attention.anchors
    if index is None or anchors is None:
        raise InputError("continuous attention has no anchors that noise could change")
    gaps = anchors - anchors[:, None]  # to every other anchor; equal ones count as one
    above, below = gaps.masked_fill(gaps <= 0, torch.inf).amin(1), gaps.masked_fill(gaps >= 0, -torch.inf).amax(1)
    low, high = (anchors + below / 2)[index], (anchors + above / 2)[index]
    deviation = attention.deviation.clamp_min(torch.finfo(attention.deviation.dtype).tiny)
    beyond = ((low - attention.mean) / deviation, (attention.mean - high) / deviation)
    return torch.special.ndtr(beyond[0]) + torch.special.ndtr(beyond[1])


def drift(model: IBClassifier) -> Float[Tensor, "epochs q"] | None:
    """Anchor values at the start of training and after each epoch up to the kept one; None where its file has none."""
    logged = model.facts.get("anchors", [])
    if model.quantizer is None or not logged or not all(logged):
        return None
    start = torch.linspace(0.0, 1.0, len(logged[0]))
    return torch.cat([start[None], torch.tensor(logged)])
