"""Recording of all softmax attention in a pass, whichever module computes it, and of its use in the graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from ibviz.errors import InputError

WAY_OUT = "choose a method that does not read attention, such as grad_cam, integrated_gradients or rise"
_RESHAPES = ("View", "UnsafeView", "ReshapeAlias", "Expand", "Unsqueeze", "Squeeze", "Clone", "ToCopy", "Alias")
_TRANSPOSES = ("Permute", "Transpose", "T")
_SOFTMAX_OPERATIONS = (torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default)


class Softmaxes(TorchDispatchMode):
    """Records input and output of every softmax over the last of at least three axes, or replaces the output."""

    def __init__(self, replace: Callable[[Tensor, int], Tensor] | None = None) -> None:
        """Keep `replace`, which gets each softmax and its number in the pass and returns the one to use instead."""
        super().__init__()
        self.replace = replace
        self.outputs: list[Tensor] = []
        self.inputs: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation of PyTorch, and record it if it is such a softmax."""
        result = func(*args, **(kwargs or {}))
        if func in _SOFTMAX_OPERATIONS and result.ndim > 2 and args[1] in (-1, result.ndim - 1):
            if self.replace is not None:
                result = self.replace(result, len(self.outputs))
            self.inputs.append(args[0])
            self.outputs.append(result)  # autograd makes this very tensor part of its graph afterwards
        return result


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Switch fused attention kernels off inside the block, since they never compute the attention weights."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def recorded_attention(model: object = None) -> Iterator[list[Tensor]]:  # noqa: ARG001 - as older code passes it
    """Yield a list that receives every softmax over the last of at least three axes, in the order of the pass.

    Fused kernels are off inside the block. Whatever runs there is recorded, so that no `model` need be named.

    >>> with recorded_attention() as attentions:
    ...     _ = torch.nn.functional.scaled_dot_product_attention(*torch.rand(3, 1, 2, 5, 4))
    >>> [tuple(attention.shape) for attention in attentions]
    [(1, 2, 5, 5)]
    """
    with unfused_attention(), Softmaxes() as mode:
        yield mode.outputs


def split_heads(attention: Tensor, count: int) -> Float[Tensor, "*b q k"]:
    """Return the attention of `count` images as `(b, heads, q, k)`, also if images and heads share an axis.

    >>> split_heads(torch.zeros(6, 5, 5), 2).shape, split_heads(torch.zeros(1, 2, 5, 5), 2).shape
    (torch.Size([2, 3, 5, 5]), torch.Size([2, 1, 5, 5]))
    """
    if attention.ndim == 4 and len(attention) == 1 < count:
        attention = attention[0]
    joined = attention.ndim == 3 and len(attention) % count == 0
    return attention.unflatten(0, (count, -1)) if joined else attention


Place = tuple[Any, int]  # a node of a graph and the number of one of its results
Consumers = dict[Any, list[tuple[Any, int]]]  # for each node of a graph, nodes that use its result, as which operand


def consumers_of(result: Tensor, without: Any = None) -> Consumers:
    """Return the consumers of each node in the graph of a result, except of `without` and nodes that only it uses."""
    consumers: Consumers = {result.grad_fn: []}
    waiting: list[Any] = [result.grad_fn]
    while waiting:
        node = waiting.pop()
        for place, (source, _) in enumerate(node.next_functions):
            if source is None or source is without:
                continue
            if source not in consumers:
                consumers[source] = []
                waiting.append(source)
            consumers[source].append((node, place))
    return consumers


def value_product(softmax: Tensor, consumers: Consumers) -> Any:
    """Return the node of the product of a softmax with its values, None if its result is not used.

    Raises `InputError` for a softmax that is used in any way but as the left operand of a single product.
    """
    if softmax.grad_fn not in consumers:
        raise InputError(
            f"this network has an attention of shape {tuple(softmax.shape)} that no gradient passes, and "
            f"which can therefore not be followed to the output; {WAY_OUT}"
        )
    waiting, products, others = [softmax.grad_fn], [], set()
    while waiting:
        for consumer, place in consumers.get(waiting.pop(), []):
            if _kind(consumer) in _RESHAPES:
                waiting.append(consumer)
            elif _kind(consumer) == "Bmm" and place == 0:
                products.append(consumer)
            else:
                others.add(_kind(consumer))
    if others or len(products) > 1:
        raise InputError(
            "this network changes attention after its softmax, or uses it twice, as talking heads, "
            f"differential attention and gates do (shape {tuple(softmax.shape)}, read by "
            f"{', '.join(sorted(others)) or 'products'}), so that softmax does not say how tokens are "
            f"mixed; {WAY_OUT}"
        )
    return products[0] if products else None


def value_source(product: Any) -> Place:
    """Return the place in the graph where the values of an attention product were computed."""
    return _source(product.next_functions[1])


def bypasses(images: Tensor, result: Tensor, through: Any) -> bool:
    """Return True if images, a leaf of the graph, reach a result on a path around the node `through`."""
    return any(getattr(node, "variable", None) is images for node in consumers_of(result, without=through))


def _kind(node: Any) -> str:
    return node.name().rstrip("0123456789").removesuffix("Backward")


def _source(place: Place) -> Place:
    """Return the place in the graph where a tensor was computed, before it was only reshaped or transposed."""
    while place[0] is not None and _kind(place[0]) in (*_RESHAPES, *_TRANSPOSES):
        place = place[0].next_functions[0]
    return place
