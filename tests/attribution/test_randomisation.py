"""Sanity checks against scikit-image and SciPy, on networks whose parameters are counted."""

import math
from typing import Any, cast

import pytest
import torch
from networks import Quadrants, bottlenecked
from scipy.stats import pearsonr, spearmanr
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from ibviz.attribution.gradients import integrated_gradients
from ibviz.attribution.randomisation import randomise, randomise_parameters, similarity
from ibviz.errors import InputError

close = torch.testing.assert_close


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(784, 3))


def test_similarities_are_those_of_scikit_image_and_scipy():
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(2, 28, 28, generator=generator).double()
    after = before + torch.randn(2, 28, 28, generator=generator).double()
    found = similarity(before, after, (28, 28))
    for index, (one, other) in enumerate(zip(before.numpy(), after.numpy(), strict=True)):
        a, b = one / abs(one).max(), other / abs(other).max()
        histograms = [hog(values, pixels_per_cell=(2, 2)) for values in (a, b)]
        close(found["ssim"][index].item(), structural_similarity((a + 1) / 2, (b + 1) / 2, data_range=1.0))
        close(found["spearman"][index].item(), float(cast(Any, spearmanr(one.ravel(), other.ravel())).statistic))
        close(found["hog"][index].item(), float(cast(Any, pearsonr(*histograms)).statistic))


def test_equal_maps_are_alike_opposite_ones_are_not_and_constant_ones_say_nothing():
    maps = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    same, opposite, flat = (similarity(maps, other, (32, 32)) for other in (3 * maps, -maps, torch.ones(1, 8, 8)))
    for name, value in {"ssim": 1.0, "spearman": 1.0, "hog": 1.0}.items():
        close(same[name].item(), value)
    close(opposite["spearman"].item(), -1.0)
    assert opposite["ssim"] < 0
    assert flat["spearman"].isnan()


def test_cascading_goes_from_the_output_to_the_input_and_keeps_what_is_lost(images):
    model, targets = chain(), torch.tensor([0, 1])
    rows = randomise(model, images, "integrated_gradients", targets=targets, steps=4)
    assert [row.layer for row in rows] == ["4", "2", "0"]
    by_hand = chain()
    before = chain()
    first = integrated_gradients(before, images, targets, steps=4)
    for row in rows:
        named = by_hand.get_submodule(row.layer).named_parameters(prefix=row.layer)
        randomise_parameters(dict(named), 0)
        expected = similarity(first, integrated_gradients(by_hand, images, targets, steps=4), (16, 16))
        close(row.similarity, expected)


def test_independent_randomisation_loses_one_layer_at_a_time(images):
    model = chain()
    targets = torch.tensor([0, 1])
    rows = randomise(model, images, "integrated_gradients", cascading=False, targets=targets, steps=4)
    one = randomise(model, images, "integrated_gradients", layers=["2"], targets=targets, steps=4)
    close(rows[1].similarity, one[0].similarity)
    cascading = randomise(model, images, "integrated_gradients", targets=targets, steps=4)
    close(rows[0].similarity, cascading[0].similarity)
    assert not torch.equal(rows[2].similarity["spearman"], cascading[2].similarity["spearman"])


def test_new_values_have_the_mean_and_deviation_of_the_old_and_follow_from_name_and_seed():
    old = torch.randn(100, 100) * 3 + 2
    drawn = {}
    for key, name, seed in (("a", "x.weight", 0), ("b", "x.weight", 0), ("c", "y.weight", 0), ("d", "x.weight", 1)):
        drawn[key] = nn.Parameter(old.clone())
        randomise_parameters({name: drawn[key]}, seed)
    close(drawn["a"].mean().item(), 2.0, rtol=0, atol=0.15)
    close(drawn["a"].std().item(), 3.0, rtol=0, atol=0.15)
    assert torch.equal(drawn["a"], drawn["b"])
    assert not torch.equal(drawn["a"], drawn["c"])
    assert not torch.equal(drawn["a"], drawn["d"])
    assert torch.corrcoef(torch.stack([old.flatten(), drawn["a"].detach().flatten()]))[0, 1].abs() < 0.05


@pytest.mark.parametrize("cascading", [True, False])
def test_the_model_is_restored_to_the_bit_also_after_an_error(cascading, images):
    model = chain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    randomise(model, images, "integrated_gradients", cascading=cascading, steps=2, tolerance=math.inf)
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) > 4:
            raise KeyError

    handle = model[2].register_forward_hook(fail)
    with pytest.raises(KeyError):
        randomise(model, images, "integrated_gradients", cascading=cascading, steps=2, tolerance=math.inf)
    handle.remove()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_trained_attention_depends_on_its_own_layers_only():
    model, images = bottlenecked(anchors=None), torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    last, first = randomise(model, images, "attention", layers=["decoder", "network.stem"])
    close(last.similarity["spearman"], torch.ones(2), check_dtype=False)
    assert first.similarity["spearman"].max() < 0.99


def test_a_layer_without_parameters_lists_those_with(images):
    with pytest.raises(InputError, match="unknown layer with parameters '1'; known: 0, 2, 4"):
        randomise(chain(), images, "uniform", layers=["1"])
    assert randomise(Quadrants(), images, "uniform") == []
