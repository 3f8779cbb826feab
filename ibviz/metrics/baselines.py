"""Baselines: the values that replace removed pixels, in [0, 1] pixel space."""

import math
from collections.abc import Callable
from inspect import signature
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ibviz.errors import unknown
from ibviz.extensions import check_signature, first_line, is_outside, load_outside, positional
from ibviz.metrics.imputation import inpaint, road
from ibviz.types import Images, Masks

Colour = tuple[float, ...]  # one number per channel
Fill = Float[Tensor, "b colours _ _"]  # a colour (1 x 1) or a whole image, per image


def mean_colour(images: Images, *, colour: Colour) -> Fill:
    """Mean colour of the network's training data, the same everywhere; zero after the normalisation.

    >>> mean_colour(torch.rand(2, 3, 4, 4), colour=(0.5, 0.4, 0.3)).shape
    torch.Size([2, 3, 1, 1])
    """
    return images.new_tensor(colour).view(1, -1, 1, 1).expand(len(images), -1, -1, -1)


def black(images: Images) -> Fill:
    """Black, which is zero in pixel space.

    >>> float(black(torch.rand(1, 3, 4, 4)).max())
    0.0
    """
    return mean_colour(images, colour=(0.0,) * images.shape[1])


def image_mean(images: Images) -> Fill:
    """Mean colour of each image.

    >>> image_mean(torch.ones(1, 3, 4, 4)).flatten()
    tensor([1., 1., 1.])
    """
    return images.mean((2, 3), keepdim=True)


def image_minimum(images: Images) -> Fill:
    """Smallest value of each image over all channels, used in every channel; called "black" by Quantus.

    >>> image_minimum(torch.tensor([0.2, 0.1, 0.3]).view(1, 3, 1, 1)).flatten()
    tensor([0.1000, 0.1000, 0.1000])
    """
    return images.amin((1, 2, 3), keepdim=True).expand(-1, images.shape[1], -1, -1)


def blur(images: Images) -> Fill:
    """Gaussian blur with a standard deviation of 1/16 of the shorter side (14 px at 224), cut at three, mirrored edges.

    >>> torch.testing.assert_close(blur(torch.ones(1, 3, 32, 48)), torch.ones(1, 3, 32, 48))
    """
    deviation = min(images.shape[2:]) / 16
    return _mirrored(images, _bell(math.ceil(3 * deviation), deviation))


def blur_rise(images: Images, *, colour: Colour) -> Fill:
    """Blur of RISE, an 11 x 11 kernel with a standard deviation of 5 px; the border is padded with `colour`.

    The kernel is a filtered impulse whose tails are folded back into the window, so it is flatter than a cut Gaussian.

    >>> blur_rise(torch.ones(1, 3, 32, 32), colour=(1.0, 1.0, 1.0)).shape
    torch.Size([1, 3, 32, 32])
    """
    reach = torch.arange(-20, 21)  # four standard deviations, as in SciPy
    weights = (-0.5 * (reach / 5.0).square()).exp()
    place = (reach + 5) % 22  # mirrored repeatedly at the edges of the window
    folded = torch.where(place < 11, place, 21 - place)
    kernel = torch.zeros(11).index_add_(0, folded, weights / weights.sum())
    border = mean_colour(images, colour=colour)
    return _convolved(pad(images - border, (5, 5, 5, 5)), kernel) + border


def blur_latec(images: Images) -> Fill:
    """Blur of LATEC, a 9 x 9 Gaussian with a standard deviation of 5 px, mirrored edges.

    >>> blur_latec(torch.ones(1, 3, 32, 32)).shape
    torch.Size([1, 3, 32, 32])
    """
    return _mirrored(images, _bell(4, 5.0))


def noise(images: Images, *, seed: int) -> Fill:
    """Uniform noise in [0, 1], drawn once by `seed` for all images, independent of batch and device.

    >>> drawn = noise(torch.zeros(2, 3, 4, 4), seed=3)
    >>> torch.equal(drawn[0], drawn[1])
    True
    """
    field = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(seed))
    return field.to(images).expand_as(images)


class Baseline(NamedTuple):
    """A function that returns the values of removed pixels, in [0, 1] pixel space.

    It takes images `(b, channels, h, w)` and returns a colour or an image per image. An imputer takes the removed
    pixels `(b, h, w)` as a second argument and returns the images with these pixels filled in, for each masked image.
    `colour` (the mean of the network's training data) and `seed` are passed if the function has keyword arguments of
    these names.
    """

    function: Callable[..., Tensor]

    @property
    def description(self) -> str:
        """The first line of the function's docstring."""
        return first_line(self.function)

    @property
    def imputes(self) -> bool:
        """True if the function takes the removed pixels of each masked image."""
        return len(positional(self.function)) > 1

    def takes(self, name: str) -> bool:
        """Return True if `colour` or `seed` is one of the function's keyword arguments."""
        return name in signature(self.function).parameters

    def fill(self, images: Images, removed: Masks | None, *, colour: Colour, seed: int) -> Tensor:
        """Return the values of removed pixels; for an imputer, the images with these pixels filled in.

        Args:
            images: Images `(b, channels, h, w)` in [0, 1].
            removed: The removed pixels `(b, h, w)`, which only imputers need.
            colour: The mean colour of the network's training data.
            seed: The seed of noise.
        """
        options = {name: value for name, value in {"colour": colour, "seed": seed}.items() if self.takes(name)}
        return self.function(images, removed, **options) if self.imputes else self.function(images, **options)


BASELINES = {
    function.__name__: Baseline(function)
    for function in (
        *(mean_colour, black, image_mean, image_minimum, blur, blur_rise, blur_latec, noise),
        *(road, inpaint),  # imputers
    )
}


def baseline_of(name: str) -> Baseline:
    """Return the baseline of that name, or one from the user's code (`file.py:function`).

    Raises:
        InputError: The name is unknown, or the function does not have the signature of a baseline.

    >>> baseline_of("noise").takes("seed")
    True
    """
    if name in BASELINES:
        return BASELINES[name]
    if not is_outside(name):
        raise unknown("baseline", name, list(BASELINES))
    given = load_outside(name)
    baseline = given if isinstance(given, Baseline) else Baseline(given)
    check_signature(name, baseline.function, least=1, most=2, keywords=("colour", "seed"))
    return baseline


def _bell(reach: int, deviation: float) -> Float[Tensor, " taps"]:
    weights = (-0.5 * (torch.arange(-reach, reach + 1) / deviation).square()).exp()
    return weights / weights.sum()


def _mirrored(images: Images, kernel: Float[Tensor, " taps"]) -> Images:
    reach = len(kernel) // 2
    rows, columns = (_mirror(side, reach, images.device) for side in images.shape[2:])
    return _convolved(images.index_select(2, rows).index_select(3, columns), kernel)


def _mirror(side: int, reach: int, device: torch.device) -> Tensor:
    """Return the indices of a side extended by reflection at its first and last pixel, repeated if needed."""
    place = torch.arange(-reach, side + reach, device=device).remainder(max(1, 2 * (side - 1)))
    return torch.minimum(place, 2 * (side - 1) - place) if side > 1 else place * 0


def _convolved(padded: Images, kernel: Float[Tensor, " taps"]) -> Float[Tensor, "b colours _ _"]:
    taps = kernel.to(padded).expand(padded.shape[1], 1, 1, -1)
    return conv2d(conv2d(padded, taps, groups=len(taps)), taps.transpose(2, 3), groups=len(taps))
