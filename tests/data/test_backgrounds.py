import math

import numpy as np
import pytest
import torch

from ibviz.data import backgrounds
from ibviz.data.backgrounds import (
    LEAVES,
    LUMA,
    PHOTOGRAPHS,
    SIDE,
    colours_of_luma,
    leaves,
    photograph_names,
    photographs,
)
from ibviz.data.synthetic import digits


def rolled(rows: int, *shape: int) -> torch.Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def drawn():
    return leaves(rolled(200, LEAVES, 8), "test")


def amplitude_slope(images: torch.Tensor) -> float:
    """Exponent of the root mean square amplitude over rings of 1 to 24 cycles an image, by least squares."""
    grey = np.asarray((images * LUMA[:, None, None]).sum(1), dtype=np.float64)
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(0)
    cycles = np.hypot(*np.meshgrid(*(np.fft.fftfreq(SIDE, 1 / SIDE),) * 2)).round()
    rings = range(1, SIDE // 2 + 1)
    amplitude = [np.sqrt(power[cycles == ring].mean()) for ring in rings]
    return float(np.polyfit(np.log(rings), np.log(amplitude), 1)[0])


def test_the_amplitude_of_leaves_falls_as_one_over_frequency(drawn):
    assert amplitude_slope(drawn) == pytest.approx(-1.1, abs=0.1)
    noise = rolled(50, 3, SIDE, SIDE)
    assert amplitude_slope(noise) == pytest.approx(0, abs=0.02)


def leaf_by_leaf(dice: np.ndarray, column: int, row: int) -> list[float]:
    """Colour of a pixel: from the last leaf to the first, until it lies in one, on a canvas that repeats."""
    numbers = list(enumerate(dice.tolist()))
    for number, (level, flat, turn, x, y, hue, saturation, luma) in reversed(numbers):
        smallest, largest = backgrounds._RADII
        radius = (smallest**-2 - level * (smallest**-2 - largest**-2)) ** -0.5  # inverse of the power law's integral
        copies = [(SIDE * (x + i), SIDE * (y + j)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        if number == 0 or any(
            in_leaf(column + 0.5 - cx, row + 0.5 - cy, radius, 0.5 + flat / 2, math.pi * turn, round_=number % 2 == 0)
            for cx, cy in copies
        ):
            tone = torch.tensor([[dice[0, 5] + hue / 2 - 0.25], [saturation / 2], [0.25 + luma / 2]])
            return colours_of_luma(*tone.double())[0].tolist()
    raise AssertionError


def in_leaf(x: float, y: float, radius: float, flat: float, turn: float, *, round_: bool) -> bool:
    along = x * math.cos(turn) + y * math.sin(turn)
    across = (y * math.cos(turn) - x * math.sin(turn)) / flat
    return math.hypot(along, across) < radius if round_ else max(abs(along), abs(across)) < radius


def test_leaves_are_what_looking_down_through_them_shows():
    dice = rolled(2, 12, 8)
    images = leaves(dice, "train")
    for image, one in zip(images, dice, strict=True):
        for column, row in [(column, row) for column in range(0, SIDE, 5) for row in range(0, SIDE, 5)]:
            expected = torch.tensor(leaf_by_leaf(one.numpy(), column, row))
            torch.testing.assert_close(image[:, row, column], expected, atol=1e-5, rtol=0)


def test_leaves_leave_as_much_uncovered_as_their_areas_say(drawn):
    """A pixel is missed by each leaf alone: by its mean area, from the integral of r² over the power law."""
    smallest, largest = backgrounds._RADII
    square = 2 * math.log(largest / smallest) / (smallest**-2 - largest**-2)
    rectangles, ellipses = LEAVES // 2, LEAVES // 2 - 1  # the first is the ground
    missed = (1 - 3.0 * square / SIDE**2) ** rectangles * (1 - 0.75 * math.pi * square / SIDE**2) ** ellipses
    ground = colours_of_luma(*ground_tone()).float()
    shown = (drawn - ground[:, :, None, None]).abs().amax(1).lt(1e-6).float().mean()
    assert shown == pytest.approx(missed, abs=0.01)


def ground_tone() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hue, saturation, luma = rolled(200, LEAVES, 8)[:, 0, 5:].unbind(1)
    return hue + 0.5 * hue - 0.25, 0.5 * saturation, 0.25 + luma / 2


def test_photographs_name_what_images_share():
    """Each crop lies in the photograph that its cluster names: their mean colours tell them apart."""
    dice = rolled(60, 5)
    names, crops = photograph_names(dice, "test"), photographs(dice, "test")
    assert set(names) == set(PHOTOGRAPHS["test"])
    means = {name: crops[[k for k, one in enumerate(names) if one == name]].mean((0, 2, 3)) for name in set(names)}
    assert means["coffee"][0] - means["coffee"][2] > 0.2  # wood and a red saucer
    assert means["china.jpg"][2] > means["chelsea"][2] > means["coffee"][2]  # sky, a cat, wood
    scenes = digits("test", count=60, seed=0, background="photographs")
    assert scenes.clusters is not None
    assert set(scenes.clusters) == set(PHOTOGRAPHS["test"])
    for name in PHOTOGRAPHS["test"]:
        own = scenes.images[[k for k, one in enumerate(scenes.clusters) if one == name]].float().mean((0, 2, 3)) / 255
        assert min(PHOTOGRAPHS["test"], key=lambda other: (means[other] - own).norm().item()) == name


def test_leaves_share_nothing():
    assert digits("test", count=3, seed=0, background="leaves").clusters is None
    assert backgrounds.BACKGROUNDS["leaves"].clusters is None


def test_a_colour_has_exactly_the_luma_asked_for():
    luma = torch.rand(50, dtype=torch.float64)
    colour = colours_of_luma(torch.rand(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64), luma)
    torch.testing.assert_close((colour * LUMA).sum(1), luma, atol=1e-6, rtol=0)
    assert colour.min() >= 0
    assert colour.max() <= 1 + 1e-6
