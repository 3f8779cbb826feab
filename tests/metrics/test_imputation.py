"""ROAD's imputer against its sparse system, written out pixel by pixel and solved by SciPy."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch.testing import assert_close

from ibviz.errors import InputError
from ibviz.metrics import imputation, inpaint, road

WEIGHTS = {(dy, dx): 1 / 12 if dy and dx else 1 / 6 for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx}


def literal(image, removed):
    """Each removed pixel times the sum of its existing neighbours' weights equals their weighted sum."""
    height, width = removed.shape
    unknown = {(int(y), int(x)): row for row, (y, x) in enumerate(removed.nonzero())}
    system, wanted = lil_matrix((len(unknown), len(unknown))), np.zeros((len(unknown), 3))
    for (y, x), row in unknown.items():
        for (dy, dx), weight in WEIGHTS.items():
            there = (y + dy, x + dx)
            if not (0 <= there[0] < height and 0 <= there[1] < width):
                continue
            system[row, row] += weight
            if there in unknown:
                system[row, unknown[there]] -= weight
            else:
                wanted[row] += weight * image[:, there[0], there[1]].double().numpy()
    filled = image.clone()
    filled[:, removed] = torch.from_numpy(spsolve(system.tocsc(), wanted).reshape(-1, 3).T).float()
    return filled


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setattr(imputation, "_NOISE", 0.0)


