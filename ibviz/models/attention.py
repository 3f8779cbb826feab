"""Variational spatial attention: a mean and a standard deviation for each cell of a feature grid."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.errors import InputError
from ibviz.types import Maps

DEVIATION_SHIFT = 5.0  # softplus(raw - 5): deviations start near 0.007


def gaussian(deviation: float) -> Float[Tensor, "1 1 side side"]:
    """Return the weights of a Gaussian on a grid of cells, truncated at twice its deviation.

    >>> gaussian(0.5).squeeze().round(decimals=2)
    tensor([[0.0200, 0.1400, 0.0200],
            [0.1400, 1.0000, 0.1400],
            [0.0200, 0.1400, 0.0200]])
    """
    places = torch.arange(-math.ceil(2 * deviation), math.ceil(2 * deviation) + 1)
    weights = (-(places.float().square()) / (2 * deviation**2)).exp()
    return (weights[:, None] * weights)[None, None]


def smooth(values: Float[Tensor, "b 1 gh gw"], kernel: Float[Tensor, "1 1 side side"]) -> Float[Tensor, "b 1 gh gw"]:
    """Replace each cell by the weighted mean of its neighbourhood inside the grid."""
    reach = kernel.shape[-1] // 2
    return F.conv2d(values, kernel, padding=reach) / F.conv2d(torch.ones_like(values[:1]), kernel, padding=reach)


class SpatialAttention(nn.Module):
    """q(a | x) = N(m, s²) for each cell, with m = sigmoid(head(f)) and s = softplus(conv(m) - 5).

    `head` maps features `(b, c, h, w)` to one channel. The deviation is computed from the mean map, as in the authors'
    networks, so that its gradient reaches the head as well.
    """

    kernel: Float[Tensor, "1 1 side side"] | None

    def __init__(self, head: nn.Module, smoothing: float = 0.0) -> None:
        """Use `head` for the mean, and one 3x3 convolution for the deviation.

        `smoothing` is the deviation, in cells, of a Gaussian filter on the output of the head; 0 (published): none.
        """
        super().__init__()
        self.head = head
        self.register_buffer("kernel", gaussian(smoothing) if smoothing else None, persistent=False)
        self.scale = nn.Conv2d(1, 1, 3, padding=1)

    @torch.no_grad()
    def open_at(self, attention: float) -> None:
        """Initialise the last layer of the head so that the mean of every cell is `attention` for any features."""
        last = cast(nn.Conv2d | nn.BatchNorm2d, list(self.head.modules())[-1])
        if last.bias is None:
            raise InputError("open_at_start needs an attention head whose last layer has a bias; leave it out")
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, math.log(attention / (1 - attention)))

    def forward(self, features: Float[Tensor, "b c gh gw"]) -> tuple[Maps, Maps]:
        """Return the mean in (0, 1) and the positive deviation."""
        precision = self.scale.weight.dtype  # autocast may round the convolutions, but nothing after them
        raw = self.head(features).to(precision)
        mean = (raw if self.kernel is None else smooth(raw, self.kernel)).sigmoid()
        deviation = F.softplus(self.scale(mean).to(precision) - DEVIATION_SHIFT)
        return mean.squeeze(1), deviation.squeeze(1)
