"""Changes of a network that are undone after their block: its mode, what a module gives, where gradients start."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import checkpoint

from ibviz.errors import InputError, NoMapError

IN_TRAINING = ("training", "train")  # arguments of operations in an exported graph
CONSTANTS = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::feature_dropout": 2}  # the same, in a traced one
_ALONE = threading.RLock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every module's own mode and weights again after it, also after an error.

    The modes change by `train` and `eval`, in which some layers, as LoRA's, change their weights. One thread at a time
    is inside: hooks, modes and PyTorch's own switches belong to all threads. Raises `InputError` where images of a
    batch would change one another. Outside the network, PyTorch's default dtype is float32 and its default device the
    CPU, as draws depend on them.
    """
    with _ALONE, _kept_buffers(model):
        modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
        kept = _weights_that_modes_change(model) if any(training for _, training in modes) else []
        try:
            for module, _ in modes:  # parents first, which take their children along
                _switch(module, training=False)
            _refuse_training_for_good(model)
            with _float32_by_default(model), _cpu_by_default(model):
                yield
        finally:
            for module, training in modes:
                _switch(module, training=training)
            for module, training in modes:
                module.training = training  # where a `train` of the module's own thinks otherwise
            for weights, before in kept:
                weights.data.copy_(before)


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Inside the block, a network runs as its code says: nothing is compiled, nothing computed again to save memory.

    Compiled code leaves hooks out, and a checkpointed part has no gradients until it is computed again. Raises
    `InputError` for a network that is spread over devices or processes, or whose weights no gradient can pass.
    """
    for module in model.modules():
        spread = isinstance(module, nn.DataParallel) and len(module.device_ids) > 1
        if spread or isinstance(module, nn.parallel.DistributedDataParallel):
            raise InputError(
                f"{type(module).__name__} spreads this network over devices or processes, where hooks and "
                "gradients do not follow; give what it wraps, model.module"
            )
    with ExitStack() as changes:
        if "torch._dynamo" in sys.modules:  # or else nothing is compiled, and the import takes seconds
            changes.enter_context(torch.compiler.set_stance("force_eager"))
        for name, plain in NOT_CHECKPOINTED.items():
            changes.enter_context(_replaced(checkpoint, name, plain))
        try:
            yield
        except RuntimeError as error:
            if "Inference tensors cannot" not in str(error):
                raise
            raise InputError(
                "this network's weights were made or loaded under torch.inference_mode, and no gradient "
                "passes them; make it outside, or copy its weights to another"
            ) from error


class _CalledAsIs:
    """In the place of `torch.utils.checkpoint.CheckpointFunction`."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *inputs: Any) -> Any:  # noqa: ARG004 - its signature
        return function(*inputs)


def _nothing_around(*_: Any, **__: Any) -> Iterator[None]:
    """In the place of the generator whose two halves PyTorch runs before and after a checkpointed part."""
    yield


NOT_CHECKPOINTED: dict[str, Any] = {
    "CheckpointFunction": _CalledAsIs,  # use_reentrant=True
    "_checkpoint_without_reentrant_generator": _nothing_around,  # use_reentrant=False, by PyTorch's version
    "_checkpoint_without_reentrant_generator_impl": _nothing_around,
}


def is_sealed(module: nn.Module) -> bool:
    """Whether a module is scripted, traced or exported: it runs as a whole, and its parts cannot be watched."""
    if isinstance(module, torch.fx.GraphModule):
        return any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes)
    return isinstance(module, torch.jit.ScriptModule)


class Sealed(nn.Module):
    """A scripted, traced or exported network, with what it raises at images of another kind than it was made for."""

    def __init__(self, network: nn.Module) -> None:
        """Keep the network as it is."""
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> "Sealed":
        """Switch what can be switched: the mode of an exported network is fixed."""
        self.training = mode
        with suppress(NotImplementedError):
            self.network.train(mode)
        return self

    def forward(self, images: torch.Tensor) -> Any:
        """What the network gives."""
        try:
            return self.network(images)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            raise InputError(
                f"this {type(self.network).__name__} does not take images {tuple(images.shape)}, for "
                f"which it was not made: {str(error).strip().splitlines()[-1][:200]}; script or export it "
                "for batches of any size, or give the original module"
            ) from error


def unsealed(network: object) -> nn.Module:
    """The network, with a face to which hooks can be put where it has none of its own; refuses what is none."""
    if not isinstance(network, nn.Module):
        raise InputError(
            f"expected a network, a torch.nn.Module; got {type(network).__name__}; a function becomes one in a class "
            "whose forward calls it"
        )
    return Sealed(network) if is_sealed(network) else network


