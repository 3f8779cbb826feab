"""Random crops and flips of a whole batch on its device."""

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from ibviz.types import Images


def augment(images: Images, generator: torch.Generator, *, padding: int, flip: bool) -> Images:
    """Crop each image at random out of its reflect-padded self, and mirror half of them where `flip`.

    >>> images = torch.rand(2, 3, 8, 8)
    >>> bool((augment(images, torch.Generator(), padding=0, flip=False) == images).all())
    True
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4, mode="reflect") if padding else images
    shift = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=images.device)
    rows = shift[0] + torch.arange(height, device=images.device)
    columns = shift[1] + torch.arange(width, device=images.device)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    batch = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
