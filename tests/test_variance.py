"""Images in clusters, several trainings, and p values far out: against slow references, peers and drawn data."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from ibviz.errors import InputError
from ibviz.statistics import clusters_of, estimate, estimates, ranks, separation, sign_flip
from ibviz.statistics.pairs import FLIPS, least_p, tail_bound
from ibviz.statistics.variance import COMMON_SHARE, QUANTILE, clustered_variance, margin, p_value, variance_of


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# Clusters


def test_clusters_of_one_size_have_the_t_interval_of_their_means():
    values, clusters = drawn(24, 2) + 1, np.repeat(np.arange(6), 4)
    found = estimates(values, clusters=clusters)
    for i, column in enumerate(values.T):
        means = column.reshape(6, 4).mean(1)
        peer = stats.ttest_1samp(means, 0).confidence_interval()
        assert (found.low[i], found.high[i]) == pytest.approx((peer.low, peer.high))
    assert np.isnan(found.bca_low).all()


def test_clusters_of_any_size_have_the_variance_and_freedom_of_their_definition():
    """Bell and McCaffrey (2002) for a regression on a constant, with its matrices."""
    clusters = np.repeat(np.arange(4), [1, 2, 5, 9])
    values = drawn(17, 1)
    n, design = 17, np.ones((17, 1))
    hat = design @ design.T / n
    residuals = values[:, 0] - values.mean()
    variance, columns = 0.0, []
    for g in range(4):
        rows = clusters == g
        eigenvalues, vectors = np.linalg.eigh(np.eye(rows.sum()) - hat[np.ix_(rows, rows)])
        adjusted = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T @ design[rows] / n
        variance += (residuals[rows] @ adjusted[:, 0]) ** 2
        columns.append((np.eye(n) - hat)[:, rows] @ adjusted)
    gram = np.hstack(columns).T @ np.hstack(columns)
    found, freedom = clustered_variance(values, clusters)
    assert found[0] == pytest.approx(variance)
    assert freedom == pytest.approx(np.trace(gram) ** 2 / (gram**2).sum())


def test_clusters_of_single_images_are_as_none():
    values = drawn(20, 1)
    assert clustered_variance(values, np.arange(20))[0] == pytest.approx(values.var(0, ddof=1) / 20)
    assert clustered_variance(values, None) == clustered_variance(values, np.arange(20))
    alone, shared = (sign_flip(drawn(40, 3), clusters=one).p for one in (None, np.arange(40)))
    assert np.array_equal(alone, shared)


def test_signs_are_those_of_clusters():
    values, clusters = drawn(30, 2), np.random.default_rng(1).integers(0, 7, 30)
    values[4, 1] = math.nan
    differences = values[:, 0] - values[:, 1]
    sums = np.array([np.nansum(differences[clusters == g]) for g in range(7)])
    peer = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=2**7)
    assert sign_flip(values, clusters=clusters).p[0, 1] == pytest.approx(peer.pvalue)


def test_what_images_share_makes_intervals_wider_and_cannot_be_left_out_in_part():
    values = np.repeat(drawn(8), 25) + 0.1 * drawn(200)
    alone, shared = estimate(values.tolist()), estimate(values.tolist(), clusters=np.repeat(np.arange(8), 25).tolist())
    assert shared.mean == pytest.approx(alone.mean)
    assert shared.high - shared.low > 3 * (alone.high - alone.low)
    single = estimate(values.tolist(), clusters=["all"] * 200)
    assert single.mean == pytest.approx(alone.mean)
    assert math.isnan(single.low)
    with pytest.raises(InputError, match="expected 200 names, got 199"):
        clusters_of(["a"] * 199, 200)


# Trainings


def test_parts_of_the_variance_are_those_of_the_two_way_analysis():
    """Mean squares of images, trainings and what is left, summed number by number."""
    n, m = 9, 4
    values = drawn(n, m, 1) + drawn(n, 1, 1, seed=1) + 2 * drawn(1, m, 1, seed=2)
    grand = values.mean()
    squares = {"images": 0.0, "trainings": 0.0, "rest": 0.0}
    for i in range(n):
        squares["images"] += m * (values[i].mean() - grand) ** 2 / (n - 1)
        for j in range(m):
            rest = values[i, j, 0] - values[i].mean() - values[:, j].mean() + grand
            squares["rest"] += rest**2 / ((n - 1) * (m - 1))
    for j in range(m):
        squares["trainings"] += n * (values[:, j].mean() - grand) ** 2 / (m - 1)
    quantile = stats.f.ppf(QUANTILE, m - 1, (m - 1) * (n - 1))
    found = variance_of(values, None)
    assert found.images[0] == pytest.approx((squares["images"] - COMMON_SHARE * squares["rest"]) / (n * m))
    assert found.trainings[0] == pytest.approx((squares["trainings"] - quantile * squares["rest"]) / (n * m))
    assert (found.images_freedom, found.trainings_freedom) == (pytest.approx(n - 1), m - 1)
    parts = [stats.t.isf(0.02, n - 1) * found.images, stats.t.isf(0.02, m - 1) * found.trainings]
    assert margin(found, 0.04) == pytest.approx(sum(parts) / np.sqrt(found.images + found.trainings))


def test_p_values_over_trainings_are_the_level_of_the_interval_that_ends_at_zero():
    values = drawn(40, 3, 5) + np.array([0.0, 0.1, 0.3, 1.0, 10.0])
    variance, mean = variance_of(values, None), values.mean((0, 1))
    assert margin(variance, p_value(mean, variance)) == pytest.approx(np.abs(mean), rel=1e-6)


def test_an_image_counts_over_trainings_only_where_all_have_a_value():
    values = drawn(10, 2, 1)
    values[0, 1] = math.nan
    found, kept = estimates(values), estimates(values[1:])
    assert found[:3] == kept[:3]
    assert (found.n[0], found.excluded[0]) == (9, 1)


def test_a_few_clusters_tell_nothing_over_trainings():
    values = drawn(20, 3, 2)
    assert np.isnan(estimates(values, clusters=np.arange(20) % 4).low).all()
    assert not np.isnan(estimates(values, clusters=np.arange(20) % 5).low).any()
    assert np.isnan(separation(values, clusters=np.arange(20) % 4).p).all()


# Coverage


@pytest.mark.parametrize("trainings", [1, 2, 3, 10])
@pytest.mark.parametrize("spread", [(1.0, 0.0, 0.0), (0.3, 1.0, 0.3), (0.0, 0.0, 1.0)])
def test_intervals_over_trainings_and_clusters_cover_as_often_as_they_say(trainings, spread):
    """Deviations of clusters, trainings and single numbers; 2,000 sets of data, so that 0.5 % is one deviation."""
    generator, sets, clusters = np.random.default_rng([trainings, 7]), 2000, np.arange(36) // 3
    of_clusters, of_trainings, single = spread
    values = of_clusters * generator.normal(size=(12, 1, sets))[clusters]
    values = values + of_trainings * generator.normal(size=(1, trainings, sets)) * (trainings > 1)
    values = values + (single + 0.1) * generator.normal(size=(36, trainings, sets))
    found = estimates(values, clusters=clusters)
    assert 0.91 <= np.mean((found.low <= 0) & (found.high >= 0)) <= 0.985


# P values far out


def test_the_bound_on_a_tail_is_never_below_it_nor_far_above():
    """The exact chance, by adding up the distribution of a sum of signed whole numbers, one number at a time."""
    generator = np.random.default_rng(0)
    for n, most in [(20, 9), (40, 3), (60, 30)]:
        numbers = generator.integers(1, most + 1, n)
        total = int(numbers.sum())
        chances = np.zeros(2 * total + 1)
        chances[total] = 1
        for number in numbers:
            chances = (np.roll(chances, number) + np.roll(chances, -number)) / 2
        sums = np.arange(-total, total + 1)
        for distance in (1.5, 3.0, 4.0, 4.3):
            beyond = sums[(sums >= distance * np.sqrt((numbers**2).sum())) & (chances > 0)]
            if not len(beyond):  # farther than all numbers together
                continue
            least = beyond[0]
            exact = 2 * chances[sums >= least].sum()
            bound = tail_bound(float(least / np.sqrt((numbers**2).sum())))
            assert exact <= bound
            assert n == 20 or bound <= 12 * exact


def test_where_no_draw_is_as_far_off_p_is_the_bound():
    values = np.stack([drawn(50) * 0.1 + 1, np.zeros(50), drawn(50, seed=2)], axis=1)
    found, difference = sign_flip(values), values[:, 0]
    expected = tail_bound(float(difference.sum() / np.sqrt((difference**2).sum())))
    assert found.p[0, 1] == pytest.approx(expected)
    assert found.at_most[0, 1]
    assert found.p[0, 1] < 1 / (FLIPS + 1)
    assert not found.at_most[1, 2]


def test_no_p_is_below_the_least_one():
    for count in (3, 14, 15, 30):
        same = np.stack([np.ones(count), np.zeros(count)], axis=1)
        assert sign_flip(same).p[0, 1] == pytest.approx(least_p(count))
    assert all(one >= other for one, other in pairwise(map(least_p, range(15, 60))))


def test_sixty_methods_in_order_are_told_apart():
    """1,770 pairs: 19,999 draws alone could separate none of them."""
    image = drawn(200, 1)
    values = image + 0.5 * drawn(200, 60, seed=1) - 0.4 * np.arange(60)
    found = separation(values)
    assert (found.p[np.triu_indices(60, 1)] <= 0.05).all()
    assert ranks(values, found.p).tolist() == list(range(1, 61))


def test_forty_equal_methods_are_not_told_apart():
    found = separation(drawn(60, 40))
    assert np.nanmin(found.p) > 0.05
