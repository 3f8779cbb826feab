"""Reliance of a classifier on its attention: accuracy and cross-entropy when its maps are replaced by other maps.

Features, latent mean and decoder are unchanged; only the values that enter the gate are replaced. If a network is as
accurate with the average map of a data set, it uses the usual location of objects instead of the image; if it is as
accurate with every map replaced by its mean, it does not use its attention at all.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.models.hooks import evaluating
from ibviz.statistics import estimate
from ibviz.types import Images, Labels, Maps

# Labels of the maps that enter the gate, in the order of `replacement_maps`.
REPLACEMENTS = {
    "own": "its own map",
    "mean": "every cell at its map's mean",
    "average": "the average map of all images",
    "other": "another image's map",
    "reversed": "the reversed map (off the distribution)",
}
_ByMapAndImage = Float[Tensor, "v b"]  # one value per kind of map and image


def at_mean(values: Maps) -> Maps:
    """Set every cell to the mean of its map, which keeps the level and removes the location.

    >>> at_mean(torch.tensor([[[0.0, 0.5, 1.0]]]))
    tensor([[[0.5000, 0.5000, 0.5000]]])
    """
    return values.mean((1, 2), keepdim=True).expand_as(values)


def reversed_values(values: Maps) -> Maps:
    """Reverse the order of the cells within the range of each map: v becomes maximum + minimum - v.

    This changes the level and the distribution of the values, so that the network is tested off its training
    distribution.

    >>> reversed_values(torch.tensor([[[0.25, 0.5, 1.0]]]))
    tensor([[[1.0000, 0.7500, 0.2500]]])
    """
    return values.amax((1, 2), keepdim=True) + values.amin((1, 2), keepdim=True) - values


def mean_map(maps: Maps) -> Float[Tensor, "1 gh gw"]:
    """Compute the mean of maps over images, cell by cell.

    >>> mean_map(torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]]]))
    tensor([[[0.5000, 1.0000]]])
    """
    return maps.double().mean(0, keepdim=True).to(maps.dtype)


def replacement_maps(own: Maps, average: Float[Tensor, "1 gh gw"], other: Maps) -> Float[Tensor, "v b gh gw"]:
    """Stack the maps of `REPLACEMENTS`, in their order."""
    return torch.stack([own, at_mean(own), average.expand_as(own), other, reversed_values(own)])


def derangement(count: int, seed: int) -> Int[Tensor, " {count}"]:
    """Draw a random cyclic permutation, which assigns to each image another image, each once (Sattolo 1986).

    >>> derangement(4, seed=0)
    tensor([1, 3, 0, 2])
    """
    if count < 2:
        raise InputError(f"another image for each needs at least 2 images; got {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter(0, order, order.roll(-1))


class ClassificationScores(NamedTuple):
    """Scores of predictions with each kind of map; NaN for images without a label."""

    correct: _ByMapAndImage  # 1 for a correct prediction, else 0
    cross_entropy: _ByMapAndImage  # nats


def classification_scores(logits: Float[Tensor, "v b classes"], labels: Labels) -> ClassificationScores:
    """Compare logits with labels; the label -1 means unknown.

    >>> classification_scores(torch.zeros(1, 2, 4), torch.tensor([0, -1]))
    ClassificationScores(correct=tensor([[1., nan]]), cross_entropy=tensor([[1.3863,    nan]]))
    """
    logits, unknown = logits.float(), labels < 0
    nats = F.cross_entropy(logits.movedim(2, 1), labels.clamp_min(0).expand(logits.shape[:2]), reduction="none")
    right = (logits.argmax(-1) == labels).float()
    return ClassificationScores(right.masked_fill(unknown, torch.nan), nats.masked_fill(unknown, torch.nan))


class Reliance(NamedTuple):
    """Scores of a network's predictions with each map of `REPLACEMENTS`, and the average map of the images."""

    correct: Float[Tensor, "v n"]
    cross_entropy: Float[Tensor, "v n"]
    average: Float[Tensor, "gh gw"]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return accuracy and cross-entropy (nats) over labelled images by name of the map; empty without labels."""
        if self.correct.isnan().all():
            return {}
        columns = zip(REPLACEMENTS, self.correct, self.cross_entropy, strict=True)
        return {
            name: {"accuracy": estimate(correct.tolist())._asdict(), "cross_entropy": estimate(nats.tolist())._asdict()}
            for name, correct, nats in columns
        }


def reliance(model: IBClassifier, batches: Callable[[], Iterable[tuple[Images, Labels]]], *, seed: int = 0) -> Reliance:
    """Replace the attention of images by each map of `REPLACEMENTS`, in two passes over `batches()`.

    The average map is over all images; `seed` decides which other image's map each image gets. The maps of all images
    are kept in memory. The result does not depend on the batch size. Raises `InputError` for fewer than two images.

    >>> from ibviz.models.config import InputConfig, ModelConfig
    >>> spec = InputConfig(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=tuple("0123456789"))
    >>> images, labels = torch.rand(3, 3, 48, 48), torch.tensor([0, 1, -1])
    >>> reliance(IBClassifier(ModelConfig(anchors=5), spec), lambda: [(images, labels)]).correct.shape
    torch.Size([5, 3])
    """
    with evaluating(model), torch.inference_mode():
        maps = torch.cat([model.inspect(images).attention.values() for images, _ in batches()])
        average, others = mean_map(maps), maps[derangement(len(maps), seed).to(maps.device)]
        parts, begin = [], 0
        for images, labels in batches():
            here = slice(begin, begin + len(images))
            values = replacement_maps(maps[here], average, others[here])
            parts.append(classification_scores(model.with_gate(images, values), labels))
            begin += len(images)
    correct, nats = (torch.cat(columns, dim=1).cpu() for columns in zip(*parts, strict=True))
    return Reliance(correct, nats, average[0].cpu())
