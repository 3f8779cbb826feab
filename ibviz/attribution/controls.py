"""Maps that know nothing of the network: what a method has to beat."""

import zlib

import torch
from torch import nn

from ibviz.types import Grid, Images, Labels, Maps


def uniform(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """One level everywhere, as a single cell: all ties."""
    del model, targets
    return images.new_ones(len(images), 1, 1)


def centre(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """A Gaussian at the centre, its deviation a quarter of each side, at pixel resolution."""
    del model, targets
    rows, columns = (torch.linspace(-2, 2, side, device=images.device) for side in images.shape[2:])
    bell = (-0.5 * rows.square()).exp()[:, None] * (-0.5 * columns.square()).exp()
    return bell.expand(len(images), -1, -1)


def random_cells(model: nn.Module, images: Images, targets: Labels, *, grid: Grid = (8, 8), seed: int = 0) -> Maps:
    """Independent uniform values on a grid.

    Each image's values follow from `seed` and its pixels, so they depend neither on its batch nor on the device.
    """
    del model, targets
    return torch.stack([_noise(image, grid, seed) for image in images.cpu()]).to(images.device)


def _noise(image: torch.Tensor, grid: Grid, seed: int) -> torch.Tensor:
    content = zlib.crc32((image * 255).round().byte().numpy().tobytes(), seed)
    return torch.rand(grid, generator=torch.Generator().manual_seed(content))
