"""Attention that a classifier was trained with, read from the model itself."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ibviz.attribution.forward_pass import at_least_float32
from ibviz.errors import InputError, unknown
from ibviz.models.classifier import IBClassifier
from ibviz.models.grids import in_proportion, spatial_layers
from ibviz.models.hooks import replaced_output
from ibviz.types import AttentionMap, Grid, Images, Maps


def attention(model: nn.Module, images: Images) -> AttentionMap:
    """Trained attention of an ibviz classifier, quantised if it has anchors; independent of the class.

    Raises `InputError` for a network without trained attention.
    """
    if not isinstance(model, IBClassifier):
        raise InputError(
            f"{type(model).__name__} has no trained attention; choose another method, such as grad_cam, "
            "or a model trained with `ibviz train`"
        )
    with torch.no_grad():
        return model.inspect(images).attention


def attention_mean(model: nn.Module, images: Images) -> Maps:
    """Mean of the trained attention before quantisation, in (0, 1); independent of the class."""
    return attention(model, images).mean.float()


# From the output of a module, one channel `(b, gh, gw)`, to attention.
READINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "map": lambda values: values,
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.flatten(1).softmax(1).view_as(logits),
}


def module_attention(
    model: nn.Module,
    images: Images,
    *,
    module: str = "",
    reading: Literal["map", "sigmoid", "softmax"] = "map",
    grid: Grid | None = None,
) -> Maps:
    """Attention of any other network: the one-channel output of the submodule `module`; independent of the class.

    For a spatial gate of CBAM (Woo 2018) name the sigmoid of the gate, or the convolution before it with "sigmoid"; for
    an Attention Branch Network (Fukui 2019) the branch's last sigmoid; for Learn to Pay Attention (Jetley 2018) an
    attention block with "softmax".

    Args:
        model: The network.
        images: `(b, channels, h, w)` in [0, 1].
        module: Name of the submodule. If it returns several tensors, such as attended features beside the map, the one
            with a single channel and the images' aspect ratio is taken.
        reading: Conversion of logits into attention: "sigmoid", or "softmax" over the cells; "map" for none.
        grid: Rows and columns of flat values, and of maps with another aspect ratio.

    Raises:
        InputError: If none or several of the module's tensors fit, or if it does not run exactly once.
    """
    outputs: list[object] = []

    def keep(output: object) -> object:
        outputs.append(output)
        return output

    with torch.no_grad(), replaced_output(_named(model, images, module), keep):
        model(images)
    if len(outputs) != 1:
        raise InputError(f"module {module!r} runs {len(outputs)} times in a pass; name one that runs once")
    parts = outputs[0] if isinstance(outputs[0], tuple | list) else outputs
    tensors = [part for part in parts if isinstance(part, Tensor)]
    candidates = [_one_channel(tensor, images, grid) for tensor in tensors]
    maps = [candidate for candidate in candidates if candidate is not None]
    if len(maps) != 1:
        shapes = "(b, 1, rows, columns) or (b, rows, columns) in the images' proportion"
        wanted = shapes if grid is None else f"(b, ..) of {grid[0]}x{grid[1]}"
        raise InputError(
            f"module {module!r} gives {[tuple(tensor.shape) for tensor in tensors]}, expected one tensor "
            f"{wanted}; name another module, or give the grid"
        )
    return READINGS[reading](at_least_float32(maps[0])).float()


def _named(model: nn.Module, images: Images, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if not name or name not in modules:
        layers = spatial_layers(model, images[:1])
        fitting = [layer for layer in layers if layers[layer].channels == 1] or ["none has one channel"]
        if not name:
            raise InputError(
                "module_attention needs the option module, the name of the submodule that gives the "
                f"attention; of one channel: {', '.join(sorted(fitting))}"
            )
        raise unknown("module", name, fitting)
    return modules[name]


def _one_channel(output: Tensor, images: Images, grid: Grid | None) -> Tensor | None:
    count = len(images)
    cells = output.flatten(1).shape[1] if output.ndim > 1 and len(output) == count else 0
    if grid is not None:
        return output.reshape(count, *grid) if cells == math.prod(grid) else None
    sides = output.shape[2:] if output.ndim == 4 and output.shape[1] == 1 else output.shape[1:]
    fits = cells and len(sides) == 2 and in_proportion((sides[0], sides[1]), (images.shape[2], images.shape[3]))
    return output.reshape(count, *sides) if fits else None
