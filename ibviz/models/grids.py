"""Layers whose output contains a spatial grid of features, and conversion from and to that grid.

Convolutional networks output `(b, c, h, w)`, Swin-like networks `(b, h, w, c)`, and vision transformers a sequence of
tokens, of which the first few (class, register, distillation) have no position.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.errors import InputError, did_you_mean, no_gradient_error
from ibviz.models.hooks import replaced_output
from ibviz.types import FeatureMaps, Grid, Images

_PREFIX_TOKENS = (
    "class_token",
    "cls_token",
    "distillation_token",
    "register_tokens",
)  # of torchvision and transformers


class GridLayout(NamedTuple):
    """Layout of the grid in a layer's output."""

    kind: Literal["bchw", "bhwc", "tokens"]
    grid: Grid
    channels: int
    prefix: int = 0  # tokens before those of the grid

    def __str__(self) -> str:
        """Return rows and columns, as in "7x7"."""
        return f"{self.grid[0]}x{self.grid[1]}"


def to_grid(output: Tensor, layout: GridLayout) -> FeatureMaps:
    """Return the grid of a layer's output, channels first.

    >>> to_grid(torch.arange(5.0).view(1, 5, 1), GridLayout("tokens", (2, 2), 1, prefix=1))
    tensor([[[[1., 2.],
              [3., 4.]]]])
    """
    if layout.kind == "tokens":
        return output[:, layout.prefix :].transpose(1, 2).unflatten(2, layout.grid)
    return output if layout.kind == "bchw" else output.permute(0, 3, 1, 2)


def from_grid(features: FeatureMaps, output: Tensor, layout: GridLayout) -> Tensor:
    """Return a layer's output with its grid replaced by `features`.

    `features` may have several rows per row of `output`: all images of the first sample, then of the second, and so on.

    >>> tokens = torch.arange(5.0).view(1, 5, 1)
    >>> from_grid(torch.zeros(1, 1, 2, 2), tokens, GridLayout("tokens", (2, 2), 1, prefix=1)).flatten()
    tensor([0., 0., 0., 0., 0.])
    """
    if layout.kind == "tokens":
        prefix = output[:, : layout.prefix].repeat(len(features) // len(output), 1, 1)
        return torch.cat([prefix, features.flatten(2).transpose(1, 2)], dim=1)
    return features if layout.kind == "bchw" else features.permute(0, 2, 3, 1)


def probe(size: Grid, channels: int = 3) -> Images:
    """Return an image of noise to probe shapes and dependences; a blank image could leave every ReLU at zero.

    >>> probe((8, 6)).shape
    torch.Size([1, 3, 8, 6])
    """
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))


def spatial_layers(model: nn.Module, images: Images) -> dict[str, GridLayout]:
    """Find the submodules whose output contains a grid in the image's aspect ratio, in the order in which they finish.

    Modules that run more than once in a pass are left out. One image is enough. If channels and columns have the same
    number and cannot be told apart, wider images are tried; if they do not help, the layer is left out.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.Linear(64, 2))
    >>> spatial_layers(network, torch.zeros(1, 3, 8, 8))
    {'0': GridLayout(kind='bchw', grid=(4, 4), channels=4, prefix=0)}
    """
    with torch.no_grad():
        return _layouts(model, images, _run(model, images)[1])


def find_layer(layers: dict[str, GridLayout], name: str) -> GridLayout:
    """Return the layout of a named layer; an `InputError` lists the layers with a grid."""
    if name not in layers:
        raise InputError(f"unknown layer {name!r}; layers with a grid: {listed(layers)}{did_you_mean(name, layers)}")
    return layers[name]


def listed(layers: dict[str, GridLayout]) -> str:
    """Format layers for a message: the outermost ones, and the last one of each grid size.

    >>> large, small = GridLayout("bchw", (8, 8), 4), GridLayout("bchw", (4, 4), 4)
    >>> listed({"stem.0": large, "stem.1": large, "stem.2": small, "stem": small})
    'stem.1 (8x8), stem (4x4); inner ones such as stem.2 too'
    """
    outwards = sorted(layers, key=lambda name: name.count("."), reverse=True)
    last = {layers[name].grid: name for name in outwards}.values()
    shown = [name for name in layers if name in last or name.count(".") == outwards[-1].count(".")]
    inner = [name for name in layers if name not in shown]
    such = f"; inner ones such as {inner[-1]} too" if inner else ""
    return ", ".join(f"{name} ({layers[name]})" for name in shown) + such or "none"


