"""Which layers of a network hold a grid of features, and how that grid is read and replaced.

Convolutional networks keep `(b, c, h, w)`, Swin-like ones `(b, h, w, c)`, vision transformers a list of tokens, of
which the first few (class, register, distillation) stand for no place.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.errors import InputError, cut_off
from ibviz.models.hooks import replaced_output
from ibviz.types import Grid, Images

LARGEST_STRIDE = 16  # pixels a cell, of a layer chosen for attention
LEAST_SIDE = 7  # cells a side it has at least
PREFIX_TOKENS = ("class_token", "cls_token", "distillation_token", "register_tokens")  # of torchvision and transformers
Features = Float[Tensor, "b c gh gw"]


class Layout(NamedTuple):
    """How a layer's output holds its grid."""

    kind: Literal["bchw", "bhwc", "tokens"]
    grid: Grid
    channels: int
    prefix: int = 0  # tokens before those of the grid

    def __str__(self) -> str:
        """Rows and columns, as error messages list them."""
        return f"{self.grid[0]}x{self.grid[1]}"


def to_grid(output: Tensor, layout: Layout) -> Features:
    """The grid of a layer's output, channels first.

    >>> to_grid(torch.arange(5.0).view(1, 5, 1), Layout("tokens", (2, 2), 1, prefix=1))
    tensor([[[[1., 2.],
              [3., 4.]]]])
    """
    if layout.kind == "tokens":
        return output[:, layout.prefix :].transpose(1, 2).unflatten(2, layout.grid)
    return output if layout.kind == "bchw" else output.permute(0, 3, 1, 2)


def from_grid(features: Features, output: Tensor, layout: Layout) -> Tensor:
    """A layer's output with its grid replaced; `features` may hold several rows, sample-major, for each of `output`.

    >>> tokens = torch.arange(5.0).view(1, 5, 1)
    >>> from_grid(torch.zeros(1, 1, 2, 2), tokens, Layout("tokens", (2, 2), 1, prefix=1)).flatten()
    tensor([0., 0., 0., 0., 0.])
    """
    if layout.kind == "tokens":
        prefix = output[:, : layout.prefix].repeat(len(features) // len(output), 1, 1)
        return torch.cat([prefix, features.flatten(2).transpose(1, 2)], dim=1)
    return features if layout.kind == "bchw" else features.permute(0, 2, 3, 1)


def probe(size: Grid, channels: int = 3) -> Images:
    """An image to find out shapes and dependences with: noise, since in a blank one every ReLU may be shut.

    >>> probe((8, 6)).shape
    torch.Size([1, 3, 8, 6])
    """
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0))


def spatial_layers(model: nn.Module, images: Images) -> dict[str, Layout]:
    """Submodules whose output holds a grid in the image's proportion, in the order in which they finish.

    A module that runs more than once in a pass is left out: its output is no single grid. One image is enough. Where
    as many channels as columns leave open which is which, wider images tell, or else the layer is left out.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.Linear(64, 2))
    >>> spatial_layers(network, torch.zeros(1, 3, 8, 8))
    {'0': Layout(kind='bchw', grid=(4, 4), channels=4, prefix=0)}
    """
    with torch.no_grad():
        return _layouts(model, images, _run(model, images)[1])


def find_layer(layers: dict[str, Layout], name: str) -> Layout:
    """The layout of a named layer, or an `InputError` that says which have a grid."""
    if name not in layers:
        close = get_close_matches(name, layers, n=1, cutoff=0.5)
        meant = f"; did you mean {close[0]}?" if close else "."
        raise InputError(f"unknown layer {name!r}{meant} Layers with a grid: {listed(layers)}")
    return layers[name]


def listed(layers: dict[str, Layout]) -> str:
    """Layers for a message, in the order in which they finish: the outermost, and of each grid the last outermost.

    >>> large, small = Layout("bchw", (8, 8), 4), Layout("bchw", (4, 4), 4)
    >>> listed({"stem.0": large, "stem.1": large, "stem.2": small, "stem": small})
    'stem.1 (8x8), stem (4x4); inner ones such as stem.2 too'
    """
    outwards = sorted(layers, key=lambda name: name.count("."), reverse=True)
    last = {layers[name].grid: name for name in outwards}.values()
    shown = [name for name in layers if name in last or name.count(".") == outwards[-1].count(".")]
    inner = [name for name in layers if name not in shown]
    such = f"; inner ones such as {inner[-1]} too" if inner else ""
    return ", ".join(f"{name} ({layers[name]})" for name in shown) + such or "none"


