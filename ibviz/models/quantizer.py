"""Quantisation of attention to a few learnable scalar anchors (a scalar codebook after van den Oord 2017)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ibviz.errors import InputError


def nearest_anchor(values: Float[Tensor, "*cells"], anchors: Float[Tensor, " q"]) -> Int[Tensor, "*cells"]:
    """Return the index of the anchor nearest to each value; the first if several are equally near.

    >>> nearest_anchor(torch.tensor([0.1, 0.5, 2.0]), torch.tensor([0.0, 1.0]))
    tensor([0, 0, 1])
    """
    return (values.detach().unsqueeze(-1) - anchors.detach()).square().argmin(-1)


def straight_through(values: Float[Tensor, "*cells"], quantized: Float[Tensor, "*cells"]) -> Float[Tensor, "*cells"]:
    """Return `quantized` exactly, with the gradient of `values` (straight-through estimator, Bengio 2013)."""
    return quantized.detach() + (values - values.detach())


class AnchorQuantizer(nn.Module):
    """Quantise each cell to the nearest of `count` learnable anchors, initially evenly spaced over [0, 1].

    The task loss reaches the attention through the straight-through estimator, but not the anchors, which learn from
    `ibviz.models.objective.codebook_loss`. Anchors are not constrained to stay sorted or inside [0, 1].

    >>> AnchorQuantizer(3)(torch.tensor([0.2, 0.3, 1.2]))[1]
    tensor([0, 1, 2])
    """

    anchors: Float[Tensor, " q"]

    def __init__(self, count: int) -> None:
        """Create the anchors; raise `InputError` for fewer than two."""
        super().__init__()
        if count < 2:
            raise InputError(f"anchors must be at least 2, to tell attended from ignored; got {count}")
        self.anchors = nn.Parameter(torch.linspace(0.0, 1.0, count))

    def forward(self, values: Float[Tensor, "*cells"]) -> tuple[Float[Tensor, "*cells"], Int[Tensor, "*cells"]]:
        """Return the anchor value of each cell, with the gradient of the unquantised value, and the anchor's index."""
        index = nearest_anchor(values, self.anchors)
        return straight_through(values, self.anchors[index]), index
