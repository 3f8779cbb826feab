"""Concentration of a map: sparseness and complexity, independent of any network."""

import torch

from ibviz.metrics.grid import finite
from ibviz.types import Maps, Scores


def sparseness(maps: Maps) -> Scores:
    """Gini index of each map's absolute values (Chalasani 2020).

    Returns:
        From 0 for a uniform map to 1 - 1/cells for a map with a single nonzero cell; NaN for a map of zeros.

    >>> sparseness(torch.tensor([[[1.0, 1.0]], [[0.0, -3.0]]]))
    tensor([0.0000, 0.5000])
    """
    ordered = finite(maps).abs().flatten(1).double().sort(1).values
    cells = ordered.shape[1]
    weights = 2 * torch.arange(1, cells + 1, device=maps.device) - cells - 1
    return ((ordered * weights).sum(1) / (cells * ordered.sum(1))).float()


def complexity(maps: Maps) -> Scores:
    """Entropy, in nats, of each cell's share of the map's absolute values (Bhatt 2020).

    Returns:
        From 0 for a map with a single nonzero cell to log(cells) for a uniform map; NaN for a map of zeros.

    >>> complexity(torch.tensor([[[1.0, 1.0]], [[0.0, -3.0]]]))
    tensor([0.6931, 0.0000])
    """
    mass = finite(maps).abs().flatten(1).double()
    shares = mass / mass.sum(1, keepdim=True)
    return torch.special.entr(shares).sum(1).float()
