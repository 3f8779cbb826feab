"""Captum's infidelity and max-sensitivity on linear networks, whose answers are known."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ibviz.attribution.stability import NOISE, infidelity, max_sensitivity
from ibviz.errors import InputError
from ibviz.metrics import on_grid


def linear() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(3 * 4 * 6, 2)
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach().view(2, 3, 4, 6).sum(1)


TARGETS = torch.tensor([0, 1, 1])
IMAGES = torch.rand(3, 3, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grid", [(4, 6), (2, 3), (1, 2)])
def test_gradient_of_a_linear_network_has_no_infidelity_at_any_scale(grid):
    network, gradient = linear()
    maps = on_grid(7 * gradient[TARGETS], grid)
    assert_close(infidelity(network, IMAGES, maps, targets=TARGETS), torch.zeros(3), atol=1e-5, rtol=0)


def test_infidelity_of_another_map_is_what_it_leaves_unexplained():
    """E = (noise * area)^2 * (|g|^2 - <m, g>^2 / |m|^2), up to the sampling of 4000 perturbations."""
    network, gradient = linear()
    g, maps = on_grid(gradient[TARGETS], (2, 3)).flatten(1), torch.rand(3, 2, 3)
    m = maps.flatten(1)
    unexplained = g.square().sum(1) - (g * m).sum(1).square() / m.square().sum(1)
    found = infidelity(network, IMAGES, maps, targets=TARGETS, samples=4000)
    assert_close(found, (NOISE * 4) ** 2 * unexplained, rtol=0.1, atol=0)


def test_every_image_meets_the_same_noise_whatever_its_company():
    network, _ = linear()
    maps = torch.rand(3, 4, 6)
    together = infidelity(network, IMAGES, maps, targets=TARGETS)
    triples = zip(IMAGES.split(1), maps.split(1), TARGETS.split(1), strict=True)
    alone = [infidelity(network, x, m, targets=t) for x, m, t in triples]
    assert_close(together, torch.cat(alone))
    for method in ("integrated_gradients", "random_cells"):
        together = max_sensitivity(network, IMAGES, method, targets=TARGETS)
        pairs = zip(IMAGES.split(1), TARGETS.split(1), strict=True)
        alone = [max_sensitivity(network, x, method, targets=t) for x, t in pairs]
        assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_a_pass_of_infidelity_holds_no_more_images_than_the_batch(batch_size):
    (network, _), maps, rows = linear(), torch.rand(3, 4, 6), list[int]()
    expected = infidelity(network, IMAGES, maps, targets=TARGETS, samples=5)
    network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    assert_close(infidelity(network, IMAGES, maps, targets=TARGETS, samples=5, batch_size=batch_size), expected)
    assert max(rows) <= batch_size


def test_max_sensitivity_of_a_linear_map_is_the_largest_relative_change():
    """Integrated gradients of a linear network are weights times brightness: every perturbed map is known."""
    network, _ = linear()
    weight = network[1].get_parameter("weight").detach().view(2, 3, 4, 6)[TARGETS]
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(8, 3, 4, 6, generator=generator) * 2 - 1
    base = (IMAGES * weight).sum(1)
    moved = ((IMAGES.unsqueeze(1) + 0.05 * noise).clamp(0, 1) * weight.unsqueeze(1)).sum(2)
    expected = (moved - base.unsqueeze(1)).flatten(2).norm(dim=2).amax(1) / base.flatten(1).norm(dim=1)
    found = max_sensitivity(
        network, IMAGES, "integrated_gradients", targets=TARGETS, radius=0.05, samples=8, seed=3, steps=2
    )
    assert_close(found, expected)


def test_uniform_map_is_stable_and_a_random_one_is_not():
    network, _ = linear()
    assert max_sensitivity(network, IMAGES, "uniform", targets=TARGETS).tolist() == [0, 0, 0]
    assert float(max_sensitivity(network, IMAGES, "random_cells", targets=TARGETS).min()) > 0.1


def test_model_runs_in_eval_mode_and_is_left_as_it_was():
    plain, _ = linear()
    network, maps = nn.Sequential(nn.Dropout(0.9), *plain), torch.rand(3, 4, 6)
    assert_close(infidelity(network, IMAGES, maps, targets=TARGETS), infidelity(plain, IMAGES, maps, targets=TARGETS))
    max_sensitivity(network, IMAGES, "integrated_gradients", targets=TARGETS)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_impossible_choices_are_refused():
    network, _ = linear()
    maps = torch.rand(3, 4, 6)
    with pytest.raises(InputError, match="samples must be at least 1"):
        infidelity(network, IMAGES, maps, targets=TARGETS, samples=0)
    with pytest.raises(InputError, match="radius is a difference of brightness"):
        max_sensitivity(network, IMAGES, "uniform", targets=TARGETS, radius=2.0)
    with pytest.raises(InputError, match="maps must be finite"):
        infidelity(network, IMAGES, maps * torch.nan, targets=TARGETS)
    with pytest.raises(InputError, match="a cell must hold a pixel"):
        infidelity(network, IMAGES, torch.rand(3, 8, 6), targets=TARGETS)