@contextmanager
def replaced_output(module: nn.Module, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Inside the block, what `replace` makes of the module's output stands in its place."""
    if is_sealed(module):
        raise NoMapError(
            "this network is scripted, traced or exported, so that its layers cannot be watched; give the "
            "original module, or choose a method on whole passes, such as saliency or rise"
        )
    handle = module.register_forward_hook(lambda module, inputs, output: replace(output))  # noqa: ARG005
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def graph_after(model: nn.Module, module: nn.Module) -> Iterator[None]:
    """Inside the block, a pass keeps nothing for gradients before a module's output, and everything after it."""

    def leave(model: nn.Module, inputs: object) -> None:  # noqa: ARG001 - a hook's signature
        torch.set_grad_enabled(False)

    def enter(output: Any) -> Any:
        torch.set_grad_enabled(True)
        return output

    with (
        torch.enable_grad(),
        model.register_forward_pre_hook(leave),
        replaced_output(module, enter),
        replaced_output(model, enter),  # a block of the network's own may have ended with gradients off
    ):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside the block, another value of an attribute, if the owner has it."""
    if not hasattr(owner, name):
        yield
        return
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _float32_by_default(model: nn.Module) -> Iterator[None]:
    """Inside the block, tensors made without a dtype are float32; the network itself keeps the caller's default."""
    before = torch.get_default_dtype()
    if before == torch.float32 or is_sealed(model):
        yield
        return
    theirs = model.register_forward_pre_hook(lambda *_: torch.set_default_dtype(before))
    ours = model.register_forward_hook(lambda *_: torch.set_default_dtype(torch.float32), always_call=True)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        theirs.remove()
        ours.remove()


@contextmanager
def _cpu_by_default(model: nn.Module) -> Iterator[None]:
    """Inside the block, tensors made without a device are on the CPU; the network keeps the caller's default."""
    before = torch.get_default_device()
    if before.type == "cpu" or is_sealed(model):
        yield
        return
    inside: list[torch.device] = []

    def enter(*_: object) -> None:
        inside.append(torch.device(before))
        inside[-1].__enter__()

    def leave(*_: object) -> None:
        inside.pop().__exit__(None, None, None)

    with (
        torch.device("cpu"),
        model.register_forward_pre_hook(enter),
        model.register_forward_hook(leave, always_call=True),
    ):
        yield


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """After the block, the model's buffers as before it: some networks count, or take averages, in every pass."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not nn.parameter.is_lazy(buffer)]
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for buffer, before in kept:
                if not buffer.is_meta and not torch.equal(buffer, before):
                    buffer.resize_(before.shape).copy_(before)


def _switch(module: nn.Module, *, training: bool) -> None:
    if module.training != training:
        with suppress(NotImplementedError):  # an exported network's mode is fixed
            module.train(training) if training else module.eval()


def _weights_that_modes_change(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights of modules with a `train` of their own, and copies, since what is added and taken away is rounded."""
    changing = [module for module in model.modules() if type(module).train is not nn.Module.train]
    weights = {id(one): one for module in changing for one in [*module.parameters(), *module.buffers()]}
    return [(one, one.detach().clone()) for one in weights.values()]


def _refuse_training_for_good(model: nn.Module) -> None:
    """Raise `InputError` where images of a batch change one another, or chance changes them, although in eval mode."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise InputError(
                f"batch norm {name!r} has no running statistics, or does not use them in eval mode, so "
                "that images of a batch change one another's output; give it track_running_stats=True and "
                "train it, or put nn.GroupNorm in its place"
            )
        if is_sealed(module) and _was_sealed_in_training(module):
            raise InputError(
                "this network was traced or exported in training mode, in which dropout or batch norm "
                "stay; call eval() on the original module and trace or export it again"
            )


def _was_sealed_in_training(module: Any) -> bool:
    if isinstance(module, torch.fx.GraphModule):
        given = [
            (node.target._schema.arguments, node.args)
            for node in module.graph.nodes
            if isinstance(node.target, torch._ops.OpOverload)
        ]
        return any(
            one.name in IN_TRAINING and value is True
            for names, values in given
            for one, value in zip(names, values, strict=False)
        )
    if not hasattr(module, "inlined_graph"):
        return False
    graph = module.inlined_graph  # to which the nodes belong
    nodes = [(node, place) for kind, place in CONSTANTS.items() for node in graph.findAllNodes(kind)]
    return any(list(node.inputs())[place].toIValue() is True for node, place in nodes)
