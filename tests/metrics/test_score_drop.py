"""Closed forms on linear scores, plain loops, and Quantus where installed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ibviz.errors import InputError
from ibviz.metrics import average_drop, complexity, on_grid, sensitivity_n, sparseness

WEIGHTS = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))


def linear(states, rows):
    del rows
    return (states * WEIGHTS).sum((1, 2, 3))


def images(n=3, seed=1):
    return torch.rand(n, 3, 6, 8, generator=torch.Generator().manual_seed(seed))


def attributions(x, baselines, grid=(6, 8)):
    """What each cell adds to a linear score: its exact Shapley value."""
    return on_grid(((x - baselines) * WEIGHTS).sum(1), grid) * (48 // (grid[0] * grid[1]))


@pytest.mark.parametrize("grid", [(6, 8), (3, 4), (2, 8)])
def test_exact_attributions_of_a_linear_score_foretell_every_loss(grid):
    x, baselines = images(), images(seed=2)
    maps = attributions(x, baselines, grid)
    assert_close(sensitivity_n(linear, x, maps, baselines, n=3).correlation, torch.ones(3))
    assert_close(sensitivity_n(linear, x, -2 * maps, baselines, n=3).correlation, -torch.ones(3))


def test_sensitivity_n_is_the_correlation_of_sums_and_losses():
    x, maps = images(), torch.randn(3, 3, 4)
    found = sensitivity_n(linear, x, maps, torch.zeros_like(x), n=4, subsets=30, seed=5)
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randperm(12, generator=generator)[:4].tolist() for _ in range(30)]
    exact = attributions(x, torch.zeros_like(x), (3, 4)).flatten(1)
    for row in range(3):
        sums = [float(maps[row].flatten()[cells].sum()) for cells in drawn]
        losses = [float(exact[row, cells].sum()) for cells in drawn]
        assert float(found.correlation[row]) == pytest.approx(np.corrcoef(sums, losses)[0, 1], abs=1e-5)


def test_sensitivity_of_a_constant_map_is_undefined_not_zero():
    x = images(2)
    found = sensitivity_n(linear, x, torch.ones(2, 3, 4), torch.zeros_like(x), n=2)
    assert bool(found.correlation.isnan().all())


@pytest.mark.parametrize(
    ("n", "subsets", "message"), [(0, 9, "n must be 1 to 3"), (4, 9, "n must be"), (1, 1, "at least 2")]
)
def test_impossible_subsets_are_refused(n, subsets, message):
    x = images(1)
    with pytest.raises(InputError, match=message):
        sensitivity_n(linear, x, torch.rand(1, 2, 2), x, n=n, subsets=subsets)


def test_map_larger_than_the_image_is_refused():
    x = images(1)
    with pytest.raises(InputError, match="a cell must hold a pixel"):
        sensitivity_n(linear, x, torch.rand(1, 12, 16), x, n=2)


def test_drop_and_increase_of_a_linear_score():
    x = images(4)
    positive = lambda states, _: (states * WEIGHTS.abs()).sum((1, 2, 3))
    half = torch.zeros(4, 6, 8)
    half[:, :, :4] = 1.0
    result = average_drop(positive, x, half)
    expected = 1 - (x * half.unsqueeze(1) * WEIGHTS.abs()).sum((1, 2, 3)) / positive(x, None)
    assert_close(result.drop, expected)
    assert result.increase.tolist() == [0] * 4
    assert_close(average_drop(positive, x, 5 * half - 2).drop, expected)  # scale and offset of a map do not count


def test_no_more_images_are_scored_at_once_than_was_said():
    x, maps, sizes = images(5), torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0)), []

    def score(states, rows):
        sizes.append(len(states))
        return linear(states, rows).abs() * (1 + rows)

    drops = [average_drop(score, x, maps, batch_size=size) for size in (5, 2)]
    assert_close(drops[1], drops[0])
    baselines = torch.zeros_like(x)
    found = [sensitivity_n(score, x, maps, baselines, n=3, subsets=4, batch_size=size) for size in (5, 2)]
    assert_close(found[1].correlation, found[0].correlation)
    assert sizes == [5, 5, *[2, 2, 1] * 2, *[5] * 5, *[2, 2, 1] * 5]


def test_score_that_rises_is_an_increase_and_no_negative_drop():
    x = images(2)
    darkness = lambda states, _: 1 - states.mean((1, 2, 3))
    result = average_drop(darkness, x, torch.eye(6).expand(2, -1, -1))
    assert result.drop.tolist() == [0, 0]
    assert result.increase.tolist() == [1, 1]


def test_constant_map_leaves_the_image_and_an_impossible_score_is_undefined():
    x = images(1)
    whole = average_drop(lambda states, _: states.mean((1, 2, 3)), x, torch.full((1, 2, 2), 0.3))
    assert (whole.drop.item(), whole.increase.item()) == (0, 0)
    nothing = average_drop(lambda states, _: 0 * states.mean((1, 2, 3)), x, torch.rand(1, 2, 2))
    assert math.isnan(nothing.drop.item())


@settings(deadline=None, max_examples=40, database=None)
@given(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=1, max_size=12))
def test_gini_and_entropy_equal_their_definitions(values):
    maps, mass = torch.tensor([[values]]), [abs(value) for value in values]
    if not sum(mass):
        assert bool(sparseness(maps).isnan())
        assert bool(complexity(maps).isnan())
        return
    gini = sum(abs(a - b) for a in mass for b in mass) / (2 * len(mass) * sum(mass))
    entropy = -sum(a / sum(mass) * math.log(a / sum(mass)) for a in mass if a)
    assert_close(sparseness(maps), torch.tensor([gini]), atol=1e-6, rtol=1e-6)
    assert_close(complexity(maps), torch.tensor([entropy]), atol=1e-6, rtol=1e-6)


def test_ends_of_sparseness_and_complexity():
    one = torch.zeros(1, 4, 5)
    one[0, 1, 2] = -7.0
    assert_close(sparseness(one), torch.tensor([1 - 1 / 20]))
    assert complexity(one).item() == 0
    uniform = torch.full((1, 4, 5), 0.3)
    assert_close(sparseness(uniform), torch.zeros(1))
    assert_close(complexity(uniform), torch.tensor([math.log(20)]))


def test_peer_agrees_on_sparseness_and_complexity():
    quantus = pytest.importorskip("quantus")
    maps = torch.rand(3, 1, 4, 5)
    quiet = {"disable_warnings": True, "display_progressbar": False}
    for peer, ours in ((quantus.Sparseness(**quiet), sparseness), (quantus.Complexity(**quiet), complexity)):
        x = np.zeros((3, 1, 4, 5), dtype=np.float32)
        theirs = torch.tensor(peer.evaluate_batch(x_batch=x, a_batch=maps.numpy()))
        assert_close(ours(maps.squeeze(1)), theirs, check_dtype=False, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "judge",
    [
        sparseness,
        complexity,
        lambda maps: average_drop(linear, images(len(maps)), maps),
        lambda maps: sensitivity_n(linear, images(len(maps)), maps, images(len(maps)), n=2),
    ],
    ids=["sparseness", "complexity", "average_drop", "sensitivity_n"],
)
def test_maps_without_an_order_are_refused(judge):
    with pytest.raises(InputError, match="maps must be finite"):
        judge(torch.full((1, 2, 2), math.nan))
    with pytest.raises(InputError, match="at least one map"):
        judge(torch.rand(0, 2, 2))