def layout_of(model: nn.Module, images: Images, name: str) -> Layout:
    """The layout of a named layer's output; where it holds no grid, an `InputError` says what it holds instead."""
    with torch.no_grad(), _watched(model) as seen:
        model(images)
    outputs = _single(seen)
    layouts = _layouts(model, images, outputs)
    if name in seen and name not in outputs:
        what = "runs more than once in a pass" if len(seen[name]) > 1 else f"gives a {type(seen[name][0]).__name__}"
        raise InputError(f"layer {name} {what}; name one that runs once and gives a tensor: {listed(layouts)}")
    if name in outputs and name not in layouts:
        raise InputError(
            f"layer {name} gives {tuple(outputs[name].shape)}, which holds no grid in the proportion of "
            f"{images.shape[2]}x{images.shape[3]} pixels, or none that can be told from its channels; "
            f"layers that do: {listed(layouts)}"
        )
    return find_layer(layouts, name)


def layout_in(output: object, model: nn.Module, images: Images) -> Layout | None:
    """The layout of what a layer gives for a batch, read off its shape; None where that says too little."""
    if not isinstance(output, Tensor) or len(output) != len(images):
        return None
    readings = _readings(tuple(output.shape[1:]), _prefix_tokens(model), (images.shape[2], images.shape[3]))
    return readings[0] if len(readings) == 1 else None


def influential_layers(model: nn.Module, images: Images) -> dict[str, Layout]:
    """Those of `spatial_layers` whose cells the network's output depends on.

    The last block of a transformer with a class token is not among them: nothing reads its patches; nor is what comes
    of frozen weights alone. Raises `InputError` for a network whose output no gradient leaves.
    """
    with torch.enable_grad():
        output, seen = _run(model, images.detach().clone().requires_grad_())
        if not output.requires_grad:
            raise cut_off()
        layouts = {name: one for name, one in _layouts(model, images, seen).items() if seen[name].requires_grad}
        tensors = [seen[name] for name in layouts]
        draws = torch.Generator().manual_seed(0)
        weights = torch.randn(output.shape, generator=draws).to(output)  # a sum could be flat
        grads = torch.autograd.grad(output, tensors, weights, allow_unused=True) if tensors else ()
    pairs = zip(layouts.items(), grads, strict=True)
    return {name: one for (name, one), grad in pairs if grad is not None and bool(to_grid(grad, one).any())}


def layer_for_attention(model: nn.Module, images: Images) -> str:
    """The last layer with cells of at most 16 pixels, and at least 7 a side, through which everything has to pass.

    Layers inside a block that changes the grid, such as the first convolution of a striding block, are passed over.
    """
    layers = influential_layers(model, images)
    strides = {name: images.shape[2] / layout.grid[0] for name, layout in layers.items()}
    fitting = {n: s for n, s in strides.items() if s <= LARGEST_STRIDE and min(layers[n].grid) >= LEAST_SIDE}
    wanted = max(fitting.values(), default=0)
    for name in reversed([name for name, stride in fitting.items() if stride == wanted]):
        if not _inside_another_grid(model, name, layers) and is_cut(model, images, name):
            return name
    raise InputError(
        f"no layer has cells of at most {LARGEST_STRIDE} pixels, {LEAST_SIDE} a side, through which all "
        f"of the network passes; name one of those with a grid: {listed(layers)}"
    )


def is_cut(model: nn.Module, images: Images, name: str) -> bool:
    """Whether the image reaches the network's output through this layer alone."""
    inputs = images.detach().clone().requires_grad_()
    with torch.enable_grad(), replaced_output(model.get_submodule(name), lambda output: output.detach()):
        output = model(inputs)
        return not output.requires_grad or torch.autograd.grad(output.sum(), inputs, allow_unused=True)[0] is None


def takes_rows(model: nn.Module, images: Images, module: nn.Module) -> bool:
    """Whether the rest of a network gives logits for each of two rows that leave a module for every image.

    It does not where the rows meet something that has one row an image, or are counted at the door. Two images tell.
    """
    try:
        with torch.no_grad(), replaced_output(module, lambda output: output.repeat(2, *[1] * (output.ndim - 1))):
            return len(model(images)) == 2 * len(images)
    except (RuntimeError, TypeError):
        return False


def reaches_output(model: nn.Module, images: Images, name: str) -> bool:
    """Whether the output is known to depend on the layer's grid, or gradients do not tell."""
    try:
        return name in influential_layers(model, images)
    except InputError:  # cut by detach or no_grad
        return True


def pixels_behind(model: nn.Module, images: Images, name: str) -> tuple[Float[Tensor, "c h w"], Grid] | None:
    """The gradient of all cells of a layer with respect to the pixels of one image, and the grid.

    None where the layer has no grid, or no gradient passes.
    """
    with torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        _, seen = _run(model, inputs)
        layout = _layouts(model, images, seen).get(name)
        if layout is None or not seen[name].requires_grad:
            return None
        cells = to_grid(seen[name], layout)
        weights = torch.randn(cells.shape, generator=torch.Generator().manual_seed(0)).to(cells)
        [pixels] = torch.autograd.grad(cells, inputs, weights, allow_unused=True)
    return None if pixels is None else (pixels[0], layout.grid)


