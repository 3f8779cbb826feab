"""Gains of paired draws by the study that decided against them, held to closed forms."""

import pytest
import torch

from evaluation.paired_metrics import correlation, estimates, gain, infidelity, variance

PAIRS = 4000


@pytest.fixture(autouse=True)
def _many(monkeypatch):
    """So many resamples that a gain has a standard error of about 4 %."""
    monkeypatch.setattr("evaluation.paired_metrics.RESAMPLES", 3000)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(PAIRS, *shape, generator=torch.Generator().manual_seed(0))


def pool(value) -> torch.Tensor:
    """Numbers of draws and of their negatives."""
    drawn = noise(1)[:, 0]
    return torch.stack([value(drawn), value(-drawn)])


def test_pairs_double_the_squared_error_of_vargrad_under_a_quadratic():
    """The gradient g + H z has a variance that is even in z: a pair says no more than one of its halves."""
    gradients = pool(lambda z: (3 + 2 * z)[:, None, None, None])
    assert gain(gradients, variance, 100) == pytest.approx(0.5, rel=0.15)
    assert float(estimates(gradients, variance, 100)["whole"]) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("curved", [0.0, 1.0, 3.0])
def test_gain_of_infidelity_is_a_half_plus_the_square_of_curvature_over_the_unexplained_slope(curved):
    """Error (u + c)^2 of an odd part u ~ N(0, 1) and a constant even one: Var(u^2) = 2, Var(2uc) = 4c^2; 1/2 + c^2."""
    drawn = noise(2)
    both = []
    for sign in (1, -1):
        predicted, unexplained = sign * 0.01 * drawn[:, 0], sign * drawn[:, 1]
        both.append(torch.stack([predicted, unexplained + curved], 1))
    assert gain(torch.stack(both), infidelity, 400) == pytest.approx(0.5 + curved**2, rel=0.15)


def test_complements_say_nothing_new_of_a_score_that_is_linear_in_the_cells():
    """Sums and drops of a complement are what the whole leaves: the correlation of n draws is that of n / 2."""
    orders = torch.stack(
        [torch.randperm(20, generator=torch.Generator().manual_seed(number)) for number in range(PAIRS)]
    )
    weights, lost = noise(2)[:20].unbind(1)
    both = [torch.stack([weights[part].sum(1), lost[part].sum(1)], 1) for part in (orders[:, :10], orders[:, 10:])]
    assert gain(torch.stack(both), correlation, 100) == pytest.approx(0.5, rel=0.15)


def test_a_pair_has_one_change_where_a_map_is_linear_in_the_image():
    """The size of a change is the same for both signs: the largest of ten draws is that of five."""
    found = estimates(pool(torch.abs), lambda changes: changes.amax(0), 10)
    five = noise(1)[:, 0].abs().unflatten(0, (-1, 5)).amax(1).mean()
    assert float(found["paired"].mean()) == pytest.approx(float(five), rel=0.05)
    assert float(found["paired"].mean()) < float(found["plain"].mean())
