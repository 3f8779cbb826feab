"""Imputation of removed pixels from the remaining ones: ROAD's linear imputer and OpenCV's inpainting."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from ibviz.errors import InputError
from ibviz.types import Grid, Images, Masks

_NOISE = 0.01  # standard deviation, brightness in [0, 1]; as in the authors' code
_TOLERANCE = 1e-5  # an image counts as solved once the estimated error of every pixel is below it
_ITERATIONS = 1000  # at most; about ten are usual, long narrow images need more
_COARSEST = 4  # pixels per side of the coarsest level
_SWEEPS = 4  # Jacobi sweeps on the coarsest level
_ENTRIES_AT_ONCE = {"cpu": 2**19}  # values solved at once: as many as fit a cache; changes no number
_ENTRIES_ON_GPU = 2**25
_STEPS_AT_ONCE = {"cpu": 1}  # iterations between convergence checks, each of which makes a GPU wait
_STEPS_ON_GPU = 4
_RADIUS = 3.0  # pixels around a removed one that OpenCV considers

Field = Float[Tensor, "n 1 h w"]  # one channel of one image per row


@torch.no_grad()
def road(images: Images, removed: Masks, *, seed: int) -> Images:
    """Impute removed pixels by ROAD's noisy linear imputation (Rong 2022): the weighted mean of their neighbours.

    Direct neighbours weigh 1/6 and diagonal ones 1/12, renormalised at the border. The sparse linear system is solved
    for all images at once, on their device, to 1e-4. Gaussian noise of 0.01, the same for every image, is added to
    removed pixels, so that results are independent of the batch; the result is clipped to [0, 1]. An image whose pixels
    are all removed becomes its own mean colour, the expectation if one random pixel remained.

    >>> images = torch.tensor([0.0, 0.5, 1.0]).expand(1, 3, 1, 3)
    >>> road(images, torch.tensor([[[False, True, False]]]), seed=0)[0, 0].round(decimals=1)
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    _check(images)
    at_once = max(1, _ENTRIES_AT_ONCE.get(images.device.type, _ENTRIES_ON_GPU) // images[:1].numel())
    noise = _NOISE * torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed))
    pairs = zip(images.float().split(at_once), removed.split(at_once), strict=True)
    filled = torch.cat([_filled(batch, removed_pixels) for batch, removed_pixels in pairs]) + noise.to(images.device)
    return torch.where(removed.unsqueeze(1), filled.clamp(0, 1).to(images.dtype), images)


def inpaint(images: Images, removed: Masks) -> Images:
    """Impute removed pixels by OpenCV's fast marching (Telea 2004), image by image on the CPU, in 8 bits.

    Remaining pixels keep their exact values; an image whose pixels are all removed becomes its own mean colour.

    >>> images = torch.full((1, 3, 3, 3), 0.2)
    >>> inpaint(images, torch.eye(3, dtype=torch.bool)[None])[0, 0, 1].round(decimals=1)
    tensor([0.2000, 0.2000, 0.2000])
    """
    _check(images)
    host = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    holes = removed.byte().cpu().numpy()
    filled = np.stack([_telea(image, hole) for image, hole in zip(host, holes, strict=True)])
    result = torch.from_numpy(filled).permute(0, 3, 1, 2).to(images.device).to(images.dtype) / 255
    result = torch.where(_all(removed), images.mean((2, 3), keepdim=True), result)
    return torch.where(removed.unsqueeze(1), result, images)


