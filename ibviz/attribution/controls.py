"""Controls: maps that ignore what the network decides, or where in the image; a good method beats them."""

import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.attribution.cam import grad_cam
from ibviz.attribution.filters import correlate_1d
from ibviz.attribution.forward_pass import at_least_float32
from ibviz.attribution.intrinsic import attention
from ibviz.errors import InputError, NoMapError
from ibviz.models.classifier import IBClassifier
from ibviz.models.reliance import mean_map
from ibviz.types import Grid, Images, Maps

LUMINANCE = (0.2126, 0.7152, 0.0722)
SLOPE, SMOOTH = (-0.5, 0.0, 0.5), (0.25, 0.5, 0.25)  # the Sobel filter is their outer product


def uniform(model: nn.Module, images: Images) -> Maps:
    """Uniform control: the same value everywhere, as a single cell, so that all pixels tie."""
    return torch.ones(len(images), 1, 1, device=images.device)


def centre(model: nn.Module, images: Images) -> Maps:
    """Centre control: a Gaussian at the centre with a deviation of a quarter of each side, one value per pixel."""
    rows, columns = (torch.linspace(-2, 2, side, device=images.device) for side in images.shape[2:])
    bell = (-0.5 * rows.square()).exp()[:, None] * (-0.5 * columns.square()).exp()
    return bell.expand(len(images), -1, -1)


def random_cells(model: nn.Module, images: Images, *, grid: Grid = (8, 8), seed: int = 0) -> Maps:
    """Random control: independent uniform values in [0, 1) on a coarse grid.

    The values of an image follow from `seed` and its pixels; they depend neither on its batch nor on the device.

    Args:
        model: Any network; it is not used.
        images: `(b, channels, h, w)` in [0, 1].
        grid: Rows and columns of the maps.
        seed: Seed of the values.
    """
    return torch.stack([_noise(image, grid, seed) for image in images.cpu()]).to(images.device)


def random_pixels(model: nn.Module, images: Images, *, seed: int = 0) -> Maps:
    """Random control: independent uniform values in [0, 1), one per pixel; see `random_cells`."""
    return random_cells(model, images, grid=(images.shape[2], images.shape[3]), seed=seed)


def edges(model: nn.Module, images: Images) -> Maps:
    """Edge control: size of the luminance gradient by Sobel filters, one value per pixel, independent of the network.

    Its unit is the brightness of white per pixel. The border is repeated outwards. Three channels are read as red,
    green and blue; the luminance of any other number of channels is their mean.
    """
    colours = at_least_float32(images)
    count = colours.shape[1]
    shares = colours.new_tensor(LUMINANCE if count == 3 else [1 / count] * count)
    grey = (colours * shares.view(-1, 1, 1)).sum(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    down, across = (correlate_1d(correlate_1d(padded, SLOPE, 2 + k), SMOOTH, 3 - k) for k in (0, 1))
    return (down.square() + across.square()).sqrt().squeeze(1).float()


def other_image(model: nn.Module, images: Images, *, others: Tensor | None = None, batch_size: int = 64) -> Maps:
    """Map of another image: its trained attention or, without one, Grad-CAM of its predicted class.

    Such a map has the right values in the wrong places.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        others: One other image for each image; if None, `partner` chooses among the images.
        batch_size: The most images in one pass.

    Raises:
        NoMapError: For a single image without `others`, and for a network without attention or a layer with a grid.
        InputError: If the shape of `others` is not that of the images.
    """
    if others is None:
        if len(images) < 2:
            raise NoMapError("the map of another image needs at least 2 images; got 1")
        others = images[[partner(place, len(images)) for place in range(len(images))]]
    elif others.shape != images.shape:
        raise InputError(f"others must have one image per image, {tuple(images.shape)}; got {tuple(others.shape)}")
    return torch.cat([_own_map(model, part) for part in others.split(batch_size)])


def partner(place: int, count: int) -> int:
    """Return the place of the image whose map an image gets: half a list of `count` images further on.

    Neighbours in a list are often of one class or one scene.

    >>> [partner(place, 5) for place in range(5)]
    [2, 3, 4, 0, 1]
    """
    return (place + count // 2) % count


def average_map(
    model: nn.Module,
    images: Images,
    *,
    cells: tuple[tuple[float, ...], ...] | None = None,
    batch_size: int = 64,
) -> Maps:
    """Average control: mean of the trained attention over images, the same map for every image.

    Args:
        model: A network with trained attention.
        images: `(b, channels, h, w)` in [0, 1].
        cells: Rows of the average over a data set; if None, the average is that over the images.
        batch_size: The most images in one pass.

    Raises:
        NoMapError: For a network without trained attention, and for a single image without `cells`, whose average is
            its own map.
    """
    if not isinstance(model, IBClassifier):
        raise NoMapError(f"{type(model).__name__} has no trained attention to take the average of")
    if cells is not None:
        return torch.tensor(cells, device=images.device).expand(len(images), -1, -1)
    if len(images) < 2:
        raise NoMapError("the average map needs at least 2 images, or cells; got 1 image")
    maps = [attention(model, part).values() for part in images.split(batch_size)]
    return mean_map(torch.cat(maps).float()).expand(len(images), -1, -1)


def _own_map(model: nn.Module, images: Images) -> Maps:
    if isinstance(model, IBClassifier):
        return attention(model, images).values()
    with torch.no_grad():
        predicted = model(images).argmax(1)
    return grad_cam(model, images, predicted)


def _noise(image: Tensor, grid: Grid, seed: int) -> Tensor:
    return torch.rand(grid, generator=torch.Generator().manual_seed(_checksum(image, seed)))


def _checksum(image: Tensor, seed: int) -> int:
    return zlib.crc32((image * 255).round().byte().numpy().tobytes(), seed)
