"""Forward passes through a network: images per pass, memory format, precision and gradients.

A batch size means the same everywhere: the largest number of images, changed or not, in one pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.errors import no_gradient_error
from ibviz.heads import Logits
from ibviz.types import Images, Labels

MEMORY_FORMAT = ContextVar("MEMORY_FORMAT", default=torch.channels_last)  # of images that are changed before a pass
PIXELS_PER_PASS = 16 * 224 * 224  # on a CPU, where a larger pass no longer fits into the caches


class DistinctInputs(NamedTuple):
    """The distinct images and classes of a batch, so that no image passes once per target."""

    images: Images
    classes: Labels
    image_index: Labels  # the place in `images` of each image of the batch
    class_index: Labels  # the place in `classes` of each target of the batch


def images_per_pass(images: Images, batch_size: int) -> int:
    """Return the number of changed images per pass: `batch_size`, on a CPU fewer if the images are large.

    >>> images_per_pass(torch.zeros(1, 3, 224, 224), 64), images_per_pass(torch.zeros(1, 3, 32, 32), 64)
    (16, 64)
    """
    if images.device.type != "cpu":
        return batch_size
    return max(1, min(batch_size, PIXELS_PER_PASS // (images.shape[2] * images.shape[3])))


def copies_per_pass(images: Images, batch_size: int) -> int:
    """Return the number of changed copies of every image per pass, at least 1; at most `images_per_pass` in all.

    >>> copies_per_pass(torch.zeros(3, 3, 8, 8), 64)
    21
    """
    return max(1, images_per_pass(images, batch_size) // len(images))


def in_memory_format(planes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return images or features in the current memory format: channels last unless `use_memory_format` says another.

    Most processors convolve large batches fastest with channels last.
    """
    return planes.contiguous(memory_format=MEMORY_FORMAT.get())


@contextmanager
def use_memory_format(memory_format: torch.memory_format) -> Iterator[None]:
    """Make `in_memory_format` return this memory format inside the block."""
    token = MEMORY_FORMAT.set(memory_format)
    try:
        yield
    finally:
        MEMORY_FORMAT.reset(token)


def at_least_float32(values: Tensor) -> Tensor:
    """Return values as float32, or unchanged if their precision is higher: sums in half precision would round.

    >>> at_least_float32(torch.ones(1).half()).dtype, at_least_float32(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def differentiable(images: Images) -> Iterator[Images]:
    """Yield a copy of the images that requires gradients, even under `no_grad` or with frozen weights outside.

    Raises `InputError` if the network cuts the graph inside the block.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield images.clone().detach().requires_grad_()
    except RuntimeError as error:
        if not any(
            sign in str(error) for sign in ("does not require grad", "doesn't require grad", "used in the graph")
        ):
            raise
        raise no_gradient_error() from error


def distinct_inputs(images: Images, targets: Labels) -> DistinctInputs:
    """Return the distinct images and the distinct targets of a batch, with the place of each of its rows in them.

    >>> distinct_inputs(torch.zeros(2, 3, 4, 4), torch.tensor([7, 5])).images.shape
    torch.Size([1, 3, 4, 4])
    """
    unique_images, image_index = images.unique(dim=0, return_inverse=True)
    classes, class_index = targets.unique(return_inverse=True)
    return DistinctInputs(unique_images, classes, image_index, class_index)


@torch.no_grad()
def predict_logits(model: nn.Module, images: Images) -> Logits:
    """Return the logits of images without a graph, in float32 or finer."""
    return at_least_float32(model(in_memory_format(images)))
