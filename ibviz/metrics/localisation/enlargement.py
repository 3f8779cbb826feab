"""Maps brought to the size of the image: a declared choice, because it moves maxima and mass."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ibviz.errors import unknown
from ibviz.metrics.grid import on_grid
from ibviz.types import Grid, Maps

Enlargement = Literal["nearest", "bilinear"]  # blocks keep the levels of a map, bilinear invents values between them


def enlarged(maps: Maps, size: Grid, how: Enlargement) -> Float[Tensor, "b {size[0]} {size[1]}"]:
    """Maps in float32 at `size` rows and columns; a finer axis is averaged into pixels, whatever `how` says.

    >>> enlarged(torch.tensor([[[0.0, 1.0]]]), (1, 4), "bilinear")
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if how not in ENLARGEMENTS:
        raise unknown("enlargement", how, list(ENLARGEMENTS))
    return ENLARGEMENTS[how](maps, size)


def unit(maps: Maps) -> Maps:
    """Each map scaled to [0, 1] by its own minimum and maximum; a constant one, which has no scale, becomes 1.

    >>> unit(torch.tensor([[[2.0, 4.0]], [[3.0, 3.0]]]))
    tensor([[[0., 1.]],
    <BLANKLINE>
            [[1., 1.]]])
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 1)


def _bilinear(maps: Maps, size: Grid) -> Float[Tensor, "b {size[0]} {size[1]}"]:
    coarse = on_grid(maps, (min(maps.shape[1], size[0]), min(maps.shape[2], size[1])))
    low, high = coarse.amin((1, 2), keepdim=True), coarse.amax((1, 2), keepdim=True)
    fine = interpolate(coarse.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)
    return fine.clamp(low, high)  # so that rounding leaves a constant map its exact value


ENLARGEMENTS: dict[str, Callable[[Maps, Grid], Tensor]] = {"nearest": on_grid, "bilinear": _bilinear}
