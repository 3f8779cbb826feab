"""What the target's score loses when parts of the image are hidden behind black.

Draws follow from `seed` alone and are shared by all images, so that a map depends neither on its batch nor on the
device. The native grid is that of the pixels.
"""

from typing import Annotated, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from ibviz.attribution.gradients import Count, copies_a_pass
from ibviz.errors import InputError
from ibviz.types import Grid, Images, Labels, Maps, Scores

KEPT = 0.5  # probability with which a cell of RISE's masks is seen
Cells = Float[Tensor, "n rows columns"]


def occlusion(
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    window: Count | None = None,
    stride: Count | None = None,
    batch_size: Count = 64,
) -> Maps:
    """Mean loss of the logit over the black windows that cover a pixel (Zeiler 2014), through Captum.

    `window` is a side in pixels, an eighth of the image's shorter side if None; `stride` is half a window if None.
    """
    from captum.attr import Occlusion  # noqa: PLC0415 - a second to import

    side = window or max(1, min(images.shape[2:]) // 8)
    step = stride or max(1, side // 2)
    if side > min(images.shape[2:]):
        raise InputError(
            f"occlusion's window has to fit into the image of {tuple(images.shape[2:])} pixels; got {side}"
        )
    parts = Occlusion(model).attribute(
        _channels_last(images),
        sliding_window_shapes=(3, side, side),
        strides=(3, step, step),
        baselines=0.0,
        target=targets,
        perturbations_per_eval=copies_a_pass(images, batch_size),
    )
    return cast(Tensor, parts)[:, 0].float()


def rise(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    masks: Count = 1000,
    grid: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (7, 7),
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """RISE (Petsiuk 2018): random masks averaged by the probability of the image seen through them.

    Masks are coin flips on `grid`, enlarged and shifted by up to a cell; all images share them. On pixels, in units of
    probability; the noise falls with the root of `masks`, of which the paper takes 4000 to 8000 at 224 px.
    """
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(masks, *grid, generator=generator) < KEPT).to(images)
    sides = torch.tensor([-(-side // count) for side, count in zip(images.shape[2:], grid, strict=True)])
    shifts = (torch.rand(masks, 2, generator=generator) * sides).long().to(images.device)
    rows = copies_a_pass(images, batch_size)
    total = images.new_zeros(len(images), *images.shape[2:])
    for part, shift in zip(cells.split(rows), shifts.split(rows), strict=True):
        seen = shifted_masks(part, shift, (images.shape[2], images.shape[3]))
        states = (seen[:, None, None] * images).flatten(0, 1)
        scores = target_probabilities(model, states, targets.repeat(len(seen))).unflatten(0, (len(seen), len(images)))
        total += (scores[..., None, None] * seen[:, None]).sum(0)
    return (total / (KEPT * masks)).float()


def shifted_masks(cells: Cells, shifts: Int[Tensor, "n 2"], size: Grid) -> Float[Tensor, "n h w"]:
    """Masks in [0, 1] of `size` from values of cells: enlarged bilinearly by one cell more, then cut out at `shifts`.

    >>> shifted_masks(torch.ones(1, 2, 2), torch.tensor([[1, 0]]), (4, 4)).unique()
    tensor([1.])
    """
    cell = [-(-side // count) for side, count in zip(size, cells.shape[1:], strict=True)]
    large = [(count + 1) * side for count, side in zip(cells.shape[1:], cell, strict=True)]
    enlarged = F.interpolate(cells.unsqueeze(1), large, mode="bilinear", align_corners=False).squeeze(1)
    rows, columns = (
        shifts[:, [axis]] + torch.arange(size[axis], device=cells.device) for axis in (0, 1)
    )  # one run of places for each mask
    return enlarged[torch.arange(len(cells), device=cells.device)[:, None, None], rows[:, :, None], columns[:, None]]


def target_logits(model: nn.Module, images: Images, targets: Labels) -> Scores:
    """The target's logit of every image, float32, without gradients."""
    with torch.no_grad():
        return model(_channels_last(images)).float().gather(1, targets.unsqueeze(1)).squeeze(1)


def target_probabilities(model: nn.Module, images: Images, targets: Labels) -> Scores:
    """The target's softmax probability of every image, float32, without gradients."""
    with torch.no_grad():
        return model(_channels_last(images)).float().softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)


def enlarged(grids: Float[Tensor, "b c gh gw"], images: Images) -> Float[Tensor, "b c h w"]:
    """Bilinearly, to the size of the images and in their precision."""
    return F.interpolate(grids.to(images.dtype), images.shape[2:], mode="bilinear", align_corners=False)


def _channels_last(images: Images) -> Images:
    """As convolutions read them fastest on most processors."""
    return images.contiguous(memory_format=torch.channels_last)
