from typing import Any, cast

import numpy as np
import pytest
import torch
from networks import TwoParts
from torch import Tensor, nn

from ibviz.attribution.catalogue import METHODS

close = torch.testing.assert_close
TARGETS = torch.tensor([0, 2, 1])
SEED = 3


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def relu_network(*, bias: bool = True, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 6, 3, 2, 1, bias=bias), nn.Conv2d(6, 8, 3, bias=bias)
    return nn.Sequential(
        first, nn.ReLU(inplace), second, nn.ReLU(inplace), nn.Flatten(), nn.Linear(8 * 16, 3, bias=bias)
    )


def change(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return (model(images) - model(torch.zeros_like(images))).gather(1, TARGETS[:, None])[:, 0]


def run(method: str, model: nn.Module, images: Tensor, **options) -> Tensor:
    return cast(Tensor, METHODS[method](model, images, TARGETS, **options))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("input_x_gradient", {}),
        ("integrated_gradients", {}),
        ("gradient_shap", {"deviation": 0.0}),
        ("deep_lift", {}),
        ("lrp", {}),
    ],
)
def test_contributions_of_a_linear_network_are_weight_times_pixel(method, options, images):
    layer = nn.Linear(3 * 144, 3, bias=False)
    weight = layer.weight.detach()[TARGETS].view(3, 3, 12, 12)
    close(run(method, nn.Sequential(nn.Flatten(), layer), images, **options), (weight * images).sum(1))


def test_gradients_of_a_linear_network_are_its_weights(images):
    layer = nn.Linear(3 * 144, 3)
    weight = layer.weight.detach()[TARGETS].view(3, 3, 12, 12).abs().amax(1)
    model = nn.Sequential(nn.Flatten(), layer)
    close(run("saliency", model, images), weight)
    close(run("smooth_grad", model, images), weight)
    close(run("var_grad", model, images), torch.zeros_like(weight))


def test_gradients_of_half_precision_add_up_in_full(images):
    layer = nn.Linear(3 * 144, 3).half()
    weight, few = layer.weight.detach()[TARGETS].view(3, 3, 12, 12).float(), {"samples": 100, "batch_size": 3}
    model, images = nn.Sequential(nn.Flatten(), layer), images.half()
    close(run("smooth_grad", model, images, **few), weight.abs().amax(1), rtol=1e-5, atol=0)
    close(run("gradient_shap", model, images, deviation=0.0, **few), (weight * images).sum(1), rtol=1e-5, atol=1e-6)
    close(run("input_x_gradient", model, images), (weight * images).sum(1), rtol=1e-5, atol=1e-6)


class Steep(nn.Module):
    """Logits whose gradient is the image: that of its noisy copies varies as the noise does."""

    def forward(self, images: Tensor) -> Tensor:
        return (images.square() / 2).flatten(1).sum(1, keepdim=True).expand(-1, 3)


def test_the_variance_of_half_precision_gradients_adds_up_in_full(images):
    half, full = (run("var_grad", Steep(), one, samples=400, batch_size=3) for one in (images.half(), images))
    close(half, full, rtol=2e-3, atol=0)


def test_integrated_gradients_add_up_to_one_percent_at_64_steps(images):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 3)
    )
    with torch.no_grad():  # so that the changes are no small differences of large numbers
        model.get_parameter("5.weight").abs_()
    for batch_size in (3, 64):
        maps = run("integrated_gradients", model, images, steps=64, batch_size=batch_size)
        close(maps.sum((1, 2)), change(model, images), rtol=0.01, atol=0)
    assert (change(model, images).abs() > 0.1).all()


class Rippled(nn.Module):
    """Logits t + 5 sin(t) of the sum t of all pixels: the brighter an image, the more ripples lie on its way."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.flatten(1).sum(1, keepdim=True)
        return (total + 5 * total.sin()).expand(-1, 3)


def test_steps_are_doubled_until_integrated_gradients_add_up():
    """Each image takes the least number that is enough for itself, found here with Captum, image by image."""
    from captum.attr import IntegratedGradients

    model, totals, expected, taken = Rippled(), torch.tensor([3.0, 20.0, 100.0]), [], []
    images = (totals / 432).view(3, 1, 1, 1).expand(3, 3, 12, 12).contiguous()
    for image, total in zip(images.split(1), totals, strict=True):
        for steps in (4, 8, 16, 32, 64):
            parts: Any = IntegratedGradients(model).attribute(image.requires_grad_(), target=0, n_steps=steps)
            change = total + 5 * total.sin()
            if (parts.sum() - change).abs() <= 0.05 * change:
                break
        taken.append(steps)
        expected.append(parts.detach().sum(1))
    assert len(set(taken)) == 3
    for batch_size in (1, 64):
        close(run("integrated_gradients", model, images.detach(), steps=4, batch_size=batch_size), torch.cat(expected))


class Stairs(nn.Module):
    """Logits of which 30 % have a gradient: no number of steps adds up to the rest."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.flatten(1).sum(1, keepdim=True)
        return (0.3 * total + 0.7 * total.detach()).expand(-1, 3)


def test_integrated_gradients_that_never_add_up_are_warned_of(images):
    with pytest.warns(UserWarning, match=r"of 3 of 3 images do not add up: after 32 steps .* by up to 70% of it, "):
        maps = run("integrated_gradients", Stairs(), images, steps=2)
    close(maps, 0.3 * images.sum(1), rtol=1e-4, atol=1e-6)
    run("integrated_gradients", Stairs(), images, steps=2, tolerance=0.75)  # without a warning


