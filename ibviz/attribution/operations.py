"""What a pass computes, operation by operation, and gradients that cross activations by another rule.

Operations are looked at, not modules: `F.relu`, `x.mean((2, 3))` and a module that runs twice count as what they
compute. A step is a non-linear operation whose input is kept; the other operations of a pass are known by name.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ibviz.errors import InputError
from ibviz.models.classifier import Normalize
from ibviz.models.hooks import replaced_output
from ibviz.types import Images

# One number in, one number out.
ACTIVATIONS = {
    "abs",
    "celu",
    "clamp",
    "clamp_max",
    "clamp_min",
    "cos",
    "elu",
    "erf",
    "exp",
    "gelu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log",
    "log1p",
    "mish",
    "pow",
    "prelu_kernel",
    "reciprocal",
    "relu",
    "rsqrt",
    "selu",
    "sigmoid",
    "silu",
    "sin",
    "softplus",
    "softshrink",
    "sqrt",
    "tanh",
    "threshold",
}
POOLS = frozenset({"max_pool2d_with_indices", "adaptive_max_pool2d"})  # the largest number of a window, and its place
LARGEST = frozenset({"Amax", "Max", "MaxPool3DWithIndices"})  # those of which no step is kept
# Linear in all of their tensors.
SUMS = {
    "AdaptiveAvgPool2D",
    "AdaptiveAvgPool3D",
    "Add",
    "Alias",
    "AsStrided",
    "AvgPool1D",
    "AvgPool2D",
    "AvgPool3D",
    "Cat",
    "Clone",
    "ConstantPadNd",
    "Copy",
    "Cumsum",
    "Diagonal",
    "Expand",
    "Flip",
    "Gather",
    "Im2Col",
    "Index",
    "IndexSelect",
    "MaskedFill",
    "Mean",
    "MkldnnAdaptiveAvgPool2D",
    "Neg",
    "Permute",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad1D",
    "ReflectionPad2D",
    "Repeat",
    "ReplicationPad1D",
    "ReplicationPad2D",
    "ReshapeAlias",
    "Roll",
    "Rsub",
    "Select",
    "Slice",
    "Split",
    "SplitWithSizes",
    "Squeeze",
    "Stack",
    "Sub",
    "Sum",
    "T",
    "ToCopy",
    "Transpose",
    "Unbind",
    "Unfold",
    "UnsafeSplit",
    "UnsafeView",
    "Unsqueeze",
    "UpsampleBicubic2D",
    "UpsampleBilinear2D",
    "UpsampleLinear1D",
    "UpsampleNearest1D",
    "UpsampleNearest2D",
    "UpsampleNearestExact2D",
    "View",
    "Where",
}
# Linear in each of their tensors alone.
PRODUCTS = {
    "Bmm",
    "Convolution",
    "CudnnConvolution",
    "Dot",
    "Linear",
    "MiopenConvolution",
    "MkldnnConvolution",
    "MkldnnLinear",
    "Mm",
    "Mul",
    "Mv",
}
# The same, added to the first tensor.
ADDED = {
    "Addbmm",
    "Addcmul",
    "Addmm",
    "Addmv",
    "Addr",
    "Baddbmm",
}
BATCH_NORMS = frozenset({"CudnnBatchNorm", "MiopenBatchNorm", "NativeBatchNorm"})
WITHOUT_DATA = re.compile(r"^new_|_like$")  # operations that take no more than a tensor's shape
HIDING = frozenset({"Abs", "CopySlices", "Maximum", "Minimum"})  # a ReLU may be written with them
STRAIGHT = frozenset({"add", "sub"})  # how a value stands in for another whose gradient it takes


class Step(NamedTuple):
    """A non-linear operation of a pass: what it computes, and a copy of the tensor that it was given."""

    name: str
    compute: Callable[[Tensor], Any]
    before: Tensor

    def after(self) -> Tensor:
        """The operation's result; of a pool that gives places too, the largest numbers."""
        result = self.compute(self.before)
        return result[0] if self.name in POOLS else result


class Pass(NamedTuple):
    """One pass of images through a network, with what is needed for other gradients than the plain one."""

    output: Tensor
    images: Images
    normalized: Tensor  # the images after the network's own normalisation, where it has one
    steps: list[Step]  # in the order in which they ran
    places: dict[tuple[int, str], int]  # of a step, by the number and the name of its node in the graph
    unseen: frozenset[str]  # operations at which a value from the images enters that carries no gradient


Node = Any  # of a graph of torch.autograd
Rule = Callable[[int, Step, Tensor, Tensor], Tensor]  # place, step, gradient behind it, plain one before it → another


