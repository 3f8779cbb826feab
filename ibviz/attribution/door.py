"""Checks of what `explain`, `predict` and `evaluate` are given: images, targets and the output of the network.

Arguments become tensors or are refused in one line. Inside `guarded` a network cannot write to the caller's images, its
output is checked, and its own errors are explained.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibviz.arrays import as_tensor
from ibviz.errors import InputError
from ibviz.heads import checked_output
from ibviz.metrics.grid import in_range
from ibviz.models.config import InputConfig
from ibviz.models.gated_network import device_and_dtype_of
from ibviz.models.hooks import replaced_output
from ibviz.types import Given, Images, Labels

GivenTargets = Given | Sequence[int] | int | np.integer[Any]  # one class for all images, or one per image
REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError)  # errors of networks at unfit images
OF_THE_MACHINE = (torch.OutOfMemoryError, torch.AcceleratorError)


def admitted(model: nn.Module, images: Given) -> Images:
    """Return images as a detached tensor after a check that they are `(b, channels, h, w)` in [0, 1].

    NumPy arrays become tensors. Raises `InputError` for another type or number of axes, for bytes, for an empty batch,
    for values outside [0, 1] or NaN, and for another number of channels than the model normalises.

    >>> admitted(nn.Identity(), np.zeros((1, 3, 4, 4), dtype=np.float32)).shape
    torch.Size([1, 3, 4, 4])
    """
    given = as_tensor(images, "images").detach()
    shape = tuple(given.shape)
    if given.ndim != 4:
        way = "; of one image, images[None]" if given.ndim == 3 else ""
        raise InputError(f"images must be a batch (b, channels, h, w); got {shape}{way}")
    if not given.is_floating_point():
        raise InputError(
            f"images must be floating point in [0, 1]; got {_name(given.dtype)}; of bytes, ibviz.data.to_float(images)"
        )
    if given.layout != torch.strided or given.is_meta:
        kind = "meta" if given.is_meta else str(given.layout).removeprefix("torch.")
        raise InputError(f"images must be dense and hold numbers; got a {kind} tensor; images.to_dense()")
    if not given.numel():
        raise InputError(f"expected images of at least one pixel; got {shape}")
    _check_channels(model, shape)
    in_range(given)
    return given


def check_batch(images: Given, batch_size: int) -> None:
    """Raise `InputError` for an empty batch, and for a `batch_size` below 1."""
    count = len(images) if isinstance(images, Tensor | np.ndarray) and images.ndim else 1
    if not count or batch_size < 1:
        raise InputError(f"expected images, and a batch_size of at least 1; got {count} and {batch_size}")


def one_class_each(targets: object, images: Images) -> Labels:
    """Return a copy of the targets on the images' device, one per image; a single number is repeated.

    Raises `InputError` for anything but one whole number per image.

    >>> one_class_each(3, torch.zeros(2, 3, 4, 4))
    tensor([3, 3])
    """
    try:
        given = targets.detach() if isinstance(targets, Tensor) else torch.as_tensor(np.asarray(targets))
    except (TypeError, ValueError) as error:  # a list of lists of different lengths, or of words
        raise InputError(
            f"targets must be whole numbers ({len(images)},), a class for each image, or one for all; "
            f"got {type(targets).__name__}"
        ) from error
    if not isinstance(targets, Tensor) and given.ndim == 0:
        given = given.expand(len(images))
    if given.shape != images.shape[:1] or given.is_floating_point() or given.dtype == torch.bool:
        raise InputError(
            f"targets must be whole numbers ({len(images)},), a class for each image; got {given.dtype} "
            f"{tuple(given.shape)}; for one class of all, targets=3"
        )
    return given.to(images.device, torch.long, copy=True)


@contextmanager
def guarded(model: nn.Module, images: Images) -> Iterator[None]:
    """Give every pass inside the block its own copy of its images, and check that it returns logits.

    An error inside the block becomes an `InputError` if the network fails for the first of `images` alone as well.
    """

    def own(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001 - a hook's signature
        return tuple(part.clone() if isinstance(part, Tensor) else part for part in inputs)

    handle = model.register_forward_pre_hook(own)
    try:
        with replaced_output(model, lambda output: checked_output(output, model)):
            try:
                yield
            except REFUSALS as error:
                _explain_failure(model, images, error)
                if isinstance(error, NotImplementedError):
                    raise InputError(
                        f"{type(model).__name__} computes something that PyTorch cannot do here "
                        f"({str(error).splitlines()[0]}); choose a method without gradients, such as rise"
                    ) from error
                raise
    finally:
        handle.remove()


@torch.no_grad()
def _explain_failure(model: nn.Module, images: Images, error: Exception) -> None:
    """Raise `InputError` with the network's own words if it fails for the plain images too."""
    if isinstance(error, OF_THE_MACHINE):
        return
    try:
        model(images[:1])
    except (InputError, *OF_THE_MACHINE):  # about the output, and explained already
        return
    except REFUSALS as refusal:
        raise InputError(_failure_message(model, images, refusal)) from error


def _failure_message(model: nn.Module, images: Images, refusal: Exception) -> str:
    weights, spec = device_and_dtype_of(model), getattr(model, "spec", None)
    made = f", made for {spec.height_width[0]}x{spec.height_width[1]} pixels" if isinstance(spec, InputConfig) else ""
    last = "; channels come before rows: images.permute(0, 3, 1, 2)" if images.shape[3] <= 4 < images.shape[1] else ""
    said = str(refusal).strip().splitlines() or [type(refusal).__name__]
    return (
        f"{type(model).__name__} (weights {_name(weights.dtype)} on {weights.device}{made}) cannot take images "
        f"{tuple(images.shape)}, {_name(images.dtype)} on {images.device}: {said[0]}{last}"
    )


def _check_channels(model: nn.Module, shape: tuple[int, ...]) -> None:
    spec = getattr(model, "spec", None)
    if not isinstance(spec, InputConfig) or shape[1] == len(spec.mean):
        return
    last = "; channels come before rows: images.permute(0, 3, 1, 2)" if shape[3] == len(spec.mean) else ""
    raise InputError(f"this model takes images of {len(spec.mean)} channels; got {shape}{last}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
