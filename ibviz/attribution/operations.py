"""Recording of the operations of a pass, and gradients that cross activations by another rule.

It looks at operations, not at modules: `F.relu`, `x.mean((2, 3))` and a module that runs twice are treated by what they
compute. A step is a non-linear operation whose input is recorded; other operations are known by their names.
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

from ibviz.attribution.operation_names import (
    ACTIVATIONS,
    BATCH_NORMS,
    BILINEAR,
    BILINEAR_WITH_SUM,
    LINEAR,
    MAX_POOLS,
    MAY_HIDE_RELU,
    STRAIGHT_THROUGH,
    WITHOUT_DATA,
)
from ibviz.errors import InputError
from ibviz.models.classifier import Normalize
from ibviz.models.hooks import replaced_output
from ibviz.types import Images


class RecordedStep(NamedTuple):
    """A non-linear operation of a pass, as a function, and a copy of its input."""

    name: str
    compute: Callable[[Tensor], Any]
    before: Tensor
    alone: bool  # no other tensor takes part, such as the slopes of a PReLU

    def after(self) -> Tensor:
        """Return the operation's result; for a max pool the maxima without their places."""
        result = self.compute(self.before)
        return result[0] if self.name in MAX_POOLS else result

    def value_at(self, number: float) -> Tensor:
        """Return the results of an activation where its input is `number`; a single one if it takes no other tensor."""
        return self.compute(self.before.new_full((1,) if self.alone else self.before.shape, number))


class Pass(NamedTuple):
    """A recorded pass of images through a network, from which modified gradients are computed."""

    output: Tensor
    images: Images
    normalized: Tensor  # the images after the network's own normalisation, or as they are if it has none
    steps: list[RecordedStep]  # in the order in which they ran
    places: dict[tuple[int, str], int]  # the place of a step in `steps`, by number and name of its node in the graph
    unseen: frozenset[str]  # operations that also take a value computed from the images without a gradient


Node = Any  # a node of a graph of torch.autograd
# Place of the step, step, gradient of its output, plain gradient of its input → modified gradient of its input.
Rule = Callable[[int, RecordedStep, Tensor, Tensor], Tensor]


class _Recorder(TorchDispatchMode):
    """Records the steps of a pass, and the operations that mix values with and without a gradient of the images."""

    def __init__(self, images: Images, values: bool) -> None:
        super().__init__()
        self._values = values
        self.steps: list[RecordedStep] = []
        self.places: dict[tuple[int, str], int] = {}
        self.unseen: set[str] = set()
        self._from_images = WeakIdKeyDictionary({images: None})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, number = func.overloadpacket.__name__.strip("_"), torch.autograd._get_sequence_nr() - 1  # pyright: ignore[reportPrivateImportUsage]
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        used = [tensor for tensor in tensors if tensor in self._from_images]
        if name in ACTIVATIONS | MAX_POOLS and len(used) == 1 and args and used[0] is args[0]:
            for node_number in (number, number - 1):  # a copy of an overwritten tensor may take a number in between
                self.places.setdefault((node_number, _plain(name)), len(self.steps))
            before = args[0].clone() if self._values else args[0].new_zeros(()).expand(args[0].shape)
            compute = _out_of_place(func, args[1:], kwargs or {})
            self.steps.append(RecordedStep(name, compute, before, alone=len(tensors) == 1))
        if len({tensor.requires_grad for tensor in used}) == 2:
            self.unseen.add(name)
        result = func(*args, **(kwargs or {}))
        if used and not WITHOUT_DATA.search(name):
            self._from_images.update({leaf: None for leaf in tree_leaves(result) if isinstance(leaf, Tensor)})
        return result


def record_pass(network: nn.Module, images: Images, *, values: bool = True) -> Pass:
    """Run a network on images that require gradients and record its steps; without `values` their inputs are zeros."""
    normalized = [images]

    def keep(output: Tensor) -> Tensor:
        normalized.append(output)
        return output

    first = next((module for module in network.modules() if isinstance(module, Normalize)), nn.Identity())
    with _Recorder(images, values) as seen, replaced_output(first, keep):
        output = network(images)
    if output.grad_fn is None:
        raise RuntimeError("the output does not require grad")
    return Pass(output, images, normalized[-1], seen.steps, seen.places, frozenset(seen.unseen))


