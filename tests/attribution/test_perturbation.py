import copy
from itertools import product
from typing import Any

import pytest
import reference
import torch
from networks import TwoParts
from torch import Tensor, nn

from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.perturbation import occlusion, rise, shifted_masks
from ibviz.attribution.superpixels import feature_ablation, kernel_shap, lime, superpixels
from ibviz.errors import InputError

close = torch.testing.assert_close
TARGETS = torch.tensor([0, 2, 1])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_occlusion_is_the_mean_loss_over_windows_and_captums(images):
    from captum.attr import Occlusion

    model = TwoParts()
    with torch.no_grad():
        expected = [reference.occlusion(model, *pair, 4, 2) for pair in zip(images, TARGETS.tolist(), strict=True)]
    for batch_size in (3, 10, 64):
        close(
            occlusion(model, images, TARGETS, window=4, stride=2, batch_size=batch_size),
            torch.stack(expected),
            rtol=1e-4,
            atol=1e-6,
        )
    direct = Occlusion(model).attribute(images, (3, 5, 5), (3, 3, 3), target=TARGETS)  # windows that do not fit
    close(occlusion(model, images, TARGETS, window=5, stride=3), direct[:, 2], rtol=1e-4, atol=1e-6)
    for window, stride in ((13, 6), (4, 8)):
        with pytest.raises(InputError, match=rf"fit into the image of \(12, 12\) pixels.*; got {window} and {stride}"):
            occlusion(model, images, TARGETS, window=window, stride=stride)


