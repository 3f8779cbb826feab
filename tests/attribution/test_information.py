"""IBA against the closed-form KL, a literal loop and networks in which the answer is known."""

import math

import pytest
import torch
from networks import Quadrants, bottlenecked
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ibviz.attribution.information import FeatureStatistics, feature_statistics, iba, information, noise_share
from ibviz.attribution.methods import explain
from ibviz.errors import InputError

close = torch.testing.assert_close


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def test_information_is_the_divergence_of_two_normals():
    features, share = torch.randn(2, 4, 3, 5).double(), torch.rand(2, 4, 3, 5).double()
    known = FeatureStatistics(torch.randn(1, 4, 3, 5).double(), torch.rand(1, 4, 3, 5).double() + 0.1)
    blended = Normal((1 - share) * features + share * known.mean, share * known.deviation)
    close(information(features, share, known), kl_divergence(blended, Normal(*known)))


def test_sampled_features_cost_what_the_closed_form_says():
    """The mean log ratio of the densities over many draws."""
    features, share = torch.tensor([1.5]).view(1, 1, 1, 1), torch.tensor([0.3]).view(1, 1, 1, 1)
    known = FeatureStatistics(torch.tensor([0.5]).view(1, 1, 1, 1), torch.tensor([2.0]).view(1, 1, 1, 1))
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    drawn = (1 - 0.3) * 1.5 + 0.3 * (0.5 + 2.0 * noise)
    ratio = Normal((1 - 0.3) * 1.5 + 0.3 * 0.5, 0.3 * 2.0).log_prob(drawn) - Normal(0.5, 2.0).log_prob(drawn)
    close(information(features, share, known).squeeze(), ratio.mean(), rtol=0.01, atol=0)


def smoothed_by_hand(planes: Tensor) -> Tensor:
    """Gaussian of deviation 1 over 5 x 5 cells, the border repeated, cell by cell."""
    rows, columns = planes.shape
    found = torch.zeros_like(planes)
    for row in range(rows):
        for column in range(columns):
            total = 0.0
            for down in range(-2, 3):
                for right in range(-2, 3):
                    weight = math.exp(-(down**2 + right**2) / 2)
                    cell = planes[min(max(row + down, 0), rows - 1), min(max(column + right, 0), columns - 1)]
                    found[row, column] += weight * cell
                    total += weight
            found[row, column] /= total
    return found


def test_the_share_of_noise_is_smoothed_over_cells_and_not_over_channels():
    logit = torch.randn(2, 3, 4, 6).double()
    expected = torch.stack([torch.stack([smoothed_by_hand(plane.neg().sigmoid()) for plane in one]) for one in logit])
    close(noise_share(logit), expected)


def iba_by_hand(network: Quadrants, image: Tensor, target: int, known: FeatureStatistics, seed: int) -> Tensor:
    """One image, one draw at a time, with autograd through the written-out loss and Adam's formulas."""
    features = network.cells(image[None])
    logit = torch.full_like(features, 5.0)
    first, second = torch.zeros_like(logit), torch.zeros_like(logit)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, 4):
        logit.requires_grad_()
        share = noise_share(logit)
        noise = torch.randn(3, 1, *features.shape[1:], generator=generator, dtype=image.dtype)
        loss = (
            10.0
            * kl_divergence(
                Normal((1 - share) * features + share * known.mean, share * known.deviation), Normal(*known)
            ).mean()
        )
        for draw in noise:
            blended = (1 - share) * features + share * (known.mean + known.deviation * draw)
            logits = network.pool(blended).sum(1).flatten()
            loss = loss - logits.log_softmax(0)[target] / 3
        [slope] = torch.autograd.grad(loss, [logit])
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        move = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        logit = logit.detach() - move
    share = noise_share(logit)
    blended = Normal((1 - share) * features + share * known.mean, share * known.deviation)
    return kl_divergence(blended, Normal(*known)).sum(1)[0] / math.log(2)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_maps_equal_a_literal_loop_over_images_and_draws(batch_size):
    network, images = Quadrants(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    known = FeatureStatistics(torch.rand(1, 3, 8, 8).double(), torch.rand(1, 3, 8, 8).double() + 0.1)
    maps = iba(network, images, torch.tensor([0, 3]), layer="cells", statistics=known, seed=4, steps=3, samples=3,
               batch_size=batch_size)  # fmt: skip
    expected = [iba_by_hand(network, *pair, known, 4) for pair in zip(images, (0, 3), strict=True)]
    close(maps, torch.stack(expected).float(), rtol=1e-4, atol=1e-7)


def test_the_quadrant_with_the_evidence_keeps_the_most_information():
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = iba(Quadrants(), images, torch.arange(4), layer="cells", beta=0.1)
    kept = nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)
    assert torch.equal(kept.argmax(1), torch.arange(4))


