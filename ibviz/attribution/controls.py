"""Maps that know nothing of the network: what a method has to beat."""

import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.attribution.cam import grad_cam
from ibviz.attribution.information import weighed
from ibviz.attribution.intrinsic import attention
from ibviz.attribution.passes import fine
from ibviz.errors import InputError, NoMapError
from ibviz.models.classifier import IBClassifier
from ibviz.models.reliance import mean_map
from ibviz.types import Grid, Images, Maps

LUMINANCE = (0.2126, 0.7152, 0.0722)
SLOPE, SMOOTH = (-0.5, 0.0, 0.5), (0.25, 0.5, 0.25)  # Sobel's filter is their outer product


def uniform(model: nn.Module, images: Images) -> Maps:
    """One level everywhere, as a single cell: all ties."""
    return torch.ones(len(images), 1, 1, device=images.device)


def centre(model: nn.Module, images: Images) -> Maps:
    """A Gaussian at the centre, its deviation a quarter of each side, at pixel resolution."""
    rows, columns = (torch.linspace(-2, 2, side, device=images.device) for side in images.shape[2:])
    bell = (-0.5 * rows.square()).exp()[:, None] * (-0.5 * columns.square()).exp()
    return bell.expand(len(images), -1, -1)


def random_cells(model: nn.Module, images: Images, *, grid: Grid = (8, 8), seed: int = 0) -> Maps:
    """Independent uniform values on a grid.

    Each image's values follow from `seed` and its pixels, so they depend neither on its batch nor on the device.
    """
    return torch.stack([_noise(image, grid, seed) for image in images.cpu()]).to(images.device)


def random_pixels(model: nn.Module, images: Images, *, seed: int = 0) -> Maps:
    """Independent uniform values on the pixels; see `random_cells`."""
    return random_cells(model, images, grid=(images.shape[2], images.shape[3]), seed=seed)


def edges(model: nn.Module, images: Images) -> Maps:
    """Slope of the luminance by Sobel's filters, in shares of white a pixel; the border is repeated outwards.

    The luminance of three channels is that of red, green and blue, of any other number their mean.
    """
    colours = fine(images)
    count = colours.shape[1]
    shares = colours.new_tensor(LUMINANCE if count == 3 else [1 / count] * count)
    grey = (colours * shares.view(-1, 1, 1)).sum(1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    down, across = (weighed(weighed(padded, SLOPE, 2 + k), SMOOTH, 3 - k) for k in (0, 1))
    return (down.square() + across.square()).sqrt().squeeze(1).float()


def other_image(model: nn.Module, images: Images, *, others: Tensor | None = None, batch_size: int = 64) -> Maps:
    """The trained attention, or else Grad-CAM of the predicted class, of another of the images: right in all but place.

    `others` are one other image for each; without them `partner` chooses among these images. Raises `NoMapError` for a
    single image without `others`, and for a network without attention in which no layer has a grid.
    """
    if others is None:
        if len(images) < 2:
            raise NoMapError("the map of another image needs at least 2 images; got 1")
        others = images[[partner(place, len(images)) for place in range(len(images))]]
    elif others.shape != images.shape:
        raise InputError(f"others must be an image for each, {tuple(images.shape)}; got {tuple(others.shape)}")
    return torch.cat([_own_map(model, part) for part in others.split(batch_size)])


def partner(place: int, count: int) -> int:
    """Return the place of the image whose map an image gets, half of a list of `count` images further on.

    Half, since neighbours in a list are often of one class or one scene.

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
    """The average of the trained attention over images, the same for every image: where attention usually lies.

    `cells` are the rows of that average over a whole data set; without them it is taken over these images. Raises
    `NoMapError` for a network without trained attention, and for a single image without `cells`, whose average is its
    own map.
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
