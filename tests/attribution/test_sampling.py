"""Paired draws, the standard errors of maps, and the rule by which drawing ends.

Expectations come from all masks of a tiny grid, Shapley values by their definition, a gradient that is a polynomial,
and from the spread between seeds.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import reference
import torch
from networks import TwoParts
from torch import Tensor, nn

from ibviz.attribution import METHODS, explain, recorded_errors
from ibviz.attribution.methods import values
from ibviz.attribution.superpixel_fits import Superpixels, fit_kernel_shap, kernel_choices
from ibviz.attribution.superpixels import kernel_shap, superpixels
from ibviz.errors import InputError
from ibviz.types import Maps

close = torch.testing.assert_close
SEEDS = range(60)
PAIRED = ("rise", "lime", "kernel_shap", "smooth_grad", "gradient_shap")


class Steep(nn.Module):
    """A network of one-colour images whose gradient is a polynomial of the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return (flat**3 + flat**2 / 2 + flat).sum(1, keepdim=True).expand(-1, 2)


class Curved(nn.Module):
    """Probabilities that depend on pixels, pairs and triples of them."""

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(3)
        self.weights = torch.randn(27, 16, generator=draws), torch.randn(16, 3, generator=draws)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.weights
        return torch.tanh(images.flatten(1) @ first / 2) @ second + images.flatten(1).mean(1, keepdim=True)


def pixels(count: int, channels: int = 3, side: int = 3) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(2))


def over_seeds(run: Callable[..., Maps], **options: Any) -> tuple[Tensor, Tensor]:
    """Maps `(seeds, b, h, w)` and the errors that they state `(seeds, b)`."""
    maps, errors = [], []
    for seed in SEEDS:
        with recorded_errors() as recorded:
            maps.append(run(seed=seed, **options))
        errors.append(torch.tensor(recorded))
    return torch.stack(maps), torch.stack(errors)


def rise(**options: Any) -> Maps:
    return METHODS["rise"](Curved(), pixels(2), torch.tensor([0, 2]), grid=(3, 3), **options)  # pyright: ignore


def all_masks() -> Tensor:
    """The map of the images of `rise` from all 512 equally likely masks of 3 x 3 cells, each a pixel."""
    total, images = torch.zeros(2, 3, 3), pixels(2)
    for bits in product([0.0, 1.0], repeat=9):
        mask = reference.bilinear(torch.tensor(bits).view(3, 3), (4, 4))[:3, :3]
        scores = Curved()(images * mask).softmax(1)[[0, 1], [0, 2]]
        total += scores[:, None, None] * mask / 0.5 / 512
    return total


def centred(maps: Tensor) -> Tensor:
    return maps - maps.mean((-2, -1), keepdim=True)


@pytest.mark.parametrize("masks", [2, 12, 60])
def test_rise_from_pairs_is_unbiased_and_varies_less_than_as_published(masks):
    paired, _ = over_seeds(rise, masks=masks)
    error = paired.std(0) / len(SEEDS) ** 0.5
    assert ((paired.mean(0) - all_masks()).abs() < 4.5 * error).all()
    plain, _ = over_seeds(rise, masks=masks, sampling="plain")
    varies = [centred(maps).var(0).sum((1, 2)) for maps in (paired, plain)]
    if masks > 2:  # a single pair has no other to fit the control variate to
        assert (varies[0] < 0.6 * varies[1]).all()
        assert error.square().sum() < 0.1 * centred(all_masks()).square().sum()  # a test that could fail


@pytest.mark.parametrize("sampling", ["paired", "plain"])
def test_the_error_that_rise_states_is_that_to_all_masks(sampling):
    maps, errors = over_seeds(rise, masks=400, sampling=sampling)
    true = centred(all_masks())
    found = (centred(maps) - true).square().sum((2, 3)).mean(0) / true.square().sum((1, 2))
    close(errors.square().mean(0).float().sqrt(), found.sqrt(), rtol=0.2, atol=0)


