"""Filters and enlargement of planes, in the precision of their input."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ibviz.types import Images


def correlate_1d(planes: Tensor, weights: Sequence[float], axis: int) -> Tensor:
    """Return weighted sums of neighbours along an axis, without padding; neither autocast nor TF32 rounds them.

    >>> correlate_1d(torch.tensor([1.0, 2.0, 4.0]), (-1.0, 1.0), 0)
    tensor([1., 2.])
    """
    length = planes.shape[axis] - len(weights) + 1
    first, *others = (weight * planes.narrow(axis, start, length) for start, weight in enumerate(weights))
    return sum(others, first)


def reflect_pad(planes: Tensor, margin: int, axis: int) -> Tensor:
    """Return planes with `margin` more cells at both ends of an axis, reflected at the last cell.

    Unlike that of PyTorch, the margin may be wider than the plane.

    >>> reflect_pad(torch.tensor([0.0, 1.0, 2.0, 3.0]), 2, 0)
    tensor([2., 1., 0., 1., 2., 3., 2., 1.])
    >>> reflect_pad(torch.tensor([0.0, 1.0]), 2, 0), reflect_pad(torch.tensor([5.0]), 2, 0)
    (tensor([0., 1., 0., 1., 0., 1.]), tensor([5., 5., 5., 5., 5.]))
    """
    length = planes.shape[axis]
    period = max(1, 2 * (length - 1))
    before, after = (
        [planes.narrow(axis, min(cell % period, -cell % period), 1) for cell in range(start, start + margin)]
        for start in (-margin, length)
    )
    return torch.cat([*before, planes, *after], axis)


def upsample(grids: Float[Tensor, "b c gh gw"], images: Images) -> Float[Tensor, "b c h w"]:
    """Return grids interpolated bilinearly to the size of the images, in their precision."""
    return F.interpolate(grids.to(images.dtype), images.shape[2:], mode="bilinear", align_corners=False)
