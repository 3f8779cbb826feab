"""Means over noisy copies of images: drawn in blocks, with the standard error of each mean."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ibviz.attribution.forward_pass import copies_per_pass
from ibviz.attribution.sampling import BLOCK, COPIES, Drawing, Sampling, record_errors, relative_error
from ibviz.types import Images, Labels

CopyValues = Float[Tensor, "n b ..."]
# Returns a value of each noisy copy `(n, b, colours, h, w)`, of images at these places, in units of these numbers.
ValueOfCopies = Callable[[Tensor, Labels, Labels], CopyValues]


class CopyNoise(NamedTuple):
    """Normal noise, shared by all images."""

    units: int
    sampling: Sampling
    deviation: float
    draws: torch.Generator

    def block(self, count: int, images: Images) -> Float[Tensor, "units copies 1 colours h w"]:
        """Return the noise of the next units: each draw and, for pairs, its negative."""
        drawn = self.deviation * torch.randn(count, 1, 1, *images.shape[1:], generator=self.draws).to(images)
        return drawn if self.sampling == "plain" else torch.cat([drawn, -drawn], dim=1)


def mean_under_noise(
    value: ValueOfCopies, images: Images, noise: CopyNoise, error: float | None, batch_size: int
) -> Float[Tensor, "b ..."]:
    """Return the mean of a value over noisy copies of each image, and record its relative standard error.

    Args:
        value: The value of each copy.
        images: `(b, channels, h, w)` in [0, 1].
        noise: The noise; the mean is over all of its units.
        error: End once the standard error of an image is below this share of the norm of its mean; None to draw all.
        batch_size: The most copies in one pass.
    """
    drawing, copies = Drawing(len(images), error), COPIES[noise.sampling]
    total, squares = None, torch.zeros(len(images), dtype=torch.float64)
    drawn = torch.zeros(len(images), dtype=torch.long)
    for block in torch.arange(noise.units).split(BLOCK // copies):
        rows, shift = drawing.waiting, noise.block(len(block), images)
        most = copies_per_pass(images[rows], batch_size)
        for some in torch.arange(len(block)).split(max(1, most // copies)):
            numbers = block[some].repeat_interleave(copies)
            passes = zip(shift[some].flatten(0, 1).split(most), numbers.split(most), strict=True)
            values = torch.cat([value(images[rows] + part, rows, number) for part, number in passes])
            unit = values.unflatten(0, (-1, copies)).mean(1)
            total = unit.new_zeros(len(images), *unit.shape[2:]) if total is None else total
            total[rows] += unit.sum(0)
            squares[rows] += _squares(unit).sum(0)
        assert total is not None
        drawn[rows] += len(block)
        [size], units = _squares(total[rows][None]), int(block[-1]) + 1
        drawing.reach(relative_error(squares[rows], size, units, size.sqrt() / units))
        if not len(drawing.waiting):
            break
    assert total is not None
    record_errors(drawing.errors)
    return total / drawn.to(total).view(-1, *[1] * (total.ndim - 1))


def _squares(values: CopyValues) -> Float[Tensor, "n b"]:
    """Return the squared norms of values."""
    return values.flatten(2).square().sum(2, dtype=torch.float64).cpu()
