"""Trial passes of a network before it is explained, once per network and kind of image.

Two images pass together, then one of them alone. The trial refuses networks whose logits depend on other images or on
chance or are probabilities already, and finds the memory format that the network accepts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.attribution.forward_pass import use_memory_format
from ibviz.errors import InputError
from ibviz.heads import head_of
from ibviz.models.grids import pixels_behind, probe
from ibviz.models.hooks import Sealed
from ibviz.types import Grid, Images

_NEIGHBOUR_SHARE = 0.02  # of the largest difference between two images: with more, neighbours change the logits
_TURNED = 0.05  # of a side; half of the cells of an upright network lies 0.25 off, and 0.02 by chance at most
_ROUNDING = 256  # machine epsilons by which logits of one image may differ through rounding
_MEMORY_FORMATS = (torch.channels_last, torch.contiguous_format)  # the fastest first
_ENDS = {"softmax": ("Sigmoid", "Hardsigmoid"), "sigmoid": ("Sigmoid", "Hardsigmoid", "Softmax")}  # by head
_RESHAPES = ("View", "UnsafeView", "Squeeze", "Unsqueeze", "Select", "Slice", "Cat", "Stack", "Mean", "Clone", "ToCopy")

Kind = tuple[torch.Size, torch.dtype, torch.device]
_KNOWN: "WeakKeyDictionary[nn.Module, dict[Kind, torch.memory_format]]" = WeakKeyDictionary()

_PLACED: "WeakKeyDictionary[nn.Module, set[tuple[str, Grid]]]" = WeakKeyDictionary()


@contextmanager
def tried(model: nn.Module, images: Images) -> Iterator[None]:
    """Try a network unless it was tried before, and use the memory format that it accepts inside the block.

    A network that refuses the images of the trial raises its own error later.

    Raises:
        InputError: If the logits do not have one row per image, if images of a batch change each other's logits, if
            logits change by chance or from pass to pass, or if they are probabilities already.
    """
    known = _KNOWN.setdefault(model.network if isinstance(model, Sealed) else model, {})
    kind = images.shape[1:], images.dtype, images.device
    if kind not in known:
        try:
            layout = _trial(model, images[:1])
        except InputError:
            if not any(isinstance(module, Sealed) for module in model.modules()):
                raise
            layout = None  # a sealed network may accept only the batch size for which it was exported
        if layout is not None:
            known[kind] = layout
    with use_memory_format(known.get(kind, _MEMORY_FORMATS[0])):
        yield


@torch.no_grad()
def _trial(model: nn.Module, image: Images) -> torch.memory_format | None:
    """Return the memory format that the network accepts, None if it accepts none."""
    pair = torch.cat([image, 1 - image])
    layout, together = _first_that_passes(model, pair)
    if layout is None:
        return None
    before = torch.get_rng_state()
    alone = _alone(model, image.contiguous(memory_format=layout))
    by_chance = not torch.equal(before, torch.get_rng_state())
    if len(together) != 2 or len(alone) != 1:
        raise InputError(
            f"expected one row of logits for each image; got {len(together)} for 2 images and {len(alone)} for 1; "
            "make one row of what belongs to an image: ibviz.wrap(network, output=lambda output: ...)"
        )
    if _differ(together, alone[0]):
        once_more = model(image)
        _refuse_differences(by_chance=by_chance, in_time=_differ(torch.cat([alone, together[1:]]), once_more[0]))
    _refuse_other_names(model, together)
    if head_of(model).name in _ENDS and bool(((together >= 0) & (together <= 1)).all()):
        _refuse_probabilities_at_the_end(model, image)
    return layout


def _first_that_passes(model: nn.Module, pair: Images) -> tuple[torch.memory_format | None, Tensor]:
    for layout in _MEMORY_FORMATS:
        try:
            return layout, model(pair.contiguous(memory_format=layout))
        except InputError:
            raise
        except (
            RuntimeError,
            AssertionError,
            ValueError,
            TypeError,
            IndexError,
        ):  # such as by `view`
            continue
    return None, pair


def _alone(model: nn.Module, image: Images) -> Tensor:
    try:
        return model(image)
    except InputError as error:
        raise InputError(
            f"this network gives logits (b, classes) for several images, but not for one: {error}; in the network, "
            "take flatten(1) in the place of squeeze()"
        ) from error


def _differ(together: Tensor, alone: Tensor) -> bool:
    """Return True if the first of two images has other logits alone than together, beyond rounding."""
    change, between = (together[0] - alone).abs().max(), (together[0] - together[1]).abs().max()
    rounding = _ROUNDING * torch.finfo(together.dtype).eps * together.abs().max()
    return bool(change > _NEIGHBOUR_SHARE * between + rounding)  # NaN is refused elsewhere


def _refuse_differences(*, by_chance: bool, in_time: bool) -> None:
    """Raise the `InputError` for a network whose logits of one image differ between passes or with its neighbours."""
    if by_chance:
        raise InputError(
            "this network draws random numbers in eval mode, as dropout with training=True does, so that two passes "
            "of one image differ; switch that off, or explain a network whose noise is fixed"
        )
    if in_time:
        raise InputError(
            "this network changes with every pass in eval mode, so that two passes of one image differ; it keeps "
            "something from pass to pass, such as a moving average: switch that off in eval mode"
        )
    raise InputError(
        "images of a batch change one another's logits in this network, as normalisation over the batch does, so that "
        "a map would depend on its neighbours; compute each image by itself"
    )


def _refuse_other_names(model: nn.Module, logits: Tensor) -> None:
    """Raise `InputError` if the stated names of classes are not as many as the outputs."""
    names = getattr(getattr(model, "spec", None), "class_names", ())
    if head_of(model).has_probability and names and len(names) != logits.shape[1]:
        raise InputError(
            f"the network gives {logits.shape[1]} outputs for each image, and {len(names)} class_names were given; "
            "give ibviz.wrap one for each output"
        )


def _refuse_probabilities_at_the_end(model: nn.Module, image: Images) -> None:
    """Raise `InputError` if the last thing that a network computes makes probabilities."""
    with torch.enable_grad():
        node = model(image.clone().requires_grad_()).grad_fn
    while node is not None and _kind(node) in _RESHAPES:
        node = node.next_functions[0][0]
    if node is not None and _kind(node) in _ENDS[head_of(model).name]:
        raise InputError(
            f"this network ends in a {_kind(node).lower()}, and what it gives are probabilities, not logits; give it "
            "without that, or ibviz.wrap(network, head='sigmoid', output=lambda output: output.logit(1e-6))"
        )


def _kind(node: object) -> str:
    name: Callable[[], str] = getattr(node, "name", str)
    return name().rstrip("0123456789").removesuffix("Backward")


def refuse_misplaced_cells(model: nn.Module, images: Images, layer: str) -> None:
    """Raise `InputError` if a network crops, mirrors or turns its images before a layer; checked once per size."""
    known, size = _PLACED.setdefault(model, set()), (images.shape[2], images.shape[3])
    if (layer, size) in known:
        return
    if (seen := pixels_behind(model, probe(size, images.shape[1]).to(images), layer)) is not None:
        (pixels, *halves), grid = seen
        for last in (False, True):
            refuse_crop(pixels, grid, last=last)
        _refuse_turn(pixels, halves, grid, layer)
    known.add((layer, size))


def _refuse_turn(pixels: Tensor, halves: Sequence[Tensor], grid: Grid, layer: str) -> None:
    """Raise `InputError` if the first half of the cells depends more on the last half of the pixels, or on other axes.

    Compared is the share of each pixel's effect that goes to the first half of the cells. All pixels that have an
    effect count alike: a layer behind attention depends mostly on the pixels below its open cells, and where these lie
    says nothing of a turn.
    """
    for axis, what in enumerate(("rows", "columns")):
        if grid[axis] < 2:
            continue
        first, last = (part.abs().sum(0).double() for part in (halves[axis], pixels - halves[axis]))
        seen = first + last > 0
        shift = _centre(seen.double()) - _centre((first / (first + last)).where(seen, 0))
        along, across = float(shift[axis]), float(shift[1 - axis])
        if along < -_TURNED or abs(across) > along + _TURNED:
            raise InputError(
                f"the first {what} of cells of layer {layer!r} depend most on pixels elsewhere: this network mirrors, "
                "turns or reorders its images, so that a map would lie in the wrong place; name a layer before that, "
                "or turn the images outside the network"
            )


def _centre(weights: Float[Tensor, "h w"]) -> Float[Tensor, "2"]:
    """Return the centre of the weights, as fractions of the height and the width."""
    places = [torch.arange(side, device=weights.device) / side for side in weights.shape]
    return torch.stack([(weights.sum(1 - axis) * place).sum() for axis, place in enumerate(places)]) / weights.sum()


def refuse_crop(pixels: Float[Tensor, "c h w"], grid: Grid, *, last: bool) -> None:
    """Raise `InputError` if no cell depends on the outermost pixels of the image.

    Args:
        pixels: Gradients of the cells with respect to the pixels.
        grid: Rows and columns of the cells.
        last: True to check the last rows and columns, where a strided convolution may leave out less than a cell;
            False to check the first.
    """
    seen = pixels.abs().sum(0) > 0
    for axis, what in enumerate(("rows", "columns")):
        depends = seen.any(1 - axis)
        depends = depends.flip(0) if last else depends
        left_out = int(depends.int().argmax()) if bool(depends.any()) else 0
        cell = seen.shape[axis] / grid[axis]
        if left_out >= max(2, cell if last else cell / 4):
            raise InputError(
                f"no cell depends on the {'last' if last else 'first'} {left_out} {what} of pixels: this network crops "
                "its images, so that a map would lie in the wrong place; crop the images before"
            )