def tiny() -> nn.Sequential:
    """A network of 3 x 3 pixels whose probabilities depend on pairs of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 16), nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        for weight in (model.get_parameter("1.weight"), model.get_parameter("3.weight")):
            weight.mul_(4)
    return model


def test_rise_estimates_what_all_masks_of_a_3_by_3_grid_give():
    """Every mask has the chance 1 in 512; the estimate has to lie within its own standard error of their mean."""
    model, draws = tiny(), 20_000
    images = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 2])
    seen = []
    for bits in product([0.0, 1.0], repeat=9):
        large = reference.bilinear(torch.tensor(bits).view(3, 3), (4, 4))  # one cell more, then cut: cells are pixels
        seen.append(large[:3, :3])
    masks = torch.stack(seen)
    with torch.no_grad():
        scores = torch.stack([model(images * mask).softmax(1).gather(1, targets[:, None])[:, 0] for mask in masks])
    values = scores[..., None, None] * masks[:, None] / 0.5
    error = values.std(0) / draws**0.5
    maps = rise(model, images, targets, masks=draws, grid=(3, 3), batch_size=4096)
    assert ((maps - values.mean(0)).abs() < 4 * error).all()
    assert (error < 0.02 * values.mean(0)).all()  # a test that could fail
    assert (values.mean(0).flatten(1).std(1) > 4 * error.amax((1, 2))).all()


def test_rise_is_its_definition_mask_by_mask(images):
    model, draws, grid, size = TwoParts(), 6, (2, 3), (12, 12)
    dice = torch.Generator().manual_seed(5)
    cells = (torch.rand(draws, *grid, generator=dice) < 0.5).float()
    shifts = (torch.rand(draws, 2, generator=dice) * torch.tensor([6, 4])).long()
    expected = torch.zeros(3, 12, 12)
    for one, (down, right) in zip(cells, shifts.tolist(), strict=True):
        mask = reference.bilinear(one, (18, 16))[down : down + 12, right : right + 12]
        with torch.no_grad():
            scores = model(images * mask).softmax(1).gather(1, TARGETS[:, None])[:, 0]
        expected += scores[:, None, None] * mask / (0.5 * draws)
    for batch_size in (1, 7, 64):
        found = rise(model, images, TARGETS, masks=draws, sampling="plain", grid=grid, seed=5, batch_size=batch_size)
        close(found, expected)
    masks = shifted_masks(cells, shifts, size)
    assert masks.shape == (6, *size)
    assert masks.min() >= 0
    assert masks.max() <= 1


def test_random_methods_follow_from_the_seed_alone(images):
    model = TwoParts()
    for method, options in (
        ("rise", {"masks": 20}),
        ("lime", {"samples": 20, "segments": 6}),
        ("kernel_shap", {"samples": 20, "segments": 6}),
    ):
        function: Any = METHODS[method]
        first = function(model, images, TARGETS, **options)
        assert torch.equal(function(model, images, TARGETS, **options), first)
        assert not torch.equal(function(model, images, TARGETS, **options, seed=1), first)
        close(function(model, images[1:2], TARGETS[1:2], **options), first[1:2], rtol=1e-4, atol=1e-6)


def test_superpixels_cover_every_image_whatever_it_shows(images):
    flat = torch.full_like(images[:1], 0.5)
    corner = torch.zeros_like(flat)
    corner[:, :, :6, :6] = 1
    parts = superpixels(torch.cat([images, flat, corner]), 9)
    for part in parts:
        assert part.unique().tolist() == list(range(int(part.max()) + 1))
        assert 4 <= part.max() + 1 <= 16
    inside, outside = parts[-1, :6, :6].unique().tolist(), parts[-1].flatten()[corner[0, 0].flatten() == 0].tolist()
    assert not set(inside) & set(outside)  # an edge is a border


def linear(images: Tensor) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(3 * 144, 3)
    return nn.Sequential(nn.Flatten(), layer), (layer.weight.detach()[TARGETS].view_as(images) * images).sum(1)


def test_superpixels_of_a_linear_network_have_the_sum_of_their_pixels(images):
    model, parts = linear(images)
    pieces = superpixels(images, 6)
    expected = torch.zeros_like(parts)
    for k in range(3):
        for piece in pieces[k].unique():
            expected[k][pieces[k] == piece] = parts[k][pieces[k] == piece].sum()
    close(feature_ablation(model, images, TARGETS, segments=6), expected, rtol=1e-4, atol=1e-6)
    close(kernel_shap(model, images, TARGETS, segments=6, samples=64), expected, rtol=1e-3, atol=1e-4)


def test_kernel_shap_tends_to_shapley_values_and_adds_up(images):
    model = TwoParts()
    pieces = superpixels(images, 5)
    maps = kernel_shap(model, images, TARGETS, segments=5, samples=1500)
    for k, target in enumerate(TARGETS.tolist()):

        def game(team: tuple[int, ...], k: int = k, target: int = target) -> float:
            seen = torch.zeros(12, 12)
            for piece in team:
                seen[pieces[k] == piece] = 1
            with torch.no_grad():
                return model((images[k] * seen)[None])[0, target].item()

        players = int(pieces[k].max()) + 1
        values = reference.shapley(game, players)
        found = [maps[k][pieces[k] == piece][0].item() for piece in range(players)]
        spread = max(values) - min(values)
        assert sum(found) == pytest.approx(game(tuple(range(players))) - game(()), abs=1e-4)
        assert found == pytest.approx(values, abs=0.1 * spread)


def test_superpixel_methods_are_captums(images):
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import FeatureAblation, KernelShap, Lime
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    model, pieces = TwoParts(), superpixels(images, 6)
    kernel = get_exp_kernel_similarity_function("cosine", kernel_width=0.25)
    methods = {
        "lime": Lime(model, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=kernel),
        "kernel_shap": KernelShap(model),
    }
    for k, target in enumerate(TARGETS.tolist()):
        one, mask = images[k : k + 1], pieces[k][None, None]
        direct = FeatureAblation(model).attribute(one, target=target, feature_mask=mask)
        close(feature_ablation(model, images, TARGETS, segments=6)[k], direct[0, 0], rtol=1e-4, atol=1e-6)
        for name, method in methods.items():
            torch.manual_seed(7)
            direct = method.attribute(one, target=target, feature_mask=mask, n_samples=30)
            function: Any = METHODS[name]
            found = function(model, images, TARGETS, samples=30, sampling="plain", segments=6, seed=7, batch_size=8)
            close(found[k], direct[0, 0], rtol=1e-3, atol=1e-6)


def test_lime_ranks_superpixels_as_they_contribute(images):
    model, parts = linear(images)
    pieces, maps = superpixels(images, 6), lime(model, images, TARGETS, segments=6, samples=400)
    for k in range(3):
        numbers = pieces[k].unique()
        sums = torch.stack([parts[k][pieces[k] == piece].sum() for piece in numbers])
        found = torch.stack([maps[k][pieces[k] == piece][0] for piece in numbers])
        assert torch.corrcoef(torch.stack([sums, found]))[0, 1] > 0.95


def test_a_regression_that_samples_leave_open_is_refused(images):
    """SLIC makes other numbers of superpixels than it is asked for: 4 of 3, and 1 of 2."""
    assert (superpixels(images, 3).amax((1, 2)) == 3).all()
    kernel_shap(TwoParts(), images, TARGETS, segments=3, samples=4)
    for segments, samples, found in ((3, 3, 4), (2, 500, 1)):
        with pytest.raises(InputError, match=f"per superpixel; got {samples} samples for {found} to {found};"):
            kernel_shap(TwoParts(), images, TARGETS, segments=segments, samples=samples)


def test_regressions_draw_from_the_generator_of_the_processor_alone(images, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError(arguments)

    model = TwoParts()
    for name in ("manual_seed_all", "device_count"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    for method in (lime, kernel_shap):
        method(model, images, TARGETS, samples=10, segments=4)


def test_masks_of_half_precision_add_up_in_full(images):
    """Equal probabilities: the map is the mean of the masks, of which half precision cannot add so many."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 4)).half()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    half, full = (
        rise(one, pixels, TARGETS, masks=4000, batch_size=400)
        for one, pixels in ((model, images.half()), (copy.deepcopy(model).float(), images))
    )
    close(half, full, rtol=1e-3, atol=0)