def layout_of(model: nn.Module, images: Images, name: str) -> GridLayout:
    """Return the layout of a named layer's output; if it has no grid, an `InputError` says what it has instead."""
    with torch.no_grad(), _recorded(model) as recorded:
        model(images)
    outputs = _single(recorded)
    layouts = _layouts(model, images, outputs)
    if name in recorded and name not in outputs:
        calls = recorded[name]
        what = "runs more than once in a pass" if len(calls) > 1 else f"gives a {type(calls[0]).__name__}"
        raise InputError(f"layer {name} {what}; name one that runs once and gives a tensor: {listed(layouts)}")
    if name in outputs and name not in layouts:
        raise InputError(
            f"layer {name} gives {tuple(outputs[name].shape)}, which holds no grid in the proportion of "
            f"{images.shape[2]}x{images.shape[3]} pixels, or none that can be told from its channels; "
            f"layers that do: {listed(layouts)}"
        )
    return find_layer(layouts, name)


def layout_in(output: object, model: nn.Module, images: Images) -> GridLayout | None:
    """Return the layout of a layer's output for a batch, from its shape; None if the shape is ambiguous."""
    if not isinstance(output, Tensor) or len(output) != len(images):
        return None
    readings = _readings(tuple(output.shape[1:]), _prefix_tokens(model), (images.shape[2], images.shape[3]))
    return readings[0] if len(readings) == 1 else None


def influential_layers(model: nn.Module, images: Images) -> dict[str, GridLayout]:
    """Find those `spatial_layers` on whose cells the network's output depends.

    The last block of a transformer with a class token is not among them, since nothing reads its patches. Raises
    `InputError` if no gradient reaches the network's input.
    """
    with torch.enable_grad():
        output, outputs = _run(model, images.detach().clone().requires_grad_())
        if not output.requires_grad:
            raise no_gradient_error()
        layouts = _layouts(model, images, outputs)
        layouts = {name: layout for name, layout in layouts.items() if outputs[name].requires_grad}
        tensors = [outputs[name] for name in layouts]
        draws = torch.Generator().manual_seed(0)
        weights = torch.randn(output.shape, generator=draws).to(output)  # the plain sum may have no gradient
        grads = torch.autograd.grad(output, tensors, weights, allow_unused=True) if tensors else ()
    pairs = zip(layouts.items(), grads, strict=True)
    return {name: layout for (name, layout), grad in pairs if grad is not None and bool(to_grid(grad, layout).any())}


def pixels_behind(model: nn.Module, images: Images, name: str) -> tuple[Float[Tensor, "3 c h w"], Grid] | None:
    """Return gradients of a layer's cells with respect to the pixels of one image, and the grid.

    The gradients are those of all cells, of the upper half of the rows, and of the left half of the columns. None if
    the layer has no grid, or no gradient passes.
    """
    with torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        _, seen = _run(model, inputs)
        layout = _layouts(model, images, seen).get(name)
        if layout is None or not seen[name].requires_grad:
            return None
        cells = to_grid(seen[name], layout)
        weights = torch.randn(cells.shape, generator=torch.Generator().manual_seed(0)).to(cells)
        upper, left = torch.zeros_like(weights), torch.zeros_like(weights)
        upper[..., : layout.grid[0] // 2, :], left[..., : layout.grid[1] // 2] = 1, 1
        gradients = [
            torch.autograd.grad(cells, inputs, weights * part, allow_unused=True, retain_graph=True)[0]
            for part in (torch.ones_like(weights), upper, left)
        ]
    return None if gradients[0] is None else (torch.cat(gradients), layout.grid)


def _run(model: nn.Module, images: Images) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the network's output, and those of its submodules that ran once, in the order in which they finished."""
    with _recorded(model) as outputs:
        result = model(images)
    return result, _single(outputs)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, list[Any]]]:
    """Record the outputs of each submodule inside the block, one list item per call."""
    outputs: dict[str, list[Any]] = {}

    def note(name: str, output: object) -> object:
        outputs.setdefault(name, []).append(output)
        return output

    with ExitStack() as watching:
        for name, module in model.named_modules():
            if name and name != "normalize" and "parametrizations" not in name.split("."):
                watching.enter_context(replaced_output(module, partial(note, name)))
        yield outputs