def test_a_cheap_bottleneck_keeps_more_than_a_dear_one():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cheap, dear = (iba(Quadrants(), images, torch.tensor([0, 1]), layer="cells", beta=beta) for beta in (0.01, 100.0))
    assert (cheap.sum((1, 2)) > 1.5 * dear.sum((1, 2))).all()
    assert dear.amin() >= 0


def test_statistics_are_those_of_every_unit_over_all_images(images):
    model = bottlenecked().train()
    model.bottleneck.eval()
    modes = [module.training for module in model.modules()]
    known = feature_statistics(model, images, layer="network.stem", batch_size=2)
    assert [module.training for module in model.modules()] == modes
    model.eval()
    with torch.no_grad():
        features = model.get_submodule("network.stem")(model.normalize(images))
    close(known.mean, features.mean(0, keepdim=True), rtol=1e-5, atol=1e-6)
    deviation = features.std(0, correction=0, keepdim=True)
    close(known.deviation, deviation.clamp(min=0.01 * deviation.mean()), rtol=1e-4, atol=1e-5)


def test_the_layer_is_one_that_all_of_the_network_passes(images):
    model, targets = bottlenecked(), torch.tensor([0, 1, 2])
    chosen = explain(model, images, "iba", targets=targets, steps=1, samples=2)
    close(chosen, explain(model, images, "iba", targets=targets, steps=1, samples=2, layer="network.stem"))


def test_a_unit_that_never_changes_says_nothing_of_itself():
    known = feature_statistics(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), torch.ones(2, 3, 8, 8), layer="0")
    kl = information(torch.ones(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5), known)
    close(kl, torch.full((1, 3, 4, 4), math.log(2) - 3 / 8))


class Residual(nn.Module):
    """Something passes the layer, and meets what comes out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.act = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        return self.head((features + self.act(self.body(features))).mean((2, 3)))


def test_a_layer_that_something_passes_by_and_an_in_place_relu_after_it(images):
    network, targets = Residual().eval(), torch.tensor([0, 1, 0])
    together = iba(network, images, targets, layer="body", steps=3)
    apart = torch.cat([iba(network, images[k : k + 1], targets[k : k + 1], layer="body", steps=3) for k in range(3)])
    close(together, apart, rtol=1e-4, atol=1e-7)


class Cut(Quadrants):
    """No gradient leaves it."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


@pytest.mark.parametrize("layer", [None, "cells"])
def test_a_network_that_is_cut_off_from_gradients_is_told_so(layer):
    with pytest.raises(InputError, match="cut by detach"):
        explain(Cut(), torch.rand(1, 3, 16, 16), "iba", layer=layer)


def test_a_layer_without_a_grid_names_those_with_one(images):
    with pytest.raises(InputError, match=r"stem \(12x12\)"):
        explain(bottlenecked(), images, "iba", layer="decoder")
    with pytest.raises(InputError, match="options of iba"):
        explain(bottlenecked(), images, "iba", statistics=3)
