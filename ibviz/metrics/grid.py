"""Resampling of maps onto the common grid of a comparison, and of its cells onto pixels."""

from collections.abc import Sized
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, interpolate

from ibviz.errors import InputError
from ibviz.types import Grid, Images, Maps

Enlargement = Literal["nearest", "bilinear"]


def on_grid(maps: Maps, grid: Grid) -> Float[Tensor, "b {grid[0]} {grid[1]}"]:
    """Resample maps to float32 on `grid`: average an axis that is finer, repeat the cells of one that is coarser.

    If a finer axis is no multiple of the grid, each cell averages all source cells that it touches, and a source cell
    on a border counts in both. If a coarser axis does not divide the grid, each cell takes the source cell at its
    centre.

    Raises:
        InputError: If a map is not finite.

    >>> on_grid(torch.tensor([[[0.0, 2.0], [4.0, 6.0]]]), (1, 4))
    tensor([[[2., 2., 4., 4.]]])
    """
    maps = finite(maps)
    return _enlarged(_averaged(maps, (min(maps.shape[1], grid[0]), min(maps.shape[2], grid[1]))), grid)


def enlarged(maps: Maps, size: Grid, rule: Enlargement) -> Float[Tensor, "b {size[0]} {size[1]}"]:
    """Enlarge maps to one value per pixel: "nearest" keeps their values, "bilinear" interpolates between them.

    Bilinear is that of CAM libraries (`align_corners=False`). A map finer than the image is averaged into pixels first.

    >>> enlarged(torch.tensor([[[0.0, 1.0]]]), (1, 4), "bilinear")
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if rule == "nearest":
        return on_grid(maps, size)
    maps = finite(maps)
    maps = on_grid(maps, (min(maps.shape[1], size[0]), min(maps.shape[2], size[1])))
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    fine = interpolate(maps.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)
    return fine.clamp(low, high)  # a constant map keeps its exact value despite rounding


def min_max_scaled(maps: Maps) -> Maps:
    """Scale each map to [0, 1] by its own minimum and maximum; a constant map, which has no scale, becomes 1.

    >>> min_max_scaled(torch.tensor([[[2.0, 4.0], [3.0, 3.0]]]))
    tensor([[[0.0000, 1.0000],
             [0.5000, 0.5000]]])
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 1)


def in_range(images: Images) -> Images:
    """Return the images if they lie in [0, 1], give or take the rounding of a resize.

    Raises:
        InputError: If a value lies outside or is NaN.

    >>> in_range(torch.ones(1, 3, 1, 1)).shape
    torch.Size([1, 3, 1, 1])
    """
    low, high = float(images.amin()), float(images.amax())  # `aminmax` would copy images that are channels-last
    if low >= -1e-3 and high <= 1 + 1e-3:
        return images
    way = "divide bytes by 255, and " if high > 2 else ""
    raise InputError(
        f"images must be in [0, 1] pixel space, not normalised; got {low:.3g} to {high:.3g}; {way}tell "
        "ibviz.wrap the mean and std by which the network normalises"
    )


def check_one_each(maps: Sized, others: Sized, name: str) -> None:
    """Raise `InputError` unless there is one of `others`, called `name`, per map."""
    if len(maps) != len(others):
        raise InputError(f"expected {name} of each of {len(maps)} maps; got those of {len(others)}")


def finite(maps: Maps) -> Maps:
    """Return maps in float32; raise `InputError` for NaN and infinite values, which have no order, and an empty batch.

    >>> finite(torch.tensor([[[float("nan")]]]))
    Traceback (most recent call last):
    ibviz.errors.InputError: maps must be finite; 1 of 1 are not, the first at index 0
    """
    if not maps.numel():
        raise InputError(f"expected at least one map of at least one cell; got shape {tuple(maps.shape)}")
    maps = maps.float()
    bad = ~maps.isfinite().flatten(1).all(1)
    if bad.any():
        count, first = int(bad.sum()), int(bad.nonzero()[0])
        raise InputError(f"maps must be finite; {count} of {len(maps)} are not, the first at index {first}")
    return maps


def paint(cells: Bool[Tensor, "b gh gw"], size: Grid) -> Bool[Tensor, "b {size[0]} {size[1]}"]:
    """Give every pixel the value of the cell that holds its centre; `size` is rows and columns in pixels.

    >>> paint(torch.tensor([[[True, False]]]), (1, 4))
    tensor([[[ True,  True, False, False]]])
    """
    return _enlarged(cells, size)


def cell_areas(grid: Grid, size: Grid) -> Int[Tensor, " cells"]:
    """Count the pixels of each cell as `paint` draws it, in row-major order; a grid finer than the image is an error.

    >>> cell_areas((1, 2), (2, 3))
    tensor([2, 4])
    """
    if grid[0] > size[0] or grid[1] > size[1]:
        raise InputError(f"a cell must hold a pixel; got a grid of {grid} cells on images of {tuple(size)} pixels")
    whole = torch.arange(grid[0] * grid[1]).view(1, *grid)
    return _enlarged(whole, size).flatten().bincount(minlength=whole.numel())


def _averaged(maps: Maps, grid: Grid) -> Float[Tensor, "b {grid[0]} {grid[1]}"]:
    """Average in double precision, in which sums of the same few levels are equal in any order, so that ties remain."""
    low, high = -adaptive_max_pool2d(-maps, grid), adaptive_max_pool2d(maps, grid)
    mean = adaptive_avg_pool2d(maps.double(), grid).float()
    return mean.clamp(low, high)  # a constant block keeps its exact value despite rounding


def _enlarged(values: Shaped[Tensor, "b gh gw"], size: Grid) -> Shaped[Tensor, "b {size[0]} {size[1]}"]:
    rows = _nearest(size[0], values.shape[1], values.device)
    columns = _nearest(size[1], values.shape[2], values.device)
    return values.index_select(2, columns).index_select(1, rows)


def _nearest(pixels: int, cells: int, device: torch.device) -> Int[Tensor, " {pixels}"]:
    centres = 2 * torch.arange(pixels, device=device) + 1
    return centres * cells // (2 * pixels)  # integer arithmetic: no rounding can move a border