class _Recorder(TorchDispatchMode):
    """Inside this `with`, the steps of a pass, and the operations that mix what gradients see with what they do not."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.places: dict[tuple[int, str], int] = {}
        self.unseen: set[str] = set()
        self._from_images = WeakIdKeyDictionary({images: None})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, number = func.overloadpacket.__name__.strip("_"), torch.autograd._get_sequence_nr() - 1  # pyright: ignore[reportPrivateImportUsage]
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        used = [tensor for tensor in tensors if tensor in self._from_images]
        if name in ACTIVATIONS | POOLS and len(used) == 1 and args and used[0] is args[0]:
            for of_node in (number, number - 1):  # a copy of what is overwritten may have come between
                self.places.setdefault((of_node, _plain(name)), len(self.steps))
            self.steps.append(Step(name, _out_of_place(func, args[1:], kwargs or {}), args[0].clone()))
        if len({tensor.requires_grad for tensor in used}) == 2:
            self.unseen.add(name)
        result = func(*args, **(kwargs or {}))
        if used and not WITHOUT_DATA.search(name):
            self._from_images.update({one: None for one in tree_leaves(result) if isinstance(one, Tensor)})
        return result


def recorded(network: nn.Module, images: Images) -> Pass:
    """Run a network on images that need gradients and keep its steps."""
    normalized = [images]

    def keep(output: Tensor) -> Tensor:
        normalized.append(output)
        return output

    first = next((module for module in network.modules() if isinstance(module, Normalize)), nn.Identity())
    with _Recorder(images) as seen, replaced_output(first, keep):
        output = network(images)
    if output.grad_fn is None:
        raise RuntimeError("the output does not require grad")
    return Pass(output, images, normalized[-1], seen.steps, seen.places, frozenset(seen.unseen))


def changed_gradient(run: Pass, score: Tensor, rule: Rule, source: Tensor) -> Tensor:
    """Gradient of a score with respect to a tensor of the pass, where every step passes on what `rule` says."""
    for node in reached(run):
        if (place := step_of(run, node)) is not None:
            node.register_hook(partial(_follow, rule, place, run.steps[place]))
    return torch.autograd.grad(score, source)[0]


def reached(run: Pass) -> dict[Node, list[int]]:
    """Nodes of the graph between the output and the images, each with the numbers of its inputs that come from them."""
    known: dict[Node, list[int]] = {}
    stack: list[Node] = [run.output.grad_fn]
    while stack:
        node = stack[-1]
        parents = [parent for parent, _ in node.next_functions]
        waiting = [parent for parent in parents if parent is not None and parent not in known]
        stack.extend(waiting)
        if not waiting:
            known[stack.pop()] = [place for place, parent in enumerate(parents) if parent is not None and known[parent]]
            if getattr(node, "variable", None) is run.images:
                known[node] = [0]
    return {node: inputs for node, inputs in known.items() if inputs and not hasattr(node, "variable")}


def step_of(run: Pass, node: Node) -> int | None:
    """Place of the step that a node stands for, if it does."""
    return None if is_opaque(node) else run.places.get((node._sequence_nr(), _plain(name_of(node))))


def name_of(node: Node) -> str:
    """Name of the operation behind a node, as in `AddBackward0`, without its ending."""
    return re.sub(r"Backwards?\d*$", "", node.name().removeprefix("torch::autograd::"))


def is_opaque(node: Node) -> bool:
    """Whether a node is somebody's own function, whose inner operations the graph does not show."""
    return isinstance(node, BackwardCFunction) or "::" in node.name().removeprefix("torch::autograd::")


def is_linear(node: Node, inputs: list[int]) -> bool:
    """Whether an operation is linear, but for a constant, in what comes from the images."""
    name = name_of(node)
    if is_opaque(node):
        return False
    if name in BATCH_NORMS:
        return inputs == [0] and not getattr(node, "_saved_training", False)
    factors = [place for place in inputs if place > 0] if name in ADDED else inputs
    return name in SUMS or (name in PRODUCTS | ADDED and len(factors) <= 1) or (name == "Div" and inputs == [0])


def without_rule(run: Pass, has_rule: Callable[[Step], bool], *, also: Collection[str] = ()) -> list[str]:
    """Operations between images and output that are neither linear, nor in `also`, nor steps with a rule."""
    unknown = []
    for node, inputs in reached(run).items():
        place = step_of(run, node)
        ruled = name_of(node) in also if place is None else has_rule(run.steps[place])
        if not ruled and not is_linear(node, inputs):
            unknown.append(_described(node))
    return unknown + _unseen(run.unseen)


def may_hide_relus(run: Pass) -> list[str]:
    """Operations between images and output that may act as a ReLU and are none that the graph shows."""
    hiding = [_described(node) for node in reached(run) if is_opaque(node) or name_of(node) in HIDING]
    return hiding + _unseen(run.unseen - STRAIGHT)


def steps_reached(run: Pass) -> set[int]:
    """Places of the steps that lie between images and output."""
    return {place for node in reached(run) if (place := step_of(run, node)) is not None}


def refuse(method: str, operations: list[str], way_out: str) -> None:
    """Raise `InputError` where there are operations for which a method has no rule."""
    if operations:
        raise InputError(
            f"{method} does not fit this network: it has no rule for some of what is computed between "
            f"image and logits ({'; '.join(sorted(set(operations)))}); {way_out}"
        )


@contextmanager
def in_full_precision(device: torch.device) -> Iterator[None]:
    """Inside the block, no autocast, and GPUs multiply float32 numbers as such, so that sums can be checked."""
    backends = cast(Any, torch.backends.cudnn).conv, cast(Any, torch.backends.cuda).matmul
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _described(node: Node) -> str:
    name = name_of(node)
    if name in BATCH_NORMS:
        return f"{name} over the statistics of the batch"
    if name in PRODUCTS | ADDED:
        return f"{name} of activations with each other"
    return f"{name}, a function of its own" if is_opaque(node) else name


def _unseen(names: Iterable[str]) -> list[str]:
    return [f"{name} with a value of the images that carries no gradient" for name in names]


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _out_of_place(func: Any, others: Any, options: dict[str, Any]) -> Callable[[Tensor], Any]:
    """The operation as a function of its first tensor, which it leaves as it is."""
    return lambda before: func(before.clone(), *others, **options)


def _follow(rule: Rule, place: int, step: Step, before: Any, behind: Any) -> Any:
    if behind[0] is None or before[0] is None:  # cut off on the way
        return before
    return (rule(place, step, behind[0], before[0]), *before[1:])
