"""A trial of a network before its maps are trusted, once for each network and kind of image.

Two images pass together, then one of them alone. The trial refuses networks whose logits no map may rest on, and finds
the memory format in which the network takes its images.
"""

from collections.abc import Callable, Iterator
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

SHARE = 0.02  # of the largest difference between two images: more, and neighbours change an image's logits
ROUNDING = 256  # times a dtype's epsilon is what logits of one image may differ by rounding
FORMATS = (torch.channels_last, torch.contiguous_format)  # the fastest first
GATES = ("Sigmoid", "Hardsigmoid")
LAYOUT = ("View", "UnsafeView", "Squeeze", "Unsqueeze", "Select", "Slice", "Cat", "Stack", "Mean", "Clone", "ToCopy")

Kind = tuple[torch.Size, torch.dtype, torch.device]
_KNOWN: "WeakKeyDictionary[nn.Module, dict[Kind, torch.memory_format]]" = WeakKeyDictionary()

_PLACED: "WeakKeyDictionary[nn.Module, set[tuple[str, Grid]]]" = WeakKeyDictionary()


@contextmanager
def tried(model: nn.Module, images: Images) -> Iterator[None]:
    """Inside the block, images are laid out as a network takes them that has passed its trial.

    Raises `InputError` if the logits have another number of rows than the images, if images of a batch change one
    another's logits, if they change by chance, or if they are probabilities already. A network that refuses the images
    of the trial is left to say so itself.
    """
    known = _KNOWN.setdefault(model.network if isinstance(model, Sealed) else model, {})
    kind = images.shape[1:], images.dtype, images.device
    if kind not in known:
        try:
            layout = _trial(model, images[:1])
        except InputError:
            if not any(isinstance(module, Sealed) for module in model.modules()):
                raise
            layout = None  # a sealed network may take no other number of images than it was made for
        if layout is not None:
            known[kind] = layout
    with use_memory_format(known.get(kind, FORMATS[0])):
        yield


@torch.no_grad()
def _trial(model: nn.Module, image: Images) -> torch.memory_format | None:
    """The memory format that the network takes, None if it takes none."""
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
    if head_of(model).has_probability and bool(((together >= 0) & (together <= 1)).all()):
        _refuse_sigmoid_at_the_end(model, image)
    return layout


def _first_that_passes(model: nn.Module, pair: Images) -> tuple[torch.memory_format | None, Tensor]:
    for layout in FORMATS:
        try:
            return layout, model(pair.contiguous(memory_format=layout))
        except InputError:
            raise
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError):  # such as `view` of what lies apart
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
    """Whether the first of two images has other logits alone, beyond rounding."""
    missed, between = (together[0] - alone).abs().max(), (together[0] - together[1]).abs().max()
    rounding = ROUNDING * torch.finfo(together.dtype).eps * together.abs().max()
    return bool(missed > SHARE * between + rounding)  # NaN is refused elsewhere


def _refuse_differences(*, by_chance: bool, in_time: bool) -> None:
    """Raise the `InputError` for a network whose logits of one image differ from pass to pass, or beside others."""
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


def _refuse_sigmoid_at_the_end(model: nn.Module, image: Images) -> None:
    """Raise `InputError` if the last thing that a network computes is a sigmoid."""
    with torch.enable_grad():
        node = model(image.clone().requires_grad_()).grad_fn
    while node is not None and _kind(node) in LAYOUT:
        node = node.next_functions[0][0]
    if node is not None and _kind(node) in GATES:
        raise InputError(
            "this network ends in a sigmoid, and what it gives are probabilities, not logits; give it without the "
            "sigmoid, or ibviz.wrap(network, head='sigmoid', output=lambda output: output.logit(1e-6))"
        )


def _kind(node: object) -> str:
    name: Callable[[], str] = getattr(node, "name", str)
    return name().rstrip("0123456789").removesuffix("Backward")


def refuse_cropping_before(model: nn.Module, images: Images, layer: str) -> None:
    """Raise `InputError` if a network crops its images before a layer; looked at once for each layer and size."""
    known, size = _PLACED.setdefault(model, set()), (images.shape[2], images.shape[3])
    if (layer, size) in known:
        return
    if (seen := pixels_behind(model, probe(size, images.shape[1]).to(images), layer)) is not None:
        for last in (False, True):
            refuse_crop(*seen, last=last)
    known.add((layer, size))


def refuse_crop(pixels: Float[Tensor, "c h w"], grid: Grid, *, last: bool) -> None:
    """Raise `InputError` if cells do not depend on the image's outermost pixels, at its first or its last ones.

    `pixels` are the gradients of the cells. At the end of an image a strided convolution may leave out less than a
    cell.
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
