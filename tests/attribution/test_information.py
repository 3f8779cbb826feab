"""IBA against the closed-form KL, a literal loop and networks in which the answer is known."""

import math

import pytest
import torch
from networks import Quadrants, bottlenecked
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ibviz.attribution.information import FeatureStatistics, feature_statistics, iba, information, noise_share
from ibviz.attribution.methods import explain
from ibviz.data import digits, to_float
from ibviz.errors import InputError
from ibviz.models.loading import load

close = torch.testing.assert_close


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def test_information_is_the_divergence_of_two_normals():
    features, share = torch.randn(2, 4, 3, 5).double(), torch.rand(2, 4, 3, 5).double()
    active = (torch.rand(1, 4, 3, 5) > 0.3).double()
    known = FeatureStatistics(torch.randn(1, 4, 3, 5).double(), torch.rand(1, 4, 3, 5).double() + 0.1, active)
    blended = Normal((1 - share) * features + share * known.mean, share * known.deviation)
    close(information(features, share, known), active * kl_divergence(blended, Normal(*known[:2])))


def test_sampled_features_cost_what_the_closed_form_says():
    """The mean log ratio of the densities over many draws."""
    features, share = torch.tensor([1.5]).view(1, 1, 1, 1), torch.tensor([0.3]).view(1, 1, 1, 1)
    known = FeatureStatistics(*torch.tensor([0.5, 2.0, 1.0]).view(3, 1, 1, 1, 1))
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    drawn = (1 - 0.3) * 1.5 + 0.3 * (0.5 + 2.0 * noise)
    ratio = Normal((1 - 0.3) * 1.5 + 0.3 * 0.5, 0.3 * 2.0).log_prob(drawn) - Normal(0.5, 2.0).log_prob(drawn)
    close(information(features, share, known).squeeze(), ratio.mean(), rtol=0.01, atol=0)


def reflected(cell: int, length: int) -> int:
    """The cell that a ball reaches which turns round at both ends."""
    while length > 1 and not 0 <= cell < length:
        cell = -cell if cell < 0 else 2 * (length - 1) - cell
    return cell if length > 1 else 0


def smoothed_by_hand(planes: Tensor) -> Tensor:
    """Gaussian of deviation 1 over 5 x 5 cells, reflected at the border, cell by cell."""
    rows, columns = planes.shape
    found = torch.zeros_like(planes)
    for row in range(rows):
        for column in range(columns):
            total = 0.0
            for down in range(-2, 3):
                for right in range(-2, 3):
                    weight = math.exp(-(down**2 + right**2) / 2)
                    cell = planes[reflected(row + down, rows), reflected(column + right, columns)]
                    found[row, column] += weight * cell
                    total += weight
            found[row, column] /= total
    return found


@pytest.mark.parametrize("grid", [(4, 6), (3, 3), (2, 5), (1, 2), (1, 1)])
def test_the_share_of_noise_is_smoothed_over_cells_and_not_over_channels(grid):
    logit = torch.randn(2, 3, *grid).double()
    expected = torch.stack([torch.stack([smoothed_by_hand(plane.neg().sigmoid()) for plane in one]) for one in logit])
    close(noise_share(logit), expected)


