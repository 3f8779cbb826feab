import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ibviz.statistics import (
    RESAMPLES,
    estimate,
    estimates,
    holm,
    krippendorff_alpha,
    rank_correlations,
    ranks,
    separation,
    sign_flip,
    standardised,
)
from ibviz.statistics.pairs import FLIPS


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.0, size=shape)  # skewed, so that BCa and percentile differ


def with_gaps(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[::7, 1] = math.nan
    values[::5, 2] = math.nan
    return values


# Intervals


@pytest.mark.parametrize(("method", "fields"), [("percentile", ("low", "high")), ("BCa", ("bca_low", "bca_high"))])
def test_intervals_are_those_of_scipy_on_the_defined_values(method, fields):
    values = with_gaps(drawn(40, 4))
    found = estimates(values, seed=3)
    for i, column in enumerate(values.T):
        kept = column[~np.isnan(column)]
        peer = stats.bootstrap((kept,), np.mean, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(3))
        assert [getattr(found, name)[i] for name in fields] == pytest.approx(list(peer.confidence_interval))
        assert found.mean[i] == pytest.approx(kept.mean())
    assert found.n.tolist() == [40, 34, 32, 40]
    assert found.excluded.tolist() == [0, 6, 8, 0]


def test_blocks_of_draws_are_one_stream(monkeypatch):
    values = drawn(50, 2)
    whole, pairs = estimates(values), sign_flip(values).p
    monkeypatch.setattr("ibviz.statistics.samples._ENTRIES", 333)
    assert np.array(estimates(values)) == pytest.approx(np.array(whole))
    assert sign_flip(values).p == pytest.approx(pairs)


def test_a_bootstrap_interval_tends_to_the_normal_one():
    values = np.random.default_rng(5).normal(1.0, 2.0, 400)
    one = estimate(values.tolist())
    half = 1.96 * values.std() / math.sqrt(400)
    assert one[:3] == pytest.approx((values.mean(), values.mean() - half, values.mean() + half), abs=0.03)


def test_images_without_a_value_are_excluded_and_counted():
    assert estimate([0.0, 1.0, math.nan])[3:] == (2, 1)
    assert math.isnan(estimate([math.nan]).mean)
    assert estimate([])[3:] == (0, 0)
    assert np.isnan(estimates(np.full((3, 2), math.nan))[:5]).all()


def test_a_constant_and_a_single_image_have_the_interval_of_a_point():
    values = np.full((7, 2), 0.1)
    values[1:, 1] = math.nan
    assert np.array_equal(estimates(values)[:5], np.full((5, 2), 0.1))  # SciPy says NaN and warns


SKEWED = {  # draws of n numbers with mean 1
    "normal": lambda generator, shape: generator.normal(1, 1, shape),
    "exponential": lambda generator, shape: generator.exponential(1, shape),
    "log-normal": lambda generator, shape: generator.lognormal(-0.5, 1, shape),
}


@pytest.mark.parametrize(
    ("distribution", "n", "percentile", "bca"),
    [
        ("normal", 100, (0.93, 0.97), (0.93, 0.97)),
        ("exponential", 200, (0.93, 0.97), (0.93, 0.97)),
        # Few images and a heavy tail: both are too short, BCa less so.
        ("log-normal", 20, (0.80, 0.87), (0.82, 0.90)),
    ],
)
def test_intervals_cover_the_mean_as_often_as_they_say(distribution, n, percentile, bca):
    hits = []
    for seed in range(20):  # own resamples each, of 200 data sets: the error of a share of 4,000 is 0.4 %
        values = SKEWED[distribution](np.random.default_rng([seed, n]), (n, 200))
        found = estimates(values, seed=seed)
        hits.append([(found.low <= 1) & (found.high >= 1), (found.bca_low <= 1) & (found.bca_high >= 1)])
    covered = np.mean(hits, axis=(0, 2))
    assert percentile[0] <= covered[0] <= percentile[1], covered
    assert bca[0] <= covered[1] <= bca[1], covered


# Tests


@pytest.mark.parametrize("n", [3, 10, 14])
def test_p_values_of_few_images_are_the_exact_ones_of_scipy(n):
    values = drawn(n, 3)
    found = sign_flip(values).p
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        peer = stats.permutation_test(
            (values[:, i] - values[:, j],), np.mean, permutation_type="samples", n_resamples=2**n, vectorized=True
        )
        assert found[i, j] == found[j, i] == pytest.approx(peer.pvalue)


def test_p_values_of_many_images_are_those_of_scipy_within_their_own_error():
    values = drawn(60, 3)
    values[:, 1] += 0.3
    found = sign_flip(values).p
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        peer = stats.permutation_test(
            (values[:, i] - values[:, j],),
            np.mean,
            permutation_type="samples",
            n_resamples=FLIPS,
            vectorized=True,
            batch=1000,
            rng=np.random.default_rng(1),
        )
        error = math.sqrt(2 * found[i, j] * (1 - found[i, j]) / FLIPS)
        assert found[i, j] == pytest.approx(peer.pvalue, abs=4 * error + 1e-9)


def test_a_clear_difference_has_the_least_p_value_and_none_has_one():
    values = drawn(100, 1)
    found = sign_flip(np.hstack([values, values + 1, values]))
    assert found.p[0, 1] == pytest.approx(2 * 3.1779 * stats.norm.sf(10), rel=1e-3)  # 100 equal differences
    assert found.at_most[0, 1]
    assert found.p[0, 2] == 1
    assert not found.at_most[0, 2]


@pytest.mark.parametrize(("gap", "p"), [(1e-170, 1 / 20_000), (np.inf, np.nan)])
def test_differences_too_small_to_square_have_no_bound_and_infinite_ones_no_p(gap, p):
    values = np.zeros((50, 2))
    values[:, 1] = gap
    with np.errstate(invalid="ignore"):  # infinite less infinite
        tested = sign_flip(values)
    assert tested.p[0, 1] == pytest.approx(p, nan_ok=True)


def test_hits_and_misses_are_compared_as_by_the_sign_test():
    """All that counts are the images where two methods differ: 9 against 3 is a fair coin's chance."""
    one, other = np.repeat([1.0, 0.0, 1.0, 0.0], [9, 3, 20, 20]), np.repeat([0.0, 1.0, 1.0, 0.0], [9, 3, 20, 20])
    exact = stats.binomtest(3, 12).pvalue
    assert sign_flip(np.stack([one, other], axis=1)).p[0, 1] == pytest.approx(exact, abs=0.01)


def test_pairs_are_compared_on_the_images_that_both_have():
    values = with_gaps(drawn(30, 4))
    found = sign_flip(values).p
    for i in range(4):
        for j in range(i):
            both = ~np.isnan(values[:, [i, j]]).any(1)
            assert found[i, j] == pytest.approx(sign_flip(values[both][:, [i, j]]).p[0, 1], abs=0.02)
    values[:, 0] = math.nan
    assert np.isnan(sign_flip(values).p[0]).all()


def test_equal_methods_are_told_apart_as_rarely_as_said():
    p = [sign_flip(np.random.default_rng(seed).exponential(size=(25, 2))).p[0, 1] for seed in range(300)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.085  # three deviations about 5 %


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).uniform(size=50) ** 3
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    gaps = np.insert(p, [0, 10, 50], math.nan)
    assert holm(gaps)[~np.isnan(gaps)] == pytest.approx(holm(p))
    assert np.isnan(holm(gaps)).sum() == 3


def test_all_pairs_are_one_family():
    values = drawn(14, 4) + np.arange(4) / 3
    upper = np.triu_indices(4, 1)
    p = sign_flip(values).p[upper]
    order = np.argsort(p)
    by_hand, most = np.empty(6), 0.0
    for k, which in enumerate(order):
        most = max(most, min(1.0, p[which] * (6 - k)))
        by_hand[which] = most
    assert separation(values).p[upper] == pytest.approx(by_hand)
    assert separation(values).p.T[upper] == pytest.approx(by_hand)


def test_methods_that_are_not_separated_share_a_rank():
    """The second is not separated from the first, nor from the third, which is worse than the first."""
    p = np.array([[1, 0.3, 0.01, 0.01], [0.3, 1, 0.2, 0.01], [0.01, 0.2, 1, 0.05], [0.01, 0.01, 0.05, 1]])
    assert ranks(np.array([[4.0, 3.0, 2.0, 1.0]]), p).tolist() == [1, 1, 2, 4]
    assert ranks(np.array([[1.0, 2.0, 3.0, math.nan]]), p)[:3].tolist() == [2, 1, 1]
    assert np.isnan(ranks(np.array([[1.0, math.nan]]), np.ones((2, 2))))[1]


def test_which_of_two_is_better_is_seen_where_both_are_defined():
    """The first has the higher mean, for it is not defined on the hard images, and is worse on every other."""
    hard, easy = np.zeros(20), np.ones(20)
    values = np.stack([np.r_[easy * math.nan, easy], np.r_[hard, 1.1 * easy], np.r_[hard, easy * math.nan]], axis=1)
    assert np.nanmean(values[:, 0]) > np.nanmean(values[:, 1])
    assert ranks(values, separation(values).p).tolist() == [2, 1, 1]


def test_the_standardised_effect_is_the_t_statistic_without_n():
    differences = with_gaps(drawn(30, 3) - 0.5)
    for found, column in zip(standardised(differences), differences.T, strict=True):
        kept = column[~np.isnan(column)]
        by_hand: Any = stats.ttest_1samp(kept, 0)
        assert found * math.sqrt(len(kept)) == pytest.approx(by_hand.statistic)
    assert np.isnan(standardised(np.array([[0.1, math.nan], [0.1, 1.0]]))).all()


# Agreement

NONE = math.nan
OBSERVERS = np.array(
    [  # the worked example of Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011)
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
)


@pytest.mark.parametrize(("level", "published"), [("interval", 0.849), ("ordinal", 0.815)])
def test_alpha_of_the_published_example(level, published):
    assert krippendorff_alpha(OBSERVERS, level=level) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("level", ["interval", "ordinal"])
def test_alpha_is_that_of_the_package(level):
    krippendorff = pytest.importorskip("krippendorff")
    generator = np.random.default_rng(0)
    for units in (3, 8):
        ratings = generator.integers(0, 5, (4, units)) + generator.integers(0, 2, units)
        ratings = np.where(generator.uniform(size=ratings.shape) < 0.2, math.nan, ratings)
        peer = krippendorff.alpha(ratings, level_of_measurement=level)
        assert krippendorff_alpha(ratings, level=level) == pytest.approx(peer)


@pytest.mark.parametrize("level", ["interval", "ordinal"])
def test_alpha_of_two_raters_is_the_sum_over_all_pairs_of_ratings(level):
    """The definition, pair by pair: observed against expected disagreement."""
    ratings = np.random.default_rng(1).integers(0, 4, (2, 6)).astype(float)
    pooled = ratings.ravel()

    def distance(a: float, b: float) -> float:
        low, high = sorted((a, b))
        between = ((pooled >= low) & (pooled <= high)).sum() - ((pooled == a).sum() + (pooled == b).sum()) / 2
        return (between if level == "ordinal" else a - b) ** 2

    observed = np.mean([distance(a, b) for a, b in ratings.T])
    expected = sum(distance(a, b) for a in pooled for b in pooled) / (12 * 11)
    assert krippendorff_alpha(ratings, level=level) == pytest.approx(1 - observed / expected)


def test_alpha_without_anything_to_agree_about_is_undefined():
    assert math.isnan(krippendorff_alpha(np.ones((3, 4))))
    assert math.isnan(krippendorff_alpha(np.array([[1.0, NONE], [NONE, 2.0]])))


def test_correlations_of_ranks_are_those_by_hand():
    one, other = np.array([1.0, 2.0, 3.0, 3.0, NONE]), np.array([1.0, 3.0, 2.0, 4.0, 0.0])
    tau, rho = rank_correlations(one, other)
    assert tau == pytest.approx((4 - 1) / math.sqrt(5 * 6))  # of six pairs four agree, one does not, one is a tie
    assert rho == pytest.approx(np.corrcoef([1, 2, 3.5, 3.5], [1, 3, 2, 4])[0, 1])
    assert all(map(math.isnan, rank_correlations(one[:2], other[:2])))
    assert all(map(math.isnan, rank_correlations(np.ones(4), other[:4])))
