"""Attention snapped to a few learnable scalar anchors (method: codebook of van den Oord 2017, scalar)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ibviz.errors import InputError


def nearest_anchor(values: Float[Tensor, "*cells"], anchors: Float[Tensor, " q"]) -> Int[Tensor, "*cells"]:
    """Index of the anchor nearest to each value; the first of equally near ones.

    >>> nearest_anchor(torch.tensor([0.1, 0.5, 2.0]), torch.tensor([0.0, 1.0]))
    tensor([0, 0, 1])
    """
    return (values.detach().unsqueeze(-1) - anchors.detach()).square().argmin(-1)


def straight_through(values: Float[Tensor, "*cells"], quantized: Float[Tensor, "*cells"]) -> Float[Tensor, "*cells"]:
    """Exactly `quantized` in value, the identity of `values` in gradient (Bengio 2013)."""
    return quantized.detach() + (values - values.detach())


class AnchorQuantizer(nn.Module):
    """Snap each cell to the nearest of `count` learnable anchors, which start evenly over [0, 1].

    The task loss reaches the attention through the straight-through estimator and never the anchors; these learn
    from `ibviz.models.objective.codebook_loss`. Nothing keeps them sorted or inside [0, 1].

    >>> AnchorQuantizer(3)(torch.tensor([0.2, 0.3, 1.2]))[1]
    tensor([0, 1, 2])
    """

    anchors: Float[Tensor, " q"]

    def __init__(self, count: int) -> None:
        """Raise `InputError` for fewer than two anchors."""
        super().__init__()
        if count < 2:
            raise InputError(f"anchors must be at least 2, to tell attended from ignored; got {count}")
        self.anchors = nn.Parameter(torch.linspace(0.0, 1.0, count))

    def forward(self, values: Float[Tensor, "*cells"]) -> tuple[Float[Tensor, "*cells"], Int[Tensor, "*cells"]]:
        """Anchor value of each cell, with the gradient of the unquantised one, and which anchor it is."""
        index = nearest_anchor(values, self.anchors)
        return straight_through(values, self.anchors[index]), index
