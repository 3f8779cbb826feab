"""One declared grid for all methods of a comparison: maps brought onto it, its cells painted onto pixels."""

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
    """Bring maps to float32 on `grid`: a finer axis is averaged into the cells, a coarser one keeps its blocks as ties.

    Where a finer axis does not divide, a cell averages every pixel it touches, so a pixel on a border counts in both;
    where a coarser one does not divide, a cell takes the block its centre lies in. NaN and infinite maps are refused.

    >>> on_grid(torch.tensor([[[0.0, 2.0], [4.0, 6.0]]]), (1, 4))
    tensor([[[2., 2., 4., 4.]]])
    """
    maps = finite(maps)
    return _enlarged(_averaged(maps, (min(maps.shape[1], grid[0]), min(maps.shape[2], grid[1]))), grid)


def enlarged(maps: Maps, size: Grid, rule: Enlargement) -> Float[Tensor, "b {size[0]} {size[1]}"]:
    """One value for each pixel, by "nearest" blocks, which keep every level, or "bilinear", which invents new ones.

    Bilinear is that of CAM libraries (`align_corners=False`). A finer map is averaged into pixels first.

    >>> enlarged(torch.tensor([[[0.0, 1.0]]]), (1, 4), "bilinear")
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if rule == "nearest":
        return on_grid(maps, size)
    maps = finite(maps)
    maps = on_grid(maps, (min(maps.shape[1], size[0]), min(maps.shape[2], size[1])))
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    fine = interpolate(maps.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)
    return fine.clamp(low, high)  # so that rounding leaves a constant map its exact value


def unit(maps: Maps) -> Maps:
    """Each map scaled to [0, 1] by its own minimum and maximum; a constant one, which has no scale, becomes 1.

    >>> unit(torch.tensor([[[2.0, 4.0], [3.0, 3.0]]]))
    tensor([[[0.0000, 1.0000],
             [0.5000, 0.5000]]])
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 1)


def in_range(images: Images) -> Images:
    """The images, or an `InputError` where some leave [0, 1] by more than resizing may, or are no numbers.

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


def one_each(maps: Sized, others: Sized, name: str) -> None:
    """Refuse `others`, called by `name`, of which there is not one for each map."""
    if len(maps) != len(others):
        raise InputError(f"expected {name} of each of {len(maps)} maps; got those of {len(others)}")


def finite(maps: Maps) -> Maps:
    """Maps in float32; NaN and infinite ones are refused because they have no order, and so is an empty batch.

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
    """Give every pixel the value of the cell its centre lies in; `size` is rows, columns in pixels.

    >>> paint(torch.tensor([[[True, False]]]), (1, 4))
    tensor([[[ True,  True, False, False]]])
    """
    return _enlarged(cells, size)


def cell_areas(grid: Grid, size: Grid) -> Int[Tensor, " cells"]:
    """Pixels of each cell as `paint` draws it, in row-major order; a grid finer than the image is refused.

    >>> cell_areas((1, 2), (2, 3))
    tensor([2, 4])
    """
    if grid[0] > size[0] or grid[1] > size[1]:
        raise InputError(f"a cell must hold a pixel; got a grid of {grid} cells on images of {tuple(size)} pixels")
    whole = torch.arange(grid[0] * grid[1]).view(1, *grid)
    return _enlarged(whole, size).flatten().bincount(minlength=whole.numel())


def _averaged(maps: Maps, grid: Grid) -> Float[Tensor, "b {grid[0]} {grid[1]}"]:
    """In double precision, where the same few levels have one sum in any order, so that ties stay ties."""
    low, high = -adaptive_max_pool2d(-maps, grid), adaptive_max_pool2d(maps, grid)
    mean = adaptive_avg_pool2d(maps.double(), grid).float()
    return mean.clamp(low, high)  # so that rounding leaves a constant block its exact value


def _enlarged(values: Shaped[Tensor, "b gh gw"], size: Grid) -> Shaped[Tensor, "b {size[0]} {size[1]}"]:
    rows = _nearest(size[0], values.shape[1], values.device)
    columns = _nearest(size[1], values.shape[2], values.device)
    return values.index_select(2, columns).index_select(1, rows)


def _nearest(pixels: int, cells: int, device: torch.device) -> Int[Tensor, " {pixels}"]:
    centres = 2 * torch.arange(pixels, device=device) + 1
    return centres * cells // (2 * pixels)  # integers: no rounding moves a border
