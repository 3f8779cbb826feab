"""How images pass through a network: how many together, in which layout and precision, and with gradients.

A batch size means the same everywhere: the most images, changed or not, in one pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ibviz.errors import no_gradient_error
from ibviz.types import Images

Count = Annotated[int, Field(ge=1)]
LAYOUT = ContextVar("LAYOUT", default=torch.channels_last)  # of images that are changed before a pass
PIXELS_A_PASS = 16 * 224 * 224  # on a processor, whose caches more would spill out of


def rows_a_pass(images: Images, batch_size: int) -> int:
    """Changed images that go through the network together: at most `batch_size`, fewer large ones on a processor.

    >>> rows_a_pass(torch.zeros(1, 3, 224, 224), 64), rows_a_pass(torch.zeros(1, 3, 32, 32), 64)
    (16, 64)
    """
    if images.device.type != "cpu":
        return batch_size
    return max(1, min(batch_size, PIXELS_A_PASS // (images.shape[2] * images.shape[3])))


def copies_a_pass(images: Images, batch_size: int) -> int:
    """Changed copies of every image that go through the network together: `rows_a_pass` in all, or one each.

    >>> copies_a_pass(torch.zeros(3, 3, 8, 8), 64)
    21
    """
    return max(1, rows_a_pass(images, batch_size) // len(images))


def laid_out(planes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images or features, laid out as convolutions read many of them fastest on most processors, or `in_layout`."""
    return planes.contiguous(memory_format=LAYOUT.get())


@contextmanager
def in_layout(layout: torch.memory_format) -> Iterator[None]:
    """Inside the block, `laid_out` gives this memory format."""
    token = LAYOUT.set(layout)
    try:
        yield
    finally:
        LAYOUT.reset(token)


def fine(values: Tensor) -> Tensor:
    """In float32, or as they are where finer: sums of half-precision numbers would round.

    >>> fine(torch.ones(1).half()).dtype, fine(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def differentiable(images: Images) -> Iterator[Images]:
    """A copy of the images through which gradients flow, whatever holds outside and even where weights are frozen.

    Inside the block, a graph that is cut becomes an `InputError`.
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
