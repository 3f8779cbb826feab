"""Batches of images on the model's device, for the studies of this package."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ibviz.data.image_set import ImageSet, to_float
from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.progress import progress
from ibviz.types import Images

ImageIndices = Int[Tensor, " b"]


def index_batches(images: ImageSet, batch_size: int, label: str) -> Iterator[ImageIndices]:
    """Yield the indices of the images of each batch, with a progress bar.

    >>> images = ImageSet(torch.zeros(3, 3, 1, 1, dtype=torch.uint8), torch.zeros(3).long(), ("a",), tuple("xyz"))
    >>> list(index_batches(images, 2, "count"))
    [tensor([0, 1]), tensor([2])]
    """
    parts = torch.arange(len(images.labels)).split(batch_size)
    yield from progress(parts, label, total=len(parts))


def images_at(images: ImageSet, indices: ImageIndices, model: nn.Module) -> Images:
    """Return the images at `indices`, in [0, 1], on the model's device."""
    return to_float(images.images[indices].to(next(model.parameters()).device))


def require_attention(model: nn.Module) -> IBClassifier:
    """Return the model; raise `InputError` if it has no trained attention."""
    if not isinstance(model, IBClassifier):
        raise InputError(
            f"{type(model).__name__} has no trained attention; expected a run of `ibviz train`, or a "
            "network that `ibviz.attach` gave one"
        )
    return model
