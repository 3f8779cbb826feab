import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibviz.errors import InputError
from ibviz.metrics import cell_order, levels, shuffles, tie_report
from tests.metrics.reference import ordered_cells

maps = st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0]), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60, database=None)
@given(maps, st.integers(0, 99))
def test_order_equals_sorting_by_value_then_by_place_in_the_shuffle(values, seed):
    shuffle = shuffles(len(values), 2, seed)[0]
    ranks = cell_order(torch.tensor([values]), shuffle)[0]
    assert ranks.argsort().tolist() == ordered_cells(values, shuffle.tolist())


@settings(deadline=None, max_examples=40, database=None)
@given(maps, st.integers(0, 99))
def test_negated_map_under_the_reversed_shuffle_has_the_reversed_order(values, seed):
    forth, back = shuffles(len(values), 2, seed)
    ranks = cell_order(torch.tensor([values]), forth)
    assert torch.equal(cell_order(-torch.tensor([values]), back), len(values) - 1 - ranks)


def test_an_image_is_ordered_alike_in_any_company():
    values, shuffle = torch.randint(3, (5, 9)).float(), torch.randperm(9)
    alone = torch.cat([cell_order(image, shuffle) for image in values.split(1)])
    assert torch.equal(cell_order(values, shuffle), alone)


def test_shuffles_are_seeded_permutations_in_reversed_pairs():
    orders = shuffles(7, 8, seed=3)
    assert torch.equal(orders, shuffles(7, 8, seed=3))
    assert not torch.equal(orders, shuffles(7, 8, seed=4))
    assert torch.equal(orders[::2], orders[1::2].flip(1))
    assert torch.equal(orders.sort(dim=1).values, torch.arange(7).expand(8, 7))


def test_every_cell_is_first_equally_often():
    first = torch.cat([shuffles(4, 8, seed)[:, 0] for seed in range(500)])
    assert (first.bincount() - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5


def test_odd_number_of_orders_is_refused():
    with pytest.raises(InputError, match="must be even; got 3"):
        shuffles(4, 3, seed=0)


@settings(deadline=None, max_examples=60, database=None)
@given(maps)
def test_levels_and_report_equal_counting(values):
    distinct = sorted(set(values), reverse=True)
    assert levels(torch.tensor([values]))[0].tolist() == [distinct.index(value) for value in values]
    report = tie_report(torch.tensor([[values]]))
    assert int(report.levels) == len(distinct)
    tied = sum(values.count(value) > 1 for value in values) / len(values)
    zero = sum(value == 0 for value in values) / len(values)
    torch.testing.assert_close(report.tie_fraction, torch.tensor([tied]))
    torch.testing.assert_close(report.zero_share, torch.tensor([zero]))


def test_report_refuses_nan():
    with pytest.raises(InputError, match="maps must be finite"):
        tie_report(torch.full((1, 2, 2), float("nan")))