def blocks(seed, size, cells, share):
    drawn = torch.rand(1, *cells, generator=torch.Generator().manual_seed(seed)) < share
    return drawn.repeat_interleave(size[0] // cells[0], 1).repeat_interleave(size[1] // cells[1], 2)


MASKS = {
    "scattered": torch.rand(1, 48, 40, generator=torch.Generator().manual_seed(3)) < 0.7,
    "cells": blocks(2, (48, 40), (6, 5), 0.8),
    "one pixel left": torch.ones(1, 48, 40, dtype=torch.bool).index_fill(1, torch.tensor([5]), True),
    "half": (torch.arange(40) < 20).expand(1, 48, 40).clone(),
}
MASKS["one pixel left"][0, 5, 7] = False


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.usefixtures("silent")
def test_road_solves_the_sparse_system(name):
    image = torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    [expected] = [literal(image[0], MASKS[name][0])]
    assert_close(road(image, MASKS[name], seed=0)[0], expected, atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=25, database=None)
@given(st.integers(1, 33), st.integers(1, 33), st.sampled_from([0.3, 0.9, 0.98]), st.integers(0, 99))
def test_road_solves_it_at_any_rectangular_size(height, width, share, seed):
    generator = torch.Generator().manual_seed(seed)
    image, removed = torch.rand(1, 3, height, width, generator=generator), torch.rand(1, height, width) < share
    removed[0, seed % height, seed % width] = False
    noise = imputation._NOISE * torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    expected = (literal(image[0], removed[0]) + noise).clamp(0, 1)
    expected = torch.where(removed, expected, image[0])
    assert_close(road(image, removed, seed=seed)[0], expected, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("silent")
def test_a_long_strip_is_solved_too():
    """A straight ramp between its two ends, known in closed form up to the border's weights, which do not bend it."""
    image = torch.linspace(0, 1, 300).expand(1, 3, 3, 300)
    removed = torch.ones(1, 3, 300, dtype=torch.bool)
    removed[..., [0, -1]] = False
    assert_close(road(image, removed, seed=0), image, atol=1e-4, rtol=0)


def test_an_image_is_imputed_alike_in_any_company(monkeypatch):
    x = torch.rand(7, 3, 17, 23)
    removed = torch.rand(7, 17, 23) < torch.linspace(0, 1, 7).view(7, 1, 1)
    alone = torch.cat([road(*pair, seed=4) for pair in zip(x.split(1), removed.split(1), strict=True)])
    assert_close(road(x, removed, seed=4), alone, atol=1e-6, rtol=0)
    monkeypatch.setattr(imputation, "_ENTRIES_AT_ONCE", {"cpu": 2 * 3 * 17 * 23})
    found = road(x, removed, seed=4)
    assert_close(found, alone, atol=1e-6, rtol=0)
    monkeypatch.setattr(imputation, "_STEPS_AT_ONCE", {"cpu": 7})  # what is solved stands still, so nothing changes
    assert torch.equal(road(x, removed, seed=4), found)


def test_noise_is_seeded_of_one_hundredth_and_only_on_removed_pixels():
    x, removed = torch.full((2, 3, 64, 64), 0.5), torch.rand(2, 64, 64) < 0.8
    filled = road(x, removed, seed=1)
    assert torch.equal(filled, road(x, removed, seed=1))
    assert not torch.equal(filled, road(x, removed, seed=2))
    noise = filled - x
    assert not noise[(~removed).unsqueeze(1).expand_as(x)].any()
    drawn = noise[removed.unsqueeze(1).expand_as(x)]
    assert abs(float(drawn.std()) - 0.01) < 3e-4
    both = removed[0] & removed[1]
    assert_close(noise[0][:, both], noise[1][:, both], atol=1e-6, rtol=0)  # one field for all images


def test_result_stays_in_pixel_space():
    filled = road(torch.ones(1, 3, 16, 16), torch.rand(1, 16, 16) < 0.5, seed=0)
    assert float(filled.max()) == 1.0


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("imputer", [lambda x, gone: road(x, gone, seed=0), inpaint], ids=["road", "inpaint"])
def test_fully_removed_image_is_its_mean_colour_and_an_intact_one_itself(imputer):
    x = torch.rand(3, 3, 9, 14)
    removed = torch.zeros(3, 9, 14, dtype=torch.bool)
    removed[1] = True
    filled = imputer(x, removed)
    assert torch.equal(filled[[0, 2]], x[[0, 2]])
    assert_close(filled[1], x[1].mean((1, 2), keepdim=True).expand(3, 9, 14))


def test_inpaint_is_opencv_on_removed_pixels_and_exact_on_the_others():
    x, removed = torch.rand(2, 3, 12, 20), torch.rand(2, 12, 20) < 0.4
    filled = inpaint(x, removed)
    for image, hole, one in zip(x, removed, filled, strict=True):
        host = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        theirs = cv2.inpaint(host, hole.byte().numpy(), 3, cv2.INPAINT_TELEA)
        expected = torch.from_numpy(theirs).permute(2, 0, 1).float() / 255
        assert torch.equal(one, torch.where(hole, expected, image))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_inpaint_fills_channels_of_any_number_each_alone(channels):
    generator = torch.Generator().manual_seed(0)
    images, removed = torch.rand(2, channels, 9, 7, generator=generator), torch.rand(2, 9, 7, generator=generator) > 0.6
    each = [inpaint(images[:, channel, None].expand(-1, 3, -1, -1), removed)[:, :1] for channel in range(channels)]
    assert_close(inpaint(images, removed), torch.cat(each, 1))


def test_nothing_stays_in_the_graph_and_the_dtype_is_kept():
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert not road(x, torch.ones(1, 8, 8, dtype=torch.bool), seed=0).requires_grad
    half = road(x.detach().half(), torch.rand(1, 8, 8) < 0.5, seed=0)
    assert half.dtype == torch.half


@pytest.mark.parametrize("imputer", [lambda x, gone: road(x, gone, seed=0), inpaint], ids=["road", "inpaint"])
def test_no_images_are_refused(imputer):
    with pytest.raises(InputError, match="at least one image"):
        imputer(torch.rand(0, 3, 8, 8), torch.zeros(0, 8, 8, dtype=torch.bool))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the peer's, of NumPy
@pytest.mark.usefixtures("silent")
def test_peer_gives_the_same_without_noise():
    """pytorch-grad-cam carries the authors' solver, one image at a time."""
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0.0)
    x, removed = torch.rand(2, 3, 24, 32), torch.rand(2, 24, 32) < 0.85
    theirs = torch.stack([peer(image, (~gone).float()) for image, gone in zip(x, removed, strict=True)])
    assert_close(road(x, removed, seed=0), theirs, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Matrix is exactly singular")
def test_peer_has_no_answer_for_a_fully_removed_image():
    """Its system is singular there: it answers 0, NaN or whatever rounding makes of it (pytorch-grad-cam#391)."""
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0.0)
    theirs = peer(torch.rand(3, 8, 8) / 2 + 0.5, torch.zeros(8, 8))
    assert not (theirs >= 0.5).all()