def modified_gradient(run: Pass, score: Tensor, rule: Rule, source: Tensor) -> Tensor:
    """Return the gradient of a score with respect to a tensor of the pass, with `rule` applied at every step.

    Args:
        run: The pass.
        score: A number computed from its output.
        rule: A function of the place of a step, the step, the gradient of its output and the plain gradient of its
            input; it returns the gradient to use for its input.
        source: The tensor of the pass.
    """
    for node in nodes_reached(run):
        if (place := step_of(run, node)) is not None:
            node.register_hook(partial(_follow, rule, place, run.steps[place]))
    return torch.autograd.grad(score, source)[0]


def nodes_reached(run: Pass) -> dict[Node, list[int]]:
    """Return the nodes of the graph between output and images, each with the numbers of its inputs from the images."""
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
    """Return the place of the step that a node belongs to, or None."""
    return None if is_custom_function(node) else run.places.get((node._sequence_nr(), _plain(name_of(node))))


def name_of(node: Node) -> str:
    """Return the name of a node's operation: "Add" for `AddBackward0`."""
    return re.sub(r"Backwards?\d*$", "", node.name().removeprefix("torch::autograd::"))


def is_custom_function(node: Node) -> bool:
    """Return True for a custom autograd function, whose inner operations the graph does not show."""
    return isinstance(node, BackwardCFunction) or "::" in node.name().removeprefix("torch::autograd::")


def is_linear(node: Node, inputs: list[int]) -> bool:
    """Return True if an operation is affine in its inputs from the images."""
    name = name_of(node)
    if is_custom_function(node):
        return False
    if name in BATCH_NORMS:
        return inputs == [0] and not getattr(node, "_saved_training", False)
    factors = [place for place in inputs if place > 0] if name in BILINEAR_WITH_SUM else inputs
    return (
        name in LINEAR
        or (name in BILINEAR | BILINEAR_WITH_SUM and len(factors) <= 1)
        or (name == "Div" and inputs == [0])
    )


def operations_without_rule(
    run: Pass, has_rule: Callable[[RecordedStep], bool], *, also: Collection[str] = ()
) -> list[str]:
    """Return the operations between images and output that are neither linear, nor in `also`, nor steps with a rule."""
    unknown = []
    for node, inputs in nodes_reached(run).items():
        place = step_of(run, node)
        ruled = name_of(node) in also if place is None else has_rule(run.steps[place])
        if not ruled and not is_linear(node, inputs):
            unknown.append(_described(node))
    return unknown + _unseen(run.unseen)


def operations_hiding_relus(run: Pass) -> list[str]:
    """Return the operations between images and output that may act as a ReLU without being recorded as one."""
    hiding = [
        _described(node) for node in nodes_reached(run) if is_custom_function(node) or name_of(node) in MAY_HIDE_RELU
    ]
    return hiding + _unseen(run.unseen - STRAIGHT_THROUGH)


def steps_reached(run: Pass) -> set[int]:
    """Return the places of the steps between images and output."""
    return {place for node in nodes_reached(run) if (place := step_of(run, node)) is not None}


def refuse_operations(method: str, operations: list[str], way_out: str) -> None:
    """Raise `InputError` if there are operations for which a method has no rule."""
    if operations:
        raise InputError(
            f"{method} does not fit this network: it has no rule for some of what is computed between "
            f"image and logits ({'; '.join(sorted(set(operations)))}); {way_out}"
        )


@contextmanager
def in_full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast and TF32 off inside the block, so that sums can be checked."""
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
    if name in BILINEAR | BILINEAR_WITH_SUM:
        return f"{name} of activations with each other"
    return f"{name}, a function of its own" if is_custom_function(node) else name


def _unseen(names: Iterable[str]) -> list[str]:
    return [f"{name} with a value of the images that carries no gradient" for name in names]


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _out_of_place(func: Any, others: Any, options: dict[str, Any]) -> Callable[[Tensor], Any]:
    """Return the operation as a function of its first tensor that does not modify it."""
    return lambda before: func(before.clone(), *others, **options)


def _follow(rule: Rule, place: int, step: RecordedStep, before: Any, behind: Any) -> Any:
    if behind[0] is None or before[0] is None:  # no gradient passes here
        return before
    return (rule(place, step, behind[0], before[0]), *before[1:])