def _run(model: nn.Module, images: Images) -> tuple[Tensor, dict[str, Tensor]]:
    """The network's output, and those of its submodules that ran once, in the order in which they finished."""
    with _watched(model) as outputs:
        result = model(images)
    return result, _single(outputs)


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, list[Any]]]:
    """Inside the block, what each submodule gives, one of a list for every time it runs."""
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
    return {name: seen[0] for name, seen in outputs.items() if len(seen) == 1 and isinstance(seen[0], Tensor)}


def _layouts(model: nn.Module, images: Images, outputs: dict[str, Tensor]) -> dict[str, Layout]:
    prefix, size = _prefix_tokens(model), (images.shape[2], images.shape[3])
    shapes = {name: tuple(output.shape[1:]) for name, output in outputs.items() if len(output) == len(images)}
    tokens = {shape[0] for shape in shapes.values() if len(shape) == 2}  # their attention matrices are no grids
    found = {
        name: _readings(shape, prefix, size)
        for name, shape in shapes.items()
        if shape[1:] not in {(length, length) for length in tokens}
    }
    if any(len(readings) > 1 for readings in found.values()):
        wide = _shapes_in_wider_images(model, images)
        kinds = {name: _widened(shapes[name], wide.get(name)) for name in found}
        found = {
            name: [one for one in readings if len(readings) == 1 or one.kind == kinds[name]]
            for name, readings in found.items()
        }
    return {name: readings[0] for name, readings in found.items() if readings}


def _readings(shape: tuple[int, ...], prefix: int, size: Grid) -> list[Layout]:
    """Every way in which an output of one image may hold a grid: two where there are as many channels as columns."""
    if len(shape) == 3:
        first, last = Layout("bchw", (shape[1], shape[2]), shape[0]), Layout("bhwc", (shape[0], shape[1]), shape[2])
        return [layout for layout in (first, last) if in_proportion(layout.grid, size)]
    if len(shape) != 2:
        return []
    grids = {before: token_grid(shape[0] - before, size) for before in (prefix, 0)}
    return [Layout("tokens", grid, shape[1], before) for before, grid in grids.items() if grid is not None][:1]


def _shapes_in_wider_images(model: nn.Module, images: Images) -> dict[str, tuple[int, ...]]:
    """Shapes of the layers' outputs where images are twice as wide, of layers that ran before one refused them."""
    with _watched(model) as outputs, suppress(RuntimeError, AssertionError, ValueError):
        model(images.repeat(1, 1, 1, 2))
    return {name: tuple(output.shape[1:]) for name, output in _single(outputs).items()}


def _widened(shape: tuple[int, ...], wide: tuple[int, ...] | None) -> str | None:
    """The kind of layout of which only the columns have changed."""
    if wide is None or len(wide) != 3 or shape[0] != wide[0] or (shape[1] == wide[1]) == (shape[2] == wide[2]):
        return None
    return "bchw" if shape[1] == wide[1] else "bhwc"


def in_proportion(grid: Grid, size: Grid) -> bool:
    """Whether a grid has the proportion of an image, but for a share of a cell.

    >>> in_proportion((6, 8), (50, 64)), in_proportion((8, 8), (50, 64))
    (True, False)
    """
    return min(grid) >= 2 and abs(grid[0] * size[1] - grid[1] * size[0]) < max(size)


def token_grid(count: int, size: Grid) -> Grid | None:
    """The grid in the proportion of an image that so many tokens make, or None if they make none.

    >>> token_grid(24, (32, 48)), token_grid(25, (32, 48))
    ((4, 6), None)
    """
    rows = round(math.sqrt(max(count, 0) * size[0] / size[1]))
    grid = (rows, count // max(rows, 1))
    return grid if grid[0] * grid[1] == count and in_proportion(grid, size) else None


def _prefix_tokens(model: nn.Module) -> int:
    """Tokens that stand for no place: as many as timm's networks say, or as others hold tensors of such tokens."""
    for module in model.modules():
        if isinstance(count := getattr(module, "num_prefix_tokens", None), int):
            return count
        held = [token for name in PREFIX_TOKENS if isinstance(token := getattr(module, name, None), Tensor)]
        if held:  # (1, tokens, width), or a single vector
            return sum(1 if token.ndim == 1 else token.shape[-2] for token in held)
    return 0


def _inside_another_grid(model: nn.Module, name: str, layers: dict[str, Layout]) -> bool:
    parts = name.split(".")
    parents = [".".join(parts[:count]) for count in range(1, len(parts))]
    blocks = [parent for parent in parents if not isinstance(model.get_submodule(parent), nn.Sequential)]
    return any(block in layers and layers[block].grid != layers[name].grid for block in blocks)
