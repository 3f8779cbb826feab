"""The attention a classifier was trained with, read off the model itself."""

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
    """Trained attention, quantised to its anchors where the model has them; the same for every target.

    Raises `InputError` for a network without attention of its own.
    """
    if not isinstance(model, IBClassifier):
        raise InputError(
            f"{type(model).__name__} has no trained attention; choose another method, such as grad_cam, "
            "or a model trained with `ibviz train`"
        )
    with torch.no_grad():
        return model.inspect(images).attention


def attention_mean(model: nn.Module, images: Images) -> Maps:
    """Mean of the trained attention, before the quantiser; in (0, 1)."""
    return attention(model, images).mean.float()


# From what a module gives, one channel `(b, gh, gw)`, to attention.
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
    """Attention that any other network was trained with, as the submodule `module` gives it: one channel.

    Of a module that gives several tensors, such as attended features beside the map, the one of that shape and of the
    image's proportion is taken; `grid` gives rows and columns to flat values, and to maps of another proportion.
    `reading` turns logits into attention: "sigmoid", or "softmax" over the cells. For a spatial gate of CBAM (Woo 2018)
    name the sigmoid of the gate, or the convolution before it with "sigmoid"; for an Attention Branch Network (Fukui
    2019) the branch's last sigmoid; for Learn to Pay Attention (Jetley 2018) an attention block with "softmax". Raises
    `InputError` where nothing or more than one tensor fits.
    """
    found: list[object] = []

    def keep(output: object) -> object:
        found.append(output)
        return output

    with torch.no_grad(), replaced_output(_named(model, images, module), keep):
        model(images)
    if len(found) != 1:
        raise InputError(f"module {module!r} runs {len(found)} times in a pass; name one that runs once")
    tensors = [one for one in (found[0] if isinstance(found[0], tuple | list) else found) if isinstance(one, Tensor)]
    maps = [one for one in (_one_channel(tensor, images, grid) for tensor in tensors) if one is not None]
    if len(maps) != 1:
        shapes = "(b, 1, rows, columns) or (b, rows, columns) in the images' proportion"
        wanted = shapes if grid is None else f"(b, ..) of {grid[0]}x{grid[1]}"
        raise InputError(
            f"module {module!r} gives {[tuple(one.shape) for one in tensors]}, expected one tensor "
            f"{wanted}; name another module, or give the grid"
        )
    return READINGS[reading](at_least_float32(maps[0])).float()


def _named(model: nn.Module, images: Images, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if not name or name not in modules:
        layers = spatial_layers(model, images[:1])
        fitting = [one for one in layers if layers[one].channels == 1] or ["none has one channel"]
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