def _telea(image: UInt8[np.ndarray, "h w c"], hole: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w c"]:
    """Fill one image; OpenCV takes one or three channels, so any other number is filled channel by channel."""
    import cv2

    parts = [image] if image.shape[2] == 3 else np.split(image, image.shape[2], axis=2)
    filled = [cv2.inpaint(np.ascontiguousarray(part), hole, _RADIUS, cv2.INPAINT_TELEA) for part in parts]
    return np.concatenate([part.reshape(*hole.shape, -1) for part in filled], axis=2)


def _check(images: Images) -> None:
    if not images.numel():
        raise InputError(f"expected at least one image of at least one pixel; got shape {tuple(images.shape)}")


def _all(removed: Masks) -> Bool[Tensor, "b 1 1 1"]:
    return removed.flatten(1).all(1).view(-1, 1, 1, 1)


def _filled(images: Images, removed: Masks) -> Images:
    """Solve `weights * value = sum over neighbours of weight * value` at removed pixels, given the others."""
    size = (images.shape[2], images.shape[3])
    levels = _levels(removed.repeat_interleave(images.shape[1], 0), size)
    mean = images.mean((2, 3), keepdim=True)  # an offset that makes the solution of a fully removed image 0
    known = torch.where(removed.unsqueeze(1), 0, images - mean)
    known = pad(known.flatten(0, 1).unsqueeze(1), levels[0].padding)
    solved = _solve(levels, _neighbours(known).mul_(levels[0].free))
    return solved[:, 0, : size[0], : size[1]].unflatten(0, images.shape[:2]) + mean


class _Level(NamedTuple):
    """Linear system at one resolution; each level has half the resolution of the one before."""

    free: Field  # 1 at removed pixels, whose values are unknown
    weight: Field  # sum of the weights of the neighbours inside the image
    inverse: Field  # 1 / `weight` at free pixels, otherwise 0
    padding: tuple[int, int, int, int]


def _levels(removed: Masks, size: Grid) -> list[_Level]:
    """Build the system at every resolution; `removed` has one row per channel of each image."""
    depth = max(0, (min(size) // _COARSEST).bit_length() - 1)
    padding = (0, -size[1] % 2**depth, 0, -size[0] % 2**depth)
    inside = pad(torch.ones(1, 1, *size, device=removed.device), padding)
    left = pad((~removed).float().unsqueeze(1), padding)
    levels = []
    for side in (2**step for step in range(depth + 1)):
        if side > 1:
            inside, left = max_pool2d(inside, 2), max_pool2d(left, 2)  # a cell with a known pixel is known
        # A known value acts from its pixel, which is closer than the centre of its coarse cell, and so weighs more.
        weight = _neighbours(inside) + _neighbours(left) * ((side - 1) / (side + 1))
        levels.append(_Level(inside - left, weight, (inside - left) / weight.clamp(min=1e-6), padding))
    return levels


def _neighbours(values: Field) -> Field:
    """Weighted sum over the eight neighbours."""
    return _blurred(values).sub_(values, alpha=4).div_(12)


def _blurred(values: Field) -> Field:
    """Weighted sum of a pixel (4), its direct neighbours (2) and diagonal ones (1): (1 2 1) along each axis."""
    rows = values + values
    rows[:, :, 1:] += values[:, :, :-1]
    rows[:, :, :-1] += values[:, :, 1:]
    both = rows + rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both


def _residual(level: _Level, wanted: Field, values: Field) -> Field:
    """Residual of the level's system; `values` are 0 at known pixels."""
    return (_neighbours(values).mul_(level.free)).add_(wanted).addcmul_(level.weight, values, value=-1)


def _solve(levels: list[_Level], wanted: Field) -> Field:
    """Solve by conjugate gradients with a multigrid preconditioner; an image that is solved no longer changes."""
    solution, residual, direction = torch.zeros_like(wanted), wanted, torch.zeros_like(wanted)
    before = torch.ones_like(wanted[:, :1, :1, :1])
    at_once = _STEPS_AT_ONCE.get(wanted.device.type, _STEPS_ON_GPU)
    for step in range(_ITERATIONS):
        correction = _cycle(levels, residual)
        going = correction.abs().amax((1, 2, 3), keepdim=True) >= _TOLERANCE  # the correction estimates the error
        if step % at_once == 0 and not going.any():
            break
        now = _dot(residual, correction)
        direction = correction.addcmul_(direction, torch.where(going, now / before, 0))
        change = _residual(levels[0], torch.zeros_like(wanted), direction)
        length = torch.where(going, -now / _dot(direction, change), 0)
        solution.addcmul_(direction, length)
        residual = residual.addcmul(change, length)
        before = now
    return solution


def _dot(x: Field, y: Field) -> Float[Tensor, "n 1 1 1"]:
    return (x * y).sum((1, 2, 3), keepdim=True)


def _cycle(levels: list[_Level], wanted: Field) -> Field:
    """Run one multigrid V-cycle from 0, a symmetric approximate inverse; each Jacobi sweep smooths by a factor of 3."""
    level, *coarser = levels
    values = wanted * level.inverse
    if not coarser:
        for _ in range(_SWEEPS):
            values.addcmul_(_residual(level, wanted, values), level.inverse)
        return values
    below = avg_pool2d(_blurred(_residual(level, wanted, values)), 2).div_(4).mul_(coarser[0].free)
    step = _blurred(interpolate(_cycle(coarser, below), scale_factor=2))
    values.addcmul_(step, level.free, value=1 / 16)
    return values.addcmul_(_residual(level, wanted, values), level.inverse)
