"""Changes of a network that are undone after their block: its mode, what a module gives, where gradients start."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every module's own mode again after it, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def replaced_output(module: nn.Module, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Inside the block, what `replace` makes of the module's output stands in its place."""
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
