"""Perturbation methods: the change of the target's score when windows or random cells of an image turn black.

Maps have one value per pixel. Random draws follow from `seed` alone and are shared by all images, so that a map depends
neither on its batch nor on the device. An image that is explained for several targets passes the network once.
"""

from functools import partial
from typing import Annotated, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.attribution.control_variate import (
    MaskEstimate,
    MaskLaw,
    expected_maps,
    mask_features,
    mask_law,
    masked_estimate,
)
from ibviz.attribution.forward_pass import (
    at_least_float32,
    copies_per_pass,
    distinct_inputs,
    predict_logits,
)
from ibviz.attribution.sampling import BLOCK, COPIES, Drawing, ErrorLimit, Sampling, record_errors, units_in
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


def rise(  # noqa: PLR0913 - three inputs, six options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    masks: Count = 1000,
    sampling: Sampling = "paired",
    error: ErrorLimit | None = None,
    grid: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (7, 7),
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """RISE (Petsiuk 2018): mean of random masks, weighted by the target's probability for the masked image.

    Each cell of a mask is drawn 0 or 1; masks are enlarged bilinearly and shifted by up to a cell. All images share
    them. The probability follows the network's head; for a regression it is the output itself. "plain" is the published
    estimator, the mean of s M / E[M]. "paired" estimates the same map without bias: each mask comes with its complement
    (antithetic draws), so that every cell is kept equally often, and the part of the scores that is linear in the mask
    enters by its exact expectation (`attribution/control_variate.py`).

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        masks: Most masks per image; noise falls with their square root. The paper takes 4000 to 8000 at 224 pixels.
        sampling: "paired" (an odd number of masks is rounded up) or "plain".
        error: Draw in blocks of 64 masks until the standard error is below this share of the map's size, for each
            image by itself; None to draw all. Both are root mean squares over a coarse grid of at most 8 x 8 cells, of
            the map minus its mean; `ibviz.attribution.recorded_errors` tells the error reached.
        grid: Rows and columns of cells in a mask.
        seed: Seed of the masks.
        batch_size: The most masked images in one pass.

    Returns:
        One value per pixel, in units of probability.
    """
    draws = draw_masks(units_in(masks, sampling), grid, (images.shape[2], images.shape[3]), seed)
    estimated = _drawn_until(model, images, targets, draws, COPIES[sampling], error, batch_size)
    return mask_maps(images, draws, estimated, batch_size)


class MaskDraws(NamedTuple):
    """Random masks as cells and shifts, with their law along both axes; one of each pair."""

    cells: MaskCells
    shifts: Int[Tensor, "n 2"]
    laws: tuple[MaskLaw, MaskLaw]
    size: Grid

    def shown(self, block: Int[Tensor, " n"], like: Tensor) -> Float[Tensor, "n h w"]:
        """Return some of the masks, with the device and type of a tensor."""
        return shifted_masks(self.cells[block].to(like), self.shifts[block].to(like.device), self.size)


def draw_masks(count: int, grid: Grid, size: Grid, seed: int) -> MaskDraws:
    """Draw masks of `grid` cells for images of `size` pixels."""
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(count, *grid, generator=generator) < KEPT).float()
    sides = [-(-side // cells) for side, cells in zip(size, grid, strict=True)]
    shifts = (torch.rand(count, 2, generator=generator) * torch.tensor(sides)).long()
    rows, columns = (mask_law(*axis) for axis in zip(size, grid, sides, strict=True))
    return MaskDraws(cells, shifts, (rows, columns), size)


def _drawn_until(  # noqa: PLR0913 - three inputs and what is drawn
    model: nn.Module,
    images: Images,
    targets: Labels,
    draws: MaskDraws,
    copies: int,
    error: float | None,
    batch_size: int,
) -> MaskEstimate:
    """Return the estimate of each image from as many masks as it takes to reach the standard error, or from all."""
    drawing, features = Drawing(len(images), error), mask_features(draws.cells, draws.shifts, draws.laws)
    units, drawn = len(features), 0
    scores = features.new_zeros(copies, units, len(images))
    offset, weights, beta = scores[0, 0].clone(), scores[0].clone(), features.new_zeros(features.shape[1], len(images))
    for block in torch.arange(units).split(units if error is None else BLOCK // copies):
        rows, drawn = drawing.waiting, int(block[-1]) + 1
        scores[:, block[:, None], rows] = mask_scores(
            model, images[rows], targets[rows], draws, block, copies, batch_size
        )
        estimated = masked_estimate(features[:drawn], scores[:, :drawn, rows], draws.laws)
        offset[rows], beta[:, rows] = estimated.offset, estimated.beta
        weights[:drawn, rows] = estimated.weights
        drawing.reach(estimated.errors)
        if not len(drawing.waiting):
            break
    record_errors(drawing.errors)
    return MaskEstimate(offset, weights[:drawn], beta, drawing.errors)


def mask_scores(  # noqa: PLR0913 - three inputs and what is drawn
    model: nn.Module,
    images: Images,
    targets: Labels,
    draws: MaskDraws,
    block: Int[Tensor, " n"],
    copies: int,
    batch_size: int,
) -> Float[Tensor, "copies n b"]:
    """Return the target's probability for each image under masks and, if there are two copies, their complements."""
    inputs, head = distinct_inputs(images, targets), head_of(model)
    rows, parts = copies_per_pass(inputs.images, batch_size), []
    for some in block.split(max(1, rows // copies)):
        masks = draws.shown(some, images)
        states = torch.cat([masks, 1 - masks]) if copies == 2 else masks
        logits = [
            predict_logits(model, (part[:, None, None] * inputs.images).flatten(0, 1)) for part in states.split(rows)
        ]
        scores = head.probability(torch.cat(logits))[:, inputs.classes].unflatten(0, (len(states), -1))
        parts.append(scores[:, inputs.image_index, inputs.class_index].unflatten(0, (copies, -1)).double().cpu())
    return torch.cat(parts, dim=1)


def mask_maps(images: Images, draws: MaskDraws, estimated: MaskEstimate, batch_size: int) -> Maps:
    """Return the map of each image from an estimate: the part that is known, and the weighted sum of the masks."""
    known = expected_maps(estimated.beta, draws.laws) + estimated.offset[:, None, None]
    total = at_least_float32(images.new_zeros(len(images), images[0, 0].numel()))
    for block in torch.arange(len(estimated.weights)).split(copies_per_pass(images[:1], batch_size)):
        with torch.autocast(images.device.type, enabled=False):  # it would round the sum
            total += estimated.weights[block].T.to(total) @ (draws.shown(block, total) - KEPT).flatten(1)
    return (total.view(-1, *images.shape[2:]) + known.to(total)).float()


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
