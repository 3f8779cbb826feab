"""What stands where pixels are removed, in [0, 1] pixel space."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ibviz.metrics.imputation import inpaint, road
from ibviz.types import Images, Masks

Colour = tuple[float, ...]  # one number a channel
Background = Float[Tensor, "b colours _ _"]  # a colour (1 x 1) or a whole image for each image


def mean_colour(images: Images, colour: Colour, seed: int) -> Background:
    """The same colour everywhere: the mean of the network's training data, zero after its normalisation.

    >>> mean_colour(torch.rand(2, 3, 4, 4), (0.5, 0.4, 0.3), 0).shape
    torch.Size([2, 3, 1, 1])
    """
    del seed
    return images.new_tensor(colour).view(1, -1, 1, 1).expand(len(images), -1, -1, -1)


def black(images: Images, colour: Colour, seed: int) -> Background:
    """Zero in pixel space.

    >>> float(black(torch.rand(1, 3, 4, 4), (0.5, 0.4, 0.3), 0).max())
    0.0
    """
    del colour
    return mean_colour(images, (0.0,) * images.shape[1], seed)


def image_mean(images: Images, colour: Colour, seed: int) -> Background:
    """Each image's own mean colour.

    >>> image_mean(torch.ones(1, 3, 4, 4), (0.5, 0.4, 0.3), 0).flatten()
    tensor([1., 1., 1.])
    """
    del colour, seed
    return images.mean((2, 3), keepdim=True)


def image_minimum(images: Images, colour: Colour, seed: int) -> Background:
    """Each image's darkest value of any channel, in all of them; called "black" by Quantus.

    >>> image_minimum(torch.tensor([0.2, 0.1, 0.3]).view(1, 3, 1, 1), (0.5, 0.4, 0.3), 0).flatten()
    tensor([0.1000, 0.1000, 0.1000])
    """
    del colour, seed
    return images.amin((1, 2, 3), keepdim=True).expand(-1, images.shape[1], -1, -1)


def blur(images: Images, colour: Colour, seed: int) -> Background:
    """Gaussian blur with a deviation of 1/16 of the shorter side (14 px at 224), cut at three, with mirrored edges.

    >>> torch.testing.assert_close(blur(torch.ones(1, 3, 32, 48), (0.0, 0.0, 0.0), 0), torch.ones(1, 3, 32, 48))
    """
    del colour, seed
    deviation = min(images.shape[2:]) / 16
    return _mirrored(images, _bell(math.ceil(3 * deviation), deviation))


def blur_rise(images: Images, colour: Colour, seed: int) -> Background:
    """RISE's 11 x 11 kernel of deviation 5 px; beyond the edges lies `colour`, zero after the normalisation.

    The kernel is a filtered impulse, its tails folded back into the window, hence flatter than a cut Gaussian.

    >>> blur_rise(torch.ones(1, 3, 32, 32), (1.0, 1.0, 1.0), 0).shape
    torch.Size([1, 3, 32, 32])
    """
    reach = torch.arange(-20, 21)  # four deviations, as SciPy cuts them
    weights = (-0.5 * (reach / 5.0).square()).exp()
    place = (reach + 5) % 22  # mirrored about the window's edges, again and again
    folded = torch.where(place < 11, place, 21 - place)
    kernel = torch.zeros(11).index_add_(0, folded, weights / weights.sum())
    border = mean_colour(images, colour, seed)
    return _convolved(pad(images - border, (5, 5, 5, 5)), kernel) + border


def blur_latec(images: Images, colour: Colour, seed: int) -> Background:
    """LATEC's 9 x 9 Gaussian of deviation 5 px, mirrored edges.

    >>> blur_latec(torch.ones(1, 3, 32, 32), (0.0, 0.0, 0.0), 0).shape
    torch.Size([1, 3, 32, 32])
    """
    del colour, seed
    return _mirrored(images, _bell(4, 5.0))


def noise(images: Images, colour: Colour, seed: int) -> Background:
    """Uniform noise in [0, 1], drawn once by `seed` for all images, so that none depends on its company or device.

    >>> drawn = noise(torch.zeros(2, 3, 4, 4), (0.0, 0.0, 0.0), seed=3)
    >>> torch.equal(drawn[0], drawn[1])
    True
    """
    del colour
    field = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(seed))
    return field.to(images).expand_as(images)


BASELINES: dict[str, Callable[[Images, Colour, int], Background]] = {
    "mean_colour": mean_colour,
    "black": black,
    "image_mean": image_mean,
    "image_minimum": image_minimum,
    "blur": blur,
    "blur_rise": blur_rise,
    "blur_latec": blur_latec,
    "noise": noise,
}

# Those that look at what is left around the removed pixels of every single state.
IMPUTERS: dict[str, Callable[[Images, Masks, int], Images]] = {
    "road": lambda images, removed, seed: road(images, removed, seed=seed),
    "inpaint": lambda images, removed, _: inpaint(images, removed),
}


def _bell(reach: int, deviation: float) -> Float[Tensor, " taps"]:
    weights = (-0.5 * (torch.arange(-reach, reach + 1) / deviation).square()).exp()
    return weights / weights.sum()


def _mirrored(images: Images, kernel: Float[Tensor, " taps"]) -> Images:
    reach = len(kernel) // 2
    rows, columns = (_mirror(side, reach, images.device) for side in images.shape[2:])
    return _convolved(images.index_select(2, rows).index_select(3, columns), kernel)


def _mirror(side: int, reach: int, device: torch.device) -> Tensor:
    """Indices of a side continued by reflection about its first and last pixel, as often as it takes."""
    place = torch.arange(-reach, side + reach, device=device).remainder(max(1, 2 * (side - 1)))
    return torch.minimum(place, 2 * (side - 1) - place) if side > 1 else place * 0


def _convolved(padded: Images, kernel: Float[Tensor, " taps"]) -> Float[Tensor, "b colours _ _"]:
    taps = kernel.to(padded).expand(padded.shape[1], 1, 1, -1)
    return conv2d(conv2d(padded, taps, groups=len(taps)), taps.transpose(2, 3), groups=len(taps))