def test_plain_gradients_are_captums(images):
    from captum.attr import InputXGradient, IntegratedGradients, Saliency

    model, inputs = TwoParts(), images.clone().requires_grad_()
    close(run("saliency", model, images), Saliency(model).attribute(inputs, TARGETS).amax(1))
    close(run("input_x_gradient", model, images), InputXGradient(model).attribute(inputs, TARGETS).sum(1).detach())
    direct = IntegratedGradients(model).attribute(inputs, target=TARGETS, n_steps=20)
    close(
        run("integrated_gradients", model, images, steps=20, tolerance=float("inf"), batch_size=7),
        direct.sum(1).detach(),
        rtol=1e-4,
        atol=1e-7,
    )


def test_noisy_gradients_are_captums_noise_tunnel_with_the_same_noise(images, monkeypatch):
    """Captum draws anew for every image, from the global generator; here it is handed our draws instead."""
    from captum.attr import GradientShap, NoiseTunnel, Saliency

    model, inputs, count = TwoParts(), images.clone().requires_grad_(), 5
    generator = torch.Generator().manual_seed(SEED)

    def normal(mean: float, deviations: Tensor) -> Tensor:
        noise = torch.randn(count, 1, 3, 12, 12, generator=generator).expand(-1, 3, -1, -1, -1)
        return mean + noise.transpose(0, 1).flatten(0, 1) * deviations  # Captum's rows: all copies of one image first

    monkeypatch.setattr(torch, "normal", normal)
    for method, kind in (("smooth_grad", "smoothgrad"), ("var_grad", "vargrad")):
        generator.manual_seed(SEED)
        direct: Any = NoiseTunnel(Saliency(model)).attribute(
            inputs, nt_type=kind, nt_samples=count, stdevs=0.2, target=TARGETS, abs=False
        )
        expected = direct.abs().amax(1) if method == "smooth_grad" else direct.sum(1)
        for batch_size in (3, 8, 64):
            plain = {"sampling": "plain"} if method == "smooth_grad" else {}
            maps = run(method, model, images, samples=count, deviation=0.2, seed=SEED, batch_size=batch_size, **plain)
            close(maps, expected, rtol=1e-4, atol=1e-8)

    generator.manual_seed(SEED)
    ways = torch.rand(count, generator=generator)
    monkeypatch.setattr(np.random, "uniform", lambda *bounds: ways.repeat(bounds[2] // count).numpy())
    black = torch.zeros(1, 3, 12, 12)
    shap: Any = GradientShap(model).attribute(inputs, black, n_samples=count, stdevs=0.2, target=TARGETS)
    options = {"samples": count, "sampling": "plain", "deviation": 0.2, "seed": SEED}
    maps = run("gradient_shap", model, images, batch_size=8, **options)
    close(maps, shap.sum(1).detach(), rtol=1e-4, atol=1e-7)


def test_noise_follows_from_the_seed_alone(images):
    model = TwoParts()
    for method in ("smooth_grad", "var_grad", "gradient_shap"):
        first = run(method, model, images, samples=4)
        assert torch.equal(run(method, model, images, samples=4), first)
        assert not torch.equal(run(method, model, images, samples=4, seed=1), first)
        close(METHODS[method](model, images[1:2], TARGETS[1:2], samples=4), first[1:2], rtol=1e-4, atol=1e-8)


class GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features):
        ctx.save_for_backward(features)
        return features.clamp(min=0)

    @staticmethod
    def backward(ctx, *gradients):
        [features], [gradient] = ctx.saved_tensors, gradients
        return gradient * (features > 0) * (gradient > 0)


class Guided(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return GuidedReLU.apply(features)


@pytest.mark.parametrize("inplace", [False, True])
def test_guided_backprop_passes_what_is_positive_twice(inplace, images):
    model, inputs = relu_network(inplace=inplace), images.clone().requires_grad_()
    guided = nn.Sequential(*(Guided() if isinstance(part, nn.ReLU) else part for part in model))
    guided(inputs).gather(1, TARGETS[:, None]).sum().backward()
    close(run("guided_backprop", model, images), inputs.grad.abs().amax(1))


@pytest.mark.parametrize("inplace", [False, True])
def test_deep_lift_adds_up_and_is_captums(inplace, images):
    from captum.attr import DeepLift

    model = relu_network(inplace=inplace)
    maps = run("deep_lift", model, images)
    close(maps.sum((1, 2)), change(model, images), rtol=1e-4, atol=1e-6)
    with pytest.warns(UserWarning, match="Setting"):
        direct = DeepLift(relu_network()).attribute(images.requires_grad_(), target=TARGETS)
    close(maps, direct.sum(1).detach())
    assert model[1].inplace == inplace


@pytest.mark.parametrize("inplace", [False, True])
def test_lrp_keeps_relevance_and_is_captums(inplace, images):
    """Without biases the epsilon rule of a ReLU network is gradient times input, which sums to the logit."""
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule

    model = relu_network(bias=False, inplace=inplace)
    maps = run("lrp", model, images)
    close(maps.sum((1, 2)), change(model, images), rtol=1e-4, atol=1e-6)
    close(maps, run("input_x_gradient", model, images), rtol=1e-3, atol=1e-6)
    direct = relu_network()
    cast(Any, direct[4]).rule = EpsilonRule()  # Captum knows none for Flatten
    close(run("lrp", relu_network(), images), LRP(direct).attribute(images.requires_grad_(), TARGETS).sum(1).detach())


def test_products_that_are_checked_are_not_of_tf32(images):
    backends = cast(Any, torch.backends.cudnn).conv, cast(Any, torch.backends.cuda).matmul
    model, seen = relu_network(), list[list[str]]()
    model.register_forward_hook(lambda *_: seen.append([backend.fp32_precision for backend in backends]))
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32"
        for method in ("deep_lift", "saliency"):
            run(method, model, images)
        assert (seen[0], seen[-1]) == (["ieee", "ieee"], ["tf32", "tf32"])
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
