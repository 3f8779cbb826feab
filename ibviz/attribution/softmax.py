"""Every softmax attention of a pass, seen where PyTorch computes it, whichever module asks, and what it is used for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from ibviz.errors import InputError

WAY_OUT = "choose a method that does not read attention, such as grad_cam, integrated_gradients or rise"
LAYOUT = ("View", "UnsafeView", "ReshapeAlias", "Expand", "Unsqueeze", "Squeeze", "Clone", "ToCopy", "Alias")
TURNS = ("Permute", "Transpose", "T")
SOFTMAX = (torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default)


class Softmaxes(TorchDispatchMode):
    """Keeps what every softmax over the last of at least three axes takes and gives, or puts another in its place."""

    def __init__(self, replace: Callable[[Tensor, int], Tensor] | None = None) -> None:
        """Give `replace` each softmax and its number in the pass, and go on with what it returns."""
        super().__init__()
        self.replace = replace
        self.seen: list[Tensor] = []
        self.asked: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation of PyTorch, and keep what it gives if it is such a softmax."""
        result = func(*args, **(kwargs or {}))
        if func in SOFTMAX and result.ndim > 2 and args[1] in (-1, result.ndim - 1):
            if self.replace is not None:
                result = self.replace(result, len(self.seen))
            self.asked.append(args[0])
            self.seen.append(result)  # autograd makes this very tensor part of its graph afterwards
        return result


@contextmanager
def spelled_out() -> Iterator[None]:
    """Inside the block, PyTorch computes attention step by step: fused kernels never form its weights."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block, what every softmax over the last of at least three axes gives, in the order of the pass.

    Fused kernels, which never form it, are switched off inside the block and on again after it.

    >>> with recorded_attention(nn.Identity()) as seen:
    ...     _ = nn.functional.scaled_dot_product_attention(*torch.rand(3, 1, 2, 5, 4))
    >>> [tuple(one.shape) for one in seen]
    [(1, 2, 5, 5)]
    """
    del model  # whatever runs inside the block is seen, and it is this network
    with spelled_out(), Softmaxes() as mode:
        yield mode.seen


def by_heads(attention: Tensor, count: int) -> Float[Tensor, "*b q k"]:
    """Attention of `count` images as `(b, heads, q, k)`, also where images and heads, or images alone, share an axis.

    >>> by_heads(torch.zeros(6, 5, 5), 2).shape, by_heads(torch.zeros(1, 2, 5, 5), 2).shape
    (torch.Size([2, 3, 5, 5]), torch.Size([2, 1, 5, 5]))
    """
    if attention.ndim == 4 and len(attention) == 1 < count:
        attention = attention[0]
    joined = attention.ndim == 3 and len(attention) % count == 0
    return attention.unflatten(0, (count, -1)) if joined else attention


Place = tuple[Any, int]  # a node of a graph, and which of its results
Readers = dict[Any, list[tuple[Any, int]]]  # of each node of a graph, those that read its result, as which operand


def readers_in(result: Tensor, without: Any = None) -> Readers:
    """The graph of a result, read forwards; `without` one node and what only it reads."""
    readers: Readers = {result.grad_fn: []}
    waiting: list[Any] = [result.grad_fn]
    while waiting:
        node = waiting.pop()
        for place, (source, _) in enumerate(node.next_functions):
            if source is None or source is without:
                continue
            if source not in readers:
                readers[source] = []
                waiting.append(source)
            readers[source].append((node, place))
    return readers


def product_of(softmax: Tensor, readers: Readers) -> Any:
    """The node of the product in which a softmax mixes its values; None if nothing reads it.

    Raises `InputError` for a softmax that enters the result in another way than as the left operand of one product.
    """
    if softmax.grad_fn not in readers:
        raise InputError(
            f"this network has an attention of shape {tuple(softmax.shape)} that no gradient passes, and "
            f"which can therefore not be followed to the output; {WAY_OUT}"
        )
    waiting, products, others = [softmax.grad_fn], [], set()
    while waiting:
        for reader, place in readers.get(waiting.pop(), []):
            if _kind(reader) in LAYOUT:
                waiting.append(reader)
            elif _kind(reader) == "Bmm" and place == 0:
                products.append(reader)
            else:
                others.add(_kind(reader))
    if others or len(products) > 1:
        raise InputError(
            "this network changes attention after its softmax, or uses it twice, as talking heads, "
            f"differential attention and gates do (shape {tuple(softmax.shape)}, read by "
            f"{', '.join(sorted(others)) or 'products'}), so that softmax does not say how tokens are "
            f"mixed; {WAY_OUT}"
        )
    return products[0] if products else None


def values_of(product: Any) -> Place:
    """Where in the graph the values are that a product of attention mixes."""
    return _source(product.next_functions[1])


def passes_by(images: Tensor, result: Tensor, through: Any) -> bool:
    """Whether images, a leaf of the graph, reach a result by another way than through one of its nodes."""
    return any(getattr(node, "variable", None) is images for node in readers_in(result, without=through))


def _kind(node: Any) -> str:
    return node.name().rstrip("0123456789").removesuffix("Backward")


def _source(place: Place) -> Place:
    """Where in the graph that was computed which is only laid out anew at a place."""
    while place[0] is not None and _kind(place[0]) in (*LAYOUT, *TURNS):
        place = place[0].next_functions[0]
    return place
