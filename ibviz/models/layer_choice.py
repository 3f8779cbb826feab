"""Choice of the layer for attention, and checks of how information passes a layer on its way to the output."""

import torch
from torch import nn

from ibviz.errors import InputError
from ibviz.models.grids import GridLayout, influential_layers, listed
from ibviz.models.hooks import replaced_output
from ibviz.types import Images

_MAX_STRIDE = 16  # pixels per cell, for a layer chosen for attention
_MIN_SIDE = 7  # cells per side, for a layer chosen for attention


def layer_for_attention(model: nn.Module, images: Images) -> str:
    """Choose the last layer through which all information passes, with cells of at most 16 pixels and 7 cells a side.

    Layers inside a block that changes the grid, such as the first convolution of a strided block, are skipped.
    """
    layers = influential_layers(model, images)
    strides = {name: images.shape[2] / layout.grid[0] for name, layout in layers.items()}
    fitting = {n: s for n, s in strides.items() if s <= _MAX_STRIDE and min(layers[n].grid) >= _MIN_SIDE}
    wanted = max(fitting.values(), default=0)
    for name in reversed([name for name, stride in fitting.items() if stride == wanted]):
        if not _inside_another_grid(model, name, layers) and is_cut(model, images, name):
            return name
    raise InputError(
        f"no layer has cells of at most {_MAX_STRIDE} pixels, {_MIN_SIDE} a side, through which all "
        f"of the network passes; name one of those with a grid: {listed(layers)}"
    )


def is_cut(model: nn.Module, images: Images, name: str) -> bool:
    """Return True if the image reaches the network's output only through this layer."""
    inputs = images.detach().clone().requires_grad_()
    with torch.enable_grad(), replaced_output(model.get_submodule(name), lambda output: output.detach()):
        output = model(inputs)
        return not output.requires_grad or torch.autograd.grad(output.sum(), inputs, allow_unused=True)[0] is None


def takes_rows(model: nn.Module, images: Images, module: nn.Module) -> bool:
    """Return True if the layers after a module accept two rows per image, and return logits for each.

    They do not if the rows meet a tensor with one row per image, or if the network checks the batch size. `images`
    should be two images.
    """
    try:
        with torch.no_grad(), replaced_output(module, lambda output: output.repeat(2, *[1] * (output.ndim - 1))):
            return len(model(images)) == 2 * len(images)
    except (RuntimeError, TypeError):
        return False


def reaches_output(model: nn.Module, images: Images, name: str) -> bool:
    """Return True if the output depends on the layer's grid, or if gradients cannot tell."""
    try:
        return name in influential_layers(model, images)
    except InputError:  # cut by detach or no_grad
        return True


def _inside_another_grid(model: nn.Module, name: str, layers: dict[str, GridLayout]) -> bool:
    parts = name.split(".")
    parents = [".".join(parts[:count]) for count in range(1, len(parts))]
    blocks = [parent for parent in parents if not isinstance(model.get_submodule(parent), nn.Sequential)]
    return any(block in layers and layers[block].grid != layers[name].grid for block in blocks)
