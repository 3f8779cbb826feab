"""Maps without knowledge, against other libraries and their own rules."""

import numpy as np
import pytest
import torch
from networks import bottlenecked, quadrants
from skimage.filters import sobel
from torch import Tensor, nn

from ibviz.attribution.controls import LUMINANCE, edges, other_image, random_cells, random_pixels
from ibviz.attribution.methods import explain
from ibviz.errors import InputError

close = torch.testing.assert_close
NOTHING = nn.Identity()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 16, 20, generator=torch.Generator().manual_seed(1))


def labels(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.long)


def test_edges_are_scikit_images(images):
    grey = np.tensordot(images.double().numpy(), np.array(LUMINANCE), axes=(1, 0))
    expected = np.stack([sobel(one) for one in grey]) / 2**0.5  # differences over two pixels, mean of both squares
    close(edges(NOTHING, images.double()).double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_random_pixels_are_independent_of_the_batch(images):
    noise = random_pixels(NOTHING, images, seed=3)
    assert torch.equal(noise[1:3], random_pixels(NOTHING, images[1:3], seed=3))
    assert torch.equal(noise, random_cells(NOTHING, images, grid=(16, 20), seed=3))
    assert len(noise.unique()) > 0.99 * noise.numel()


def five() -> Tensor:
    return torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def test_each_image_gets_the_map_of_the_image_half_of_the_list_further_on():
    model, images = bottlenecked(anchors=None), five()
    own = model.inspect(images).attention.mean.detach()
    expected = own[[2, 3, 4, 0, 1]]
    for batch_size in (2, 64):
        close(explain(model, images, "other_image", batch_size=batch_size), expected, rtol=1e-5, atol=1e-7)
    assert len(own.flatten(1).round(decimals=5).unique(dim=0)) == 5  # maps that are told apart


def test_the_other_images_can_be_given():
    model, images = bottlenecked(anchors=None), five()
    own = model.inspect(images).attention.mean.detach()
    close(explain(model, images[:2], "other_image", others=images[3:]), own[3:], rtol=1e-5, atol=1e-7)
    with pytest.raises(InputError, match="others must have one image per image"):
        explain(model, images, "other_image", others=images[:2])


def test_without_trained_attention_it_is_grad_cam_of_the_others_own_class():
    model, images = quadrants(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    predicted = model(images).argmax(1)
    expected = explain(model, images, "grad_cam", targets=predicted)
    assert isinstance(expected, Tensor)
    close(explain(model, images, "other_image", targets=1 - predicted.clamp(max=1)), expected.flip(0))


def test_a_single_image_has_no_other():
    with pytest.raises(InputError, match="at least 2 images"):
        other_image(bottlenecked(), torch.rand(1, 3, 48, 48))