@pytest.mark.parametrize("sampling", ["paired", "plain"])
@pytest.mark.parametrize("method", ["lime", "kernel_shap"])
def test_the_errors_of_regressions_are_their_spread_between_seeds(method, sampling):
    images = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))

    def run(**options: Any) -> Maps:
        return METHODS[method](TwoParts(), images, torch.tensor([0]), segments=9, **options)  # pyright: ignore

    maps, errors = over_seeds(run, samples=120, sampling=sampling)
    spread = centred(maps).var(0).sum() / centred(maps.mean(0)).square().sum()
    close(errors.square().mean().float().sqrt(), spread.sqrt(), rtol=0.2, atol=0)


def test_kernel_shap_from_pairs_is_unbiased_from_any_number_and_adds_up():
    images = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    [pieces], model = superpixels(images, 5), TwoParts()
    count = int(pieces.max()) + 1

    def game(team: tuple[int, ...]) -> float:
        seen = sum(((pieces == piece).float() for piece in team), torch.zeros(12, 12))
        with torch.no_grad():
            return model(images * seen)[0, 1].item()

    exact = torch.tensor(reference.shapley(game, count))
    places = [tuple((pieces == piece).nonzero()[0].tolist()) for piece in range(count)]
    maps, _ = over_seeds(lambda **some: kernel_shap(model, images, torch.tensor([1]), segments=5, **some), samples=14)
    found = torch.stack([maps[:, 0, row, column] for row, column in places], dim=1)
    error = found.std(0) / len(SEEDS) ** 0.5
    assert ((found.mean(0) - exact).abs() < 4 * error).all()
    assert (error < 0.2 * exact.std()).all()
    close(found.sum(1), exact.sum().expand(len(SEEDS)), rtol=1e-4, atol=1e-6)


def test_the_fit_of_kernel_shap_is_unbiased_from_three_pairs():
    """A game of five players with products of three; many draws, as no network is asked."""
    worth = torch.tensor([1.0, -0.5, 0.8, 0.3, -1.2], dtype=torch.float64)

    def game(choices: Tensor) -> Tensor:
        return ((choices @ worth) ** 3 + choices @ worth.flip(0))[:, None]

    def of_team(team: tuple[int, ...]) -> float:
        shown = torch.zeros(1, 5, dtype=torch.float64)
        shown[0, list(team)] = 1
        return game(shown).item()

    parts, values = Superpixels(torch.full((5,), 0.2), torch.full((5,), 0.2)), []
    for seed in range(500):
        choices = kernel_choices(3, 5, "paired", torch.Generator().manual_seed(seed))
        values.append(fit_kernel_shap("paired", choices, game(choices), parts).values[0])
    found, exact = torch.stack(values), torch.tensor(reference.shapley(of_team, 5), dtype=torch.float64)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() < 4.5 * error).all()
    assert (error < 0.1 * exact.std()).all()  # a test that could fail


@pytest.mark.parametrize(("method", "bound"), [("smooth_grad", 1.2), ("gradient_shap", 4.0)])
@pytest.mark.parametrize("sampling", ["paired", "plain"])
def test_noisy_gradients_have_the_mean_and_the_error_that_they_state(method, bound, sampling):
    """The gradient is 3 x^2 + x + 1; noise of deviation d adds 3 d^2 to its mean. Stratified points vary less than the
    error says, which takes them for independent."""
    images, deviation = pixels(2, 1), 0.2

    def run(**options: Any) -> Maps:
        return METHODS[method](Steep(), images, torch.tensor([0, 1]), deviation=deviation, **options)  # pyright: ignore

    maps, errors = over_seeds(run, samples=40, sampling=sampling)
    second, third = images**2 + deviation**2, images**3 + 3 * images * deviation**2
    exact = 3 * second + images + 1 if method == "smooth_grad" else third + second / 2 + images
    error = maps.std(0) / len(SEEDS) ** 0.5
    assert ((maps.mean(0) - exact[:, 0]).abs() < 4.5 * error).all()
    found = ((maps - exact[:, 0]).square().sum((2, 3)).mean(0) / exact.square().sum((1, 2, 3))).sqrt()
    stated = errors.square().mean(0).float().sqrt()
    upper = bound if sampling == "paired" else 1.2
    assert (found / 1.2 < stated).all()
    assert (stated < upper * found).all()


