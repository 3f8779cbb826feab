"""Class activation maps at a layer of the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ibviz.errors import InputError, unknown
from ibviz.types import Grid, Images, Labels, Maps

LEAST_SIDE = 4  # cells a side that a layer chosen automatically has at least


def grad_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Grad-CAM with its ReLU (Selvaraju 2017) on the grid of the submodule `layer`, through Captum.

    `layer=None` takes the last one to finish whose grid has at least 4 x 4 cells. Raises `InputError` for an unknown
    layer or one without a grid, and names those that have one.
    """
    from captum.attr import LayerGradCam  # noqa: PLC0415 - a second to import

    inputs = images.detach().clone().requires_grad_()  # a frozen network still gets gradients
    with torch.enable_grad():
        module = model.get_submodule(choose_layer(model, images, layer))
        cam = LayerGradCam(model, module)
        grid = cast(Tensor, cam.attribute(inputs, target=targets, relu_attributions=True))
    return grid.detach().squeeze(1).float()


def choose_layer(model: nn.Module, images: Images, layer: str | None) -> str:
    """Check the name of a layer against those that have a grid, or choose one."""
    grids = spatial_layers(model, images[:1])
    if layer is None:
        if len(grids) == 1:
            raise InputError(f"only this network's first layer, {next(iter(grids))}, has a grid; name it to use it")
        fitting = [name for name, grid in grids.items() if min(grid) >= LEAST_SIDE]
        if not fitting:
            raise InputError(f"no layer has a grid of {LEAST_SIDE} x {LEAST_SIDE} cells; name one of {list(grids)}")
        return fitting[-1]
    if layer not in grids:
        raise unknown("layer", layer, [f"{name} ({h}x{w})" for name, (h, w) in grids.items()])
    return layer


def spatial_layers(model: nn.Module, images: Images) -> dict[str, Grid]:
    """Submodules that give `(b, c, h, w)` with a grid of the image's proportion, in the order in which they finish.

    A module that runs more than once in a pass is left out: its gradient belongs to no single grid.
    """
    outputs: dict[str, list[Any]] = {}
    with _watching(model, outputs), torch.no_grad():
        model(images)
    once = {name: seen[0] for name, seen in outputs.items() if len(seen) == 1}
    size = (images.shape[2], images.shape[3])
    return {name: (shape[2], shape[3]) for name, shape in once.items() if _is_grid(shape, size)}


def _is_grid(shape: tuple[int, ...], size: Grid) -> bool:
    """Whether an output has rows and columns in the image's proportion; tokens with channels last do not."""
    if len(shape) != 4 or min(shape[2:]) < 2:
        return False
    return abs(shape[2] * size[1] - shape[3] * size[0]) <= max(size)


@contextmanager
def _watching(model: nn.Module, outputs: dict[str, list[Any]]) -> Iterator[None]:
    """Note the output shape of every named submodule while the block runs."""

    def note(name: str, module: nn.Module, inputs: object, output: object) -> None:  # noqa: ARG001
        outputs.setdefault(name, []).append(tuple(output.shape) if isinstance(output, Tensor) else ())

    named = [(name, module) for name, module in model.named_modules() if name and name != "normalize"]
    handles = [module.register_forward_hook(partial(note, name)) for name, module in named]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