def _single(outputs: dict[str, list[Any]]) -> dict[str, Tensor]:
    return {name: calls[0] for name, calls in outputs.items() if len(calls) == 1 and isinstance(calls[0], Tensor)}


def _layouts(model: nn.Module, images: Images, outputs: dict[str, Tensor]) -> dict[str, GridLayout]:
    prefix, size = _prefix_tokens(model), (images.shape[2], images.shape[3])
    shapes = {name: tuple(output.shape[1:]) for name, output in outputs.items() if len(output) == len(images)}
    tokens = {shape[0] for shape in shapes.values() if len(shape) == 2}  # attention matrices of this size are no grids
    candidates = {
        name: _readings(shape, prefix, size)
        for name, shape in shapes.items()
        if shape[1:] not in {(length, length) for length in tokens}
    }
    if any(len(readings) > 1 for readings in candidates.values()):
        wide = _shapes_in_wider_images(model, images)
        kinds = {name: _widened(shapes[name], wide.get(name)) for name in candidates}
        candidates = {
            name: [layout for layout in readings if len(readings) == 1 or layout.kind == kinds[name]]
            for name, readings in candidates.items()
        }
    return {name: readings[0] for name, readings in candidates.items() if readings}


def _readings(shape: tuple[int, ...], prefix: int, size: Grid) -> list[GridLayout]:
    """List all layouts that fit the shape of one image's output; there may be two if channels equal columns."""
    if len(shape) == 3:
        first, last = (
            GridLayout("bchw", (shape[1], shape[2]), shape[0]),
            GridLayout("bhwc", (shape[0], shape[1]), shape[2]),
        )
        return [layout for layout in (first, last) if in_proportion(layout.grid, size)]
    if len(shape) != 2:
        return []
    grids = {before: token_grid(shape[0] - before, size) for before in (prefix, 0)}
    return [GridLayout("tokens", grid, shape[1], before) for before, grid in grids.items() if grid is not None][:1]


def _shapes_in_wider_images(model: nn.Module, images: Images) -> dict[str, tuple[int, ...]]:
    """Shapes of the layers' outputs for images twice as wide; layers after an error are missing."""
    with _recorded(model) as outputs, suppress(RuntimeError, AssertionError, ValueError):
        model(images.repeat(1, 1, 1, 2))
    return {name: tuple(output.shape[1:]) for name, output in _single(outputs).items()}


def _widened(shape: tuple[int, ...], wide: tuple[int, ...] | None) -> str | None:
    """Return the kind of layout in which only the number of columns has changed; None if there is none."""
    if wide is None or len(wide) != 3 or shape[0] != wide[0] or (shape[1] == wide[1]) == (shape[2] == wide[2]):
        return None
    return "bchw" if shape[1] == wide[1] else "bhwc"


def in_proportion(grid: Grid, size: Grid) -> bool:
    """Return True if a grid has the aspect ratio of an image, up to a fraction of a cell.

    >>> in_proportion((6, 8), (50, 64)), in_proportion((8, 8), (50, 64))
    (True, False)
    """
    return min(grid) >= 2 and abs(grid[0] * size[1] - grid[1] * size[0]) < max(size)


def token_grid(count: int, size: Grid) -> Grid | None:
    """Return the grid with this number of tokens in the aspect ratio of an image, or None if there is none.

    >>> token_grid(24, (32, 48)), token_grid(25, (32, 48))
    ((4, 6), None)
    """
    rows = round(math.sqrt(max(count, 0) * size[0] / size[1]))
    grid = (rows, count // max(rows, 1))
    return grid if grid[0] * grid[1] == count and in_proportion(grid, size) else None


def _prefix_tokens(model: nn.Module) -> int:
    """Count the tokens without a position, from timm's attribute or from the parameters of such tokens."""
    for module in model.modules():
        if isinstance(count := getattr(module, "num_prefix_tokens", None), int):
            return count
        held = [token for name in _PREFIX_TOKENS if isinstance(token := getattr(module, name, None), Tensor)]
        if held:  # (1, tokens, width), or a single vector
            return sum(1 if token.ndim == 1 else token.shape[-2] for token in held)
    return 0