def test_noise_in_pairs_is_exact_where_gradients_are_linear():
    class Square(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images.flatten(1) ** 2 / 2 + images.flatten(1)).sum(1, keepdim=True).expand(-1, 2)

    images = pixels(2, 1)
    with recorded_errors() as errors:
        close(explain(Square(), images, "smooth_grad", samples=4), images[:, 0] + 1)
    assert max(errors) < 1e-3
    with recorded_errors() as errors:
        explain(Square(), images, "smooth_grad", samples=4, sampling="plain")
    assert min(errors) > 0.01


class Counted(nn.Module):
    """A network of 12 x 12 pixels that lists what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.shown = TwoParts(), list[Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.detach())
        return self.inner(images)


@pytest.mark.parametrize("method", PAIRED)
def test_drawing_ends_for_each_image_by_itself_when_its_error_is_reached(method):
    draws = torch.Generator().manual_seed(1)
    images, targets = torch.rand(3, 3, 12, 12, generator=draws), torch.tensor([0, 2, 1])
    number = {"masks" if method == "rise" else "samples": 1200}
    options = {"segments": 6} if method in ("lime", "kernel_shap") else {}
    with recorded_errors() as whole:
        explain(TwoParts(), images, method, targets=targets, **options, **number)
    limit = 1.7 * max(whole)  # about a third of the draws
    with recorded_errors() as together:
        maps = values(explain(TwoParts(), images, method, targets=targets, error=limit, **options, **number))
    passes = []
    for place in range(3):
        network = Counted()
        given = {"targets": targets[[place]], "error": limit, **options, **number}
        with recorded_errors() as alone:
            found = values(explain(network, images[[place]], method, **given))
        close(found[0], maps[place], rtol=1e-3, atol=1e-6)
        assert alone[0] == pytest.approx(together[place], rel=1e-3)
        assert alone[0] <= limit
        passes.append(sum(map(len, network.shown)))
    assert max(passes) < 1000
    assert len({*passes}) > 1  # each image took its own number of draws


@pytest.mark.parametrize("method", PAIRED)
def test_a_limit_that_is_out_of_reach_changes_nothing(method):
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    options = {"segments": 4} if method in ("lime", "kernel_shap") else {}
    for draws in (20, 100):  # less than a block, and more
        number = {"masks" if method == "rise" else "samples": draws}
        expected = explain(TwoParts(), images, method, targets=0, **options, **number)
        found = explain(TwoParts(), images, method, targets=0, error=1e-9, **options, **number)
        close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", PAIRED)
@pytest.mark.parametrize("error", [0, -0.1, float("nan"), float("inf"), "small"])
def test_an_error_that_cannot_be_reached_is_refused(method, error):
    with pytest.raises(InputError, match=r"options of .*'error'"):
        explain(TwoParts(), torch.rand(1, 3, 12, 12), method, error=error)


@pytest.mark.parametrize("method", PAIRED)
def test_an_odd_number_is_rounded_up_and_a_single_unit_has_no_error(method):
    images, options = torch.rand(1, 3, 12, 12), {"segments": 4} if method in ("lime", "kernel_shap") else {}
    name = "masks" if method == "rise" else "samples"
    close(*(explain(TwoParts(), images, method, targets=0, **options, **{name: count}) for count in (9, 10)))
    with recorded_errors() as errors:
        explain(TwoParts(), images, method, targets=0, **options, **{name: 4 if method == "kernel_shap" else 2})
    assert errors == [float("inf")]


def test_errors_are_recorded_in_the_order_of_the_images_and_only_inside():
    images = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    with recorded_errors() as errors:
        explain(TwoParts(), images, "saliency")
        explain(TwoParts(), images, "kernel_shap", targets=0, samples=60, segments=4, batch_size=2)
    explain(TwoParts(), images, "rise", masks=4)
    for place, error in enumerate(errors):
        with recorded_errors() as alone:
            explain(TwoParts(), images[[place]], "kernel_shap", targets=0, samples=60, segments=4)
        assert alone == [pytest.approx(error, rel=1e-4)]
    assert len(errors) == 5
