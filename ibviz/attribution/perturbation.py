"""Perturbation methods: the change of the target's score when windows or random cells of an image turn black.

Maps have one value per pixel. Random draws follow from `seed` alone and are shared by all images, so that a map depends
neither on its batch nor on the device. An image that is explained for several targets passes the network once.
"""

from functools import partial
from typing import Annotated, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.attribution.forward_pass import (
    at_least_float32,
    copies_per_pass,
    distinct_inputs,
    predict_logits,
)
from ibviz.errors import InputError
from ibviz.heads import head_of
from ibviz.settings import Count
from ibviz.types import Grid, Images, Labels, Maps

KEPT = 0.5  # probability that a cell of a RISE mask shows the image
MaskCells = Float[Tensor, "n rows columns"]


def occlusion(
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    window: Count | None = None,
    stride: Count | None = None,
    batch_size: Count = 64,
) -> Maps:
    """Occlusion (Zeiler 2014): mean drop of the target's logit over the black windows that cover a pixel, by Captum.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        window: Side of the window in pixels; an eighth of the image's shorter side if None.
        stride: Step of the window in pixels, at most its side; half of it if None.
        batch_size: The most occluded images in one pass.

    Returns:
        One value per pixel, in units of the logit.

    Raises:
        InputError: If the window does not fit into the image, or the stride not into the window.
    """
    from captum.attr import Occlusion

    side = window or max(1, min(images.shape[2:]) // 8)
    step = stride or max(1, side // 2)
    if side > min(images.shape[2:]) or step > side:
        raise InputError(
            f"occlusion's window has to fit into the image of {tuple(images.shape[2:])} pixels, and its "
            f"stride into the window, so that no pixel is left out; got {side} and {step}"
        )
    parts = Occlusion(partial(predict_logits, model)).attribute(
        images,
        sliding_window_shapes=(images.shape[1], side, side),
        strides=(images.shape[1], step, step),
        baselines=0.0,
        target=targets,
        perturbations_per_eval=copies_per_pass(images, batch_size),
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
    """RISE (Petsiuk 2018): mean of random masks, weighted by the target's probability for the masked image.

    Each cell of a mask is drawn 0 or 1; masks are enlarged bilinearly and shifted by up to a cell. All images share
    them. The probability follows the network's head; for a regression it is the output itself.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        masks: Number of masks; noise falls with its square root. The paper takes 4000 to 8000 at 224 pixels.
        grid: Rows and columns of cells in a mask.
        seed: Seed of the masks.
        batch_size: The most masked images in one pass.

    Returns:
        One value per pixel, in units of probability.
    """
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(masks, *grid, generator=generator) < KEPT).to(images)
    sides = torch.tensor([-(-side // count) for side, count in zip(images.shape[2:], grid, strict=True)])
    shifts = (torch.rand(masks, 2, generator=generator) * sides).long().to(images.device)
    inputs, head = distinct_inputs(images, targets), head_of(model)
    rows = copies_per_pass(inputs.images, batch_size)
    total = at_least_float32(images.new_zeros(len(images), images[0, 0].numel()))
    for part, shift in zip(cells.split(rows), shifts.split(rows), strict=True):
        seen = shifted_masks(part, shift, (images.shape[2], images.shape[3]))
        states = (seen[:, None, None] * inputs.images).flatten(0, 1)
        scores = head.probability(predict_logits(model, states))[:, inputs.classes].unflatten(0, (len(seen), -1))
        with torch.autocast(images.device.type, enabled=False):  # it would round the sum
            total += scores[:, inputs.image_index, inputs.class_index].to(total).T @ seen.flatten(1).to(total)
    return (total.view(-1, *images.shape[2:]) / (KEPT * masks)).float()


def shifted_masks(cells: MaskCells, shifts: Int[Tensor, "n 2"], size: Grid) -> Float[Tensor, "n h w"]:
    """Return masks in [0, 1]: cells enlarged bilinearly to one cell more than `size`, then cropped at `shifts`.

    >>> shifted_masks(torch.ones(1, 2, 2), torch.tensor([[1, 0]]), (4, 4)).unique()
    tensor([1.])
    """
    cell = [-(-side // count) for side, count in zip(size, cells.shape[1:], strict=True)]
    large = [(count + 1) * side for count, side in zip(cells.shape[1:], cell, strict=True)]
    enlarged = F.interpolate(cells.unsqueeze(1), large, mode="bilinear", align_corners=False).squeeze(1)
    rows, columns = (
        shifts[:, [axis]] + torch.arange(size[axis], device=cells.device) for axis in (0, 1)
    )  # the rows and columns that each mask keeps
    return enlarged[torch.arange(len(cells), device=cells.device)[:, None, None], rows[:, :, None], columns[:, None]]
