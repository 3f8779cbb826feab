"""Random crops and horizontal flips of a whole batch on its device."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from ibviz.types import Images


class Crops(NamedTuple):
    """Corner of each image's crop in the padded image, in pixels, and True for mirrored images."""

    top: Int[Tensor, " b"]
    left: Int[Tensor, " b"]
    mirrored: Bool[Tensor, " b"]


def draw_crops(count: int, generator: torch.Generator, *, padding: int, flip: bool) -> Crops:
    """Draw the crops of a batch.

    Args:
        count: Number of images.
        generator: Source of the random numbers; the crops are on its device.
        padding: Pixels of padding on each side; corners are uniform from 0 to twice the padding.
        flip: Mirror each image with probability one half.
    """
    device = generator.device
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator, device=device)
    return Crops(top, left, torch.rand(count, generator=generator, device=device) < (0.5 if flip else 0.0))


def augment(images: Images, crops: Crops, *, padding: int) -> Images:
    """Pad each image by reflection, crop it to its original size, and mirror it if drawn so.

    >>> images, drawn = torch.rand(2, 3, 8, 8), draw_crops(2, torch.Generator(), padding=0, flip=False)
    >>> bool((augment(images, drawn, padding=0) == images).all())
    True
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4, mode="reflect") if padding else images
    rows = crops.top[:, None] + torch.arange(height, device=images.device)
    columns = crops.left[:, None] + torch.arange(width, device=images.device)
    columns = torch.where(crops.mirrored[:, None], columns.flip(1), columns)
    batch = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
