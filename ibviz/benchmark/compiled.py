"""The forward pass of a network as compiled code: it takes time to compile, and saves some in each pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ibviz.heads import Logits
from ibviz.progress import tell
from ibviz.types import MACHINE_ERRORS, Images

Forward = Callable[[Images], Logits]
_OPTIONS: dict[str, dict[str, Any]] = {"cpu": {"freezing": True}, "cuda": {"freezing": True, "triton.cudagraphs": True}}
_TOLERANCE = 1e-3  # of the largest logit, by which compiled code may differ


class CompiledForward:
    """The forward pass of a network, compiled for passes of `size` images; more are split, and fewer filled up.

    The weights become constants of the code, with batch norms folded into convolutions.
    """

    def __init__(self, network: nn.Module, images: Images, size: int) -> None:
        """Prepare code for images on the device and in the memory format of these; the first call compiles it."""
        self.head = getattr(network, "head", None)
        self.size = size
        self.memory_format = torch.contiguous_format if images.is_contiguous() else torch.channels_last
        self._run: Any = torch.compile(network, dynamic=False, options=_OPTIONS.get(images.device.type, {}))

    def __call__(self, images: Images) -> Logits:
        """Return the logits of images, without a graph."""
        return torch.cat([self._pass(part) for part in images.split(self.size)])

    def _pass(self, images: Images) -> Logits:
        filled = torch.cat([images, images[-1:].expand(self.size - len(images), -1, -1, -1)])
        logits = self._run(filled.contiguous(memory_format=self.memory_format))
        return logits[: len(images)].clone()  # the next pass of a CUDA graph writes to the same memory


@contextmanager
def compiled(network: nn.Module, images: Images, size: int) -> Iterator[Forward | None]:
    """Yield the compiled forward pass of a network in eval mode; None, and a sentence, if it cannot be compiled.

    The weights must not change inside the block. The images pass the compiled code and the network, and code that gives
    other logits is not used.

    Args:
        network: The network.
        images: Images like those of the passes to come.
        size: The number of images per pass.
    """
    forward, some = CompiledForward(network, images, size), images[:size]
    try:
        with torch.inference_mode():
            expected, got = network(some), forward(some)
        difference = float((got - expected).abs().max() / expected.abs().max())
    except MACHINE_ERRORS:
        raise
    except Exception as error:  # the compiler documents no errors of its own
        cause = getattr(error, "inner_exception", error)
        reason = " ".join([f"{type(cause).__name__}:", *str(cause).strip().splitlines()[:1]])
        tell(f"{type(network).__name__} cannot be compiled, and runs as it is: {reason}")
        yield None
        return
    if not difference <= _TOLERANCE:
        tell(f"{type(network).__name__} gives other logits when compiled ({difference:.1%} off), and runs as it is")
        yield None
        return
    yield forward