def test_the_share_of_signal_is_smoothed_as_the_authors_smooth_it():
    """Their kernel: a convolution with the normalised Gaussian over a padding of `nn.ReflectionPad2d`."""
    logit, cells = torch.randn(2, 3, 5, 4).double(), torch.arange(5.0).double() - 2
    kernel = (-(cells[:, None].square() + cells.square()) / 2).exp()
    weight = (kernel / kernel.sum()).expand(3, 1, 5, 5)
    theirs = nn.functional.conv2d(nn.ReflectionPad2d(2)(logit.sigmoid()), weight, groups=3)
    close(1 - noise_share(logit), theirs)


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
                Normal((1 - share) * features + share * known.mean, share * known.deviation), Normal(*known[:2])
            )
            .mul(known.active)
            .mean()
        )
        for draw in noise:
            blended = (1 - share) * features + share * (known.mean + known.deviation * draw)
            logits = network.pool(blended * known.active).sum(1).flatten()
            loss = loss - logits.log_softmax(0)[target] / 3
        [slope] = torch.autograd.grad(loss, [logit])
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        move = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        logit = logit.detach() - move
    share = noise_share(logit)
    blended = Normal((1 - share) * features + share * known.mean, share * known.deviation)
    return (known.active * kl_divergence(blended, Normal(*known[:2]))).sum(1)[0] / math.log(2)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_maps_equal_a_literal_loop_over_images_and_draws(batch_size):
    network, images = Quadrants(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    active = (torch.rand(1, 3, 8, 8) > 0.3).double()
    known = FeatureStatistics(torch.rand(1, 3, 8, 8).double(), torch.rand(1, 3, 8, 8).double() + 0.1, active)
    maps = iba(
        network,
        images,
        torch.tensor([0, 3]),
        layer="cells",
        statistics=known,
        seed=4,
        steps=3,
        samples=3,
        batch_size=batch_size,
    )
    expected = [iba_by_hand(network, *pair, known, 4) for pair in zip(images, (0, 3), strict=True)]
    close(maps, torch.stack(expected).float(), rtol=1e-4, atol=1e-7)


def authors_maps(model: nn.Module, module: nn.Module, images: Tensor, noise: list[Tensor], features: Tensor) -> Tensor:
    """Bits before and after the last step (2, b, h, w), image by image, as the authors' code finds them.

    Its statistics of `features` are a sample's, with deviations of at least 0.01.
    """
    mean, deviation = features.mean(0), features.std(0).clamp(min=0.01)
    active = (features != 0).float().mean(0) > 0.01
    cells = torch.arange(5.0) - 2
    kernel = (-(cells[:, None].square() + cells.square()) / 2).exp()
    weight = (kernel / kernel.sum()).expand(len(mean), 1, 5, 5)
    found = []
    for image in images.split(1):
        target = model(image).argmax(1)
        alpha = torch.full((1, *mean.shape), 5.0, requires_grad=True)
        optimizer, maps = torch.optim.Adam([alpha], lr=1.0), []
        for draws in [*noise, noise[0]]:
            signal = nn.functional.conv2d(nn.ReflectionPad2d(2)(alpha.sigmoid()), weight, groups=len(mean))

            def blend(
                _: nn.Module, __: object, output: Tensor, signal: Tensor = signal, draws: Tensor = draws
            ) -> Tensor:
                return (signal * output + (1 - signal) * (mean + deviation * draws[:, 0])) * active

            with torch.no_grad():
                normal = (kept(model, module, image) - mean) / deviation
            variance = (1 - signal) ** 2
            bits = -0.5 * (1 + variance.log() - (normal * signal) ** 2 - variance) * active
            maps.append(bits.detach()[0].sum(0) / math.log(2))
            handle = module.register_forward_hook(blend)
            logits = model(image.expand(len(draws), -1, -1, -1))
            handle.remove()
            optimizer.zero_grad()
            (nn.functional.cross_entropy(logits, target.expand(len(draws))) + 10 * bits.mean()).backward()
            optimizer.step()
        found.append(torch.stack(maps[-2:]))
    return torch.stack(found, dim=1)


def kept(model: nn.Module, module: nn.Module, images: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda *seen: outputs.append(seen[2].clone()))
    model(images)
    handle.remove()
    return outputs[0]


def test_maps_are_those_of_the_authors_but_for_the_last_step():
    """Theirs of ten steps are ours of nine, as they show the bits from before the last step."""
    model, pixels = load("digits").requires_grad_(False), to_float(digits("test", count=104, seed=0).images)
    images, data, module = pixels[:2], pixels[4:], model.get_submodule("network.stem")
    features = kept(model, module, data)
    draws = torch.Generator().manual_seed(0)
    noise = [torch.randn(10, 1, *features.shape[1:], generator=draws) for _ in range(10)]
    before, after = authors_maps(model, module, images, noise, features)
    known = feature_statistics(model, data, layer="network.stem")
    assert (known.active == 0).any()  # so that it matters what becomes of such units
    moved = ((after - before).abs().amax((1, 2)) / after.amax((1, 2))).max().item()
    assert 0.05 < moved < 0.21  # as the docstring says
    for steps, theirs in ((9, before), (10, after)):
        maps = iba(model, images, model(images).argmax(1), layer="network.stem", statistics=known, steps=steps)
        close(maps, theirs, rtol=0, atol=1e-3 * theirs.max().item())


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
    deviation = features.std(0, keepdim=True)
    close(known.deviation, deviation.clamp(min=0.01 * deviation.mean()), rtol=1e-4, atol=1e-5)


def test_units_are_inactive_that_are_zero_in_ninety_nine_percent_of_the_data():
    pixels = torch.zeros(200, 3, 8, 8)
    pixels[:2, 0] = 1.0  # 1 % of the images
    pixels[:3, 1] = 1.0
    known = feature_statistics(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), pixels, layer="0", batch_size=90)
    close(known.active, torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4))


def test_an_inactive_unit_of_one_image_passes_nothing_and_tells_nothing():
    """Class 0 would be lost without the one bright cell of a channel whose other 143 cells are black."""
    images = torch.zeros(1, 3, 24, 24)
    images[:, 1:] = torch.rand(1, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    images[:, 0, :2, :2] = 1.0
    maps = iba(Quadrants(), images, torch.tensor([0]), layer="cells", steps=2)
    without = images.clone()
    without[:, 0] = 0.0
    close(maps, iba(Quadrants(), without, torch.tensor([0]), layer="cells", steps=2))


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
    with pytest.raises(InputError, match="options of IBA"):
        explain(bottlenecked(), images, "iba", statistics=3)
