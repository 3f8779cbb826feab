"""Context managers that change a network and undo it: its mode, the output of a module, the start of gradients."""

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

IN_TRAINING = ("training", "train")  # names of the training argument in an exported graph
CONSTANTS = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::feature_dropout": 2}  # its position in a traced graph
_ALONE = threading.RLock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode inside the block; restore the mode and weights of every module after it, even after an error.

    The mode is changed with `train` and `eval`, in which some layers, such as LoRA's, change their weights. Only one
    thread at a time can be inside, since hooks, modes and PyTorch's switches are shared by all threads. Outside the
    network, PyTorch's default dtype is float32 and its default device the CPU, on which random draws depend. Raises
    `InputError` if the images of a batch would affect each other.
    """
    with _ALONE, _kept_buffers(model):
        modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
        kept = _weights_that_modes_change(model) if any(training for _, training in modes) else []
        try:
            for module, _ in modes:  # parents come first and switch their children
                _switch(module, training=False)
            _refuse_training_for_good(model)
            with _float32_by_default(model), _cpu_by_default(model):
                yield
        finally:
            for module, training in modes:
                _switch(module, training=training)
            for module, training in modes:
                module.training = training  # in case the module overrides `train`
            for weights, before in kept:
                weights.data.copy_(before)


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Switch off compilation and activation checkpointing inside the block.

    Compiled code skips hooks, and a checkpointed part has no gradients until it is recomputed. Raises `InputError` for
    a network that is spread over devices or processes, or whose weights were made in inference mode.
    """
    for module in model.modules():
        spread = isinstance(module, nn.DataParallel) and len(module.device_ids) > 1
        if spread or isinstance(module, nn.parallel.DistributedDataParallel):
            raise InputError(
                f"{type(module).__name__} spreads this network over devices or processes, where hooks and "
                "gradients do not follow; give what it wraps, model.module"
            )
    with ExitStack() as changes:
        if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled, and its import takes seconds
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
    """Replacement of `torch.utils.checkpoint.CheckpointFunction` that runs the function without checkpointing."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *inputs: Any) -> Any:
        return function(*inputs)


def _nothing_around(*_: Any, **__: Any) -> Iterator[None]:
    """Replacement of the generator whose halves PyTorch runs before and after a checkpointed part."""
    yield


NOT_CHECKPOINTED: dict[str, Any] = {
    "CheckpointFunction": _CalledAsIs,  # use_reentrant=True
    "_checkpoint_without_reentrant_generator": _nothing_around,  # use_reentrant=False, older PyTorch
    "_checkpoint_without_reentrant_generator_impl": _nothing_around,  # newer PyTorch
}


def is_sealed(module: nn.Module) -> bool:
    """Return True if a module is scripted, traced or exported, so that hooks on its submodules do not run."""
    if isinstance(module, torch.fx.GraphModule):
        return any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes)
    return isinstance(module, torch.jit.ScriptModule)


class Sealed(nn.Module):
    """Wrapper of a scripted, traced or exported network that explains errors at images of an unexpected shape."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap the network without changing it."""
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> "Sealed":
        """Set the mode, unless the network is exported and its mode is fixed."""
        self.training = mode
        with suppress(NotImplementedError):
            self.network.train(mode)
        return self

    def forward(self, images: torch.Tensor) -> Any:
        """Return the network's output."""
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
    """Return the network, inside a `Sealed` wrapper that accepts hooks if it is scripted, traced or exported.

    Raises `InputError` for anything but a module.
    """
    if not isinstance(network, nn.Module):
        raise InputError(
            f"expected a network, a torch.nn.Module; got {type(network).__name__}; a function becomes one in a class "
            "whose forward calls it"
        )
    return Sealed(network) if is_sealed(network) else network


@contextmanager
def replaced_output(module: nn.Module, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Replace the output of a module by `replace(output)` inside the block."""
    if is_sealed(module):
        raise NoMapError(
            "this network is scripted, traced or exported, so that its layers cannot be watched; give the "
            "original module, or choose a method on whole passes, such as saliency or rise"
        )
    handle = module.register_forward_hook(lambda _module, _inputs, output: replace(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def graph_after(model: nn.Module, module: nn.Module) -> Iterator[None]:
    """Record a graph for gradients only after a module's output, inside the block."""

    def disable(*_: object) -> None:
        torch.set_grad_enabled(False)

    def enable(output: Any) -> Any:
        torch.set_grad_enabled(True)
        return output

    with (
        torch.enable_grad(),
        model.register_forward_pre_hook(disable),
        replaced_output(module, enable),
        replaced_output(model, enable),  # a block inside the network may have ended with gradients off
    ):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace the value of an attribute inside the block, if the owner has it."""
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
    """Set the default dtype to float32 inside the block; the network itself runs with the caller's default."""
    before = torch.get_default_dtype()
    if before == torch.float32 or is_sealed(model):
        yield
        return
    restore = model.register_forward_pre_hook(lambda *_: torch.set_default_dtype(before))
    reset = model.register_forward_hook(lambda *_: torch.set_default_dtype(torch.float32), always_call=True)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        restore.remove()
        reset.remove()


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
    """Return the weights of modules that override `train`, with copies: merging and unmerging LoRA rounds them."""
    changing = [module for module in model.modules() if type(module).train is not nn.Module.train]
    weights = {id(tensor): tensor for module in changing for tensor in [*module.parameters(), *module.buffers()]}
    return [(tensor, tensor.detach().clone()) for tensor in weights.values()]


def _refuse_training_for_good(model: nn.Module) -> None:
    """Raise `InputError` if, even in eval mode, images of a batch affect each other or the output is random."""
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
            argument.name in IN_TRAINING and value is True
            for arguments, values in given
            for argument, value in zip(arguments, values, strict=False)
        )
    if not hasattr(module, "inlined_graph"):
        return False
    graph = module.inlined_graph  # keep a reference: the nodes belong to it
    nodes = [(node, position) for kind, position in CONSTANTS.items() for node in graph.findAllNodes(kind)]
    return any(list(node.inputs())[position].toIValue() is True for node, position in nodes)
