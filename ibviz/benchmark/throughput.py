"""A short trial that finds the batch size and memory format at which a network is fastest; results are remembered."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ibviz.metrics.protocol import CurveProtocol
from ibviz.types import Grid, Images

BATCHES = {"cpu": (4, 16, 64)}  # on a CPU the largest batch is rarely the fastest
OTHER_BATCHES = (16, 64, 256)  # on other devices
TRIALS = 2
LONGEST_TRIAL = 0.3  # seconds; a batch that takes longer is timed only once, and no larger one is tried
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Pace(NamedTuple):
    """Batch size and memory format of a network, with the time that an image takes."""

    batch_size: int
    memory_format: str  # a key of `MEMORY_FORMATS`
    seconds: float  # per image


_KNOWN: "WeakKeyDictionary[nn.Module, dict[tuple[torch.device, tuple[int, ...], str], Pace]]" = WeakKeyDictionary()


def fastest(
    network: nn.Module, size: Grid, device: torch.device, *, precision: str = "float32", channels: int = 3
) -> Pace:
    """Return the fastest of a few batch sizes in both memory formats; each combination of arguments is tried once.

    The trial takes a second or two on a CPU. Its outcome changes the speed and the last bits of a score, never a
    ranking.

    Args:
        network: A network in eval mode; its memory format is restored.
        size: Rows and columns of the images, in pixels.
        device: The device that holds the network.
        precision: "bfloat16" for passes under autocast.
        channels: The number of channels of an image.

    >>> fastest(nn.Conv2d(3, 1, 1), (8, 8), torch.device("cpu")).batch_size in BATCHES["cpu"]
    True
    """
    known = _KNOWN.setdefault(network, {})
    shape = (channels, *size)
    key = (device, shape, precision)
    if key not in known:
        known[key] = min(
            (pace for name in MEMORY_FORMATS for pace in _paces(network, shape, device, name, precision)),
            key=lambda pace: pace.seconds,
        )
    return known[key]


@contextmanager
def in_format(network: nn.Module, name: str | None) -> Iterator[None]:
    """Keep the network's weights in a memory format inside the block; None leaves them as they are."""
    if name is None:
        yield
        return
    weights = [weight for weight in network.parameters() if weight.dim() == 4]
    before = [MEMORY_FORMATS["contiguous" if weight.is_contiguous() else "channels_last"] for weight in weights]
    with torch.inference_mode(False):  # weights copied in inference mode could never be trained again
        network.to(memory_format=MEMORY_FORMATS[name])
    try:
        yield
    finally:
        with torch.inference_mode(False):
            for weight, wanted in zip(weights, before, strict=True):
                weight.data = weight.data.contiguous(memory_format=wanted)


@contextmanager
def at_best_pace(model: nn.Module, images: Images, protocol: CurveProtocol) -> Iterator[tuple[Images, CurveProtocol]]:
    """Yield the images and the protocol in the memory format and with the batch size at which the network is fastest.

    If the protocol has a batch size, images and protocol stay as they are. The network must be in eval mode.
    """
    if protocol.batch_size is not None:
        yield images, protocol
        return
    _, channels, rows, columns = images.shape
    pace = fastest(model, (rows, columns), images.device, precision=protocol.precision, channels=channels)
    with in_format(model, pace.memory_format):
        yield (
            images.contiguous(memory_format=MEMORY_FORMATS[pace.memory_format]),
            protocol.model_copy(update={"batch_size": pace.batch_size}),
        )


def _paces(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, name: str, precision: str
) -> Iterator[Pace]:
    with in_format(network, name):
        for batch_size in BATCHES.get(device.type, OTHER_BATCHES):
            images = torch.rand(batch_size, *shape, device=device).contiguous(memory_format=MEMORY_FORMATS[name])
            try:
                seconds = _seconds(network, images, precision)
            except torch.OutOfMemoryError:
                break
            except RuntimeError:
                if name == "contiguous":
                    raise
                break  # a network that calls `view` on its features may not run in the other format
            yield Pace(batch_size, name, seconds / batch_size)
            if seconds > LONGEST_TRIAL:
                break


@torch.no_grad()
def _seconds(network: nn.Module, images: Images, precision: str) -> float:
    """Return the shortest time of a few passes, after a first one for the setup."""
    _pass(network, images, precision)
    least = math.inf
    for _ in range(TRIALS):
        least = min(least, _pass(network, images, precision))
        if least > LONGEST_TRIAL:
            break
    return least


def _pass(network: nn.Module, images: Images, precision: str) -> float:
    _finish(images.device)
    begun = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        network(images)
    _finish(images.device)
    return time.perf_counter() - begun


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
