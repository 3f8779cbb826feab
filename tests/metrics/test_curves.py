import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate
from torch.testing import assert_close

from ibviz.errors import InputError
from ibviz.metrics import (
    Curve,
    CurveProtocol,
    abpc,
    aopc,
    curve_plan,
    faithfulness,
    least_first,
    normalised,
    on_grid,
    planned_states,
    preset,
    shuffles,
    tie_report,
    trapezoid,
)
from ibviz.metrics.curve_plan import even_cuts, kept_cells, plan_curves
from tests.metrics.reference import areas, distinct_states, level_sets, masked, removal_sets, share

MEAN_COLOUR = (0.4, 0.5, 0.6)
RULES = ("expected", "group")
RISING = {"exp": torch.exp, "cube": lambda m: m**3, "affine": lambda m: 5 * m - 2}
sides = st.integers(1, 6)


def protocol(grid=(4, 4), **choices) -> CurveProtocol:
    return CurveProtocol(**({"colour": MEAN_COLOUR, "grid": grid} | choices))


def images(count=3, size=(8, 8), seed=0) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def level_maps(count=3, grid=(4, 4), levels=3, seed=1) -> torch.Tensor:
    return torch.randint(levels, (count, *grid), generator=torch.Generator().manual_seed(seed)) / 2 - 0.5


def wavy(states, rows):
    """Neither linear nor symmetric, different for each image, local to no cell."""
    flat = states.flatten(1).double()
    weights = torch.linspace(-1, 2, flat.shape[1], dtype=torch.float64)
    return torch.tanh((flat * weights).mean(1) * 3 + (flat**2).mean(1) * (1 + rows)).float()


class Linear:
    """f(x) = sum(w * x), with weights of its own for each image."""

    def __init__(self, count, size):
        self.weights = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(5)) / math.prod(size)

    def __call__(self, states, rows):
        return (states * self.weights[rows]).sum((1, 2, 3))


class Counted:
    """Remembers how many states it was asked for, and each of them."""

    def __init__(self, score=wavy):
        self.score, self.seen, self.batches = score, [], []

    def __call__(self, states, rows):
        self.seen += [(int(row), state.numpy().tobytes()) for state, row in zip(states, rows, strict=True)]
        self.batches.append(len(rows))
        return self.score(states, rows)


def orders_of(values, choices):
    """Removed sets at every point, for every tie order, by the slow reference."""
    if choices.ties == "group":
        return [level_sets(values)]
    cuts, row_by_row = even_cuts(len(values), choices.steps), list(range(len(values)))
    if choices.ties != "expected":
        return [removal_sets(values, row_by_row if choices.ties == "index" else row_by_row[::-1], cuts)]
    return [removal_sets(values, order.tolist(), cuts) for order in shuffles(len(values), choices.orders, choices.seed)]


def numbers(result):
    return torch.stack([result.deletion_auc, result.insertion_auc, result.srg], dim=1)


# Against plain loops


@pytest.mark.parametrize("rule", [*RULES, "index", "reverse"])
@pytest.mark.parametrize(("grid", "size"), [((4, 4), (8, 8)), ((2, 5), (4, 7)), ((3, 3), (7, 5)), ((1, 1), (3, 2))])
@pytest.mark.parametrize("steps", [4, 32])
def test_equals_erasing_cell_by_cell(rule, grid, size, steps):
    choices = protocol(grid, ties=rule, steps=steps, orders=4)
    x, maps = images(2, size), level_maps(2, grid)
    result = faithfulness(wavy, x, maps, protocol=choices)
    for row in range(2):
        orders = orders_of(maps[row].flatten().tolist(), choices)
        pairs = torch.tensor([areas(wavy, x[row], torch.tensor([row]), removed, choices) for removed in orders])
        assert_close(result.deletion_auc[row], pairs[:, 0].mean(), atol=1e-6, rtol=0)
        assert_close(result.insertion_auc[row], pairs[:, 1].mean(), atol=1e-6, rtol=0)
        assert_close(result.srg[row], (pairs[:, 1] - pairs[:, 0]).mean(), atol=1e-6, rtol=0)
        if rule == "expected":
            assert_close(result.deletion_tie_sd[row], pairs[:, 0].std(), atol=1e-6, rtol=0)
            assert_close(result.insertion_tie_sd[row], pairs[:, 1].std(), atol=1e-6, rtol=0)
            assert_close(result.srg_tie_sd[row], (pairs[:, 1] - pairs[:, 0]).std(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_linear_score_has_its_closed_form_for_any_order_and_baseline(rule):
    """Removing cell c at the k-th of n steps costs its share s(c) of f(x) - f(baseline) from there on."""
    x, maps, score = images(4), torch.rand(4, 4, 4), Linear(4, (8, 8))
    for baseline in (MEAN_COLOUR, (0.0, 0.0, 0.0), (1.0, 0.2, 0.9)):
        result = faithfulness(score, x, maps, protocol=protocol(ties=rule, colour=baseline))
        change = score.weights * (x - torch.tensor(baseline).view(3, 1, 1))
        lost = change.unflatten(3, (4, 2)).unflatten(2, (4, 2)).sum((1, 3, 5)).flatten(1)  # by each cell
        rank = maps.flatten(1).argsort(descending=True).argsort()
        whole, end = score(x, torch.arange(4)), lost.sum(1)
        after = (1 - (rank + 0.5) / 16) * lost  # a trapezoid charges a cell from the middle of its own step
        assert_close(result.deletion_auc, whole - after.sum(1), atol=1e-6, rtol=0)
        assert_close(result.insertion_auc, whole - end + after.sum(1), atol=1e-6, rtol=0)


def test_number_of_steps_does_not_matter_where_the_score_falls_evenly():
    """Equal pixels under a linear score give straight lines, also where cells differ in size."""
    maps = torch.rand(1, 5, 3)
    for size in ((10, 6), (7, 8)):
        x = images(1, (1, 1)).expand(1, 3, *size).contiguous()
        expected = (x.mean() + 0.5) / 2
        for steps in (2, 5, 15):
            result = faithfulness(lambda s, _: s.mean((1, 2, 3)), x, maps, protocol=protocol((5, 3), steps=steps))
            assert_close(result.deletion_auc, expected.view(1), atol=1e-6, rtol=0)


# Extremes and symmetries


@pytest.mark.parametrize("rule", RULES)
def test_perfect_map_scores_the_best_and_reversed_map_the_worst(rule):
    x, score = images(1, (4, 4)), Linear(1, (4, 4))
    lost = (score.weights * (x - torch.tensor(MEAN_COLOUR).view(3, 1, 1))).sum(1)
    others = torch.rand(40, 4, 4)
    maps = torch.cat([lost, -lost, others])
    both = faithfulness(
        lambda s, rows: score(s, rows * 0), x.expand(42, 3, 4, 4), maps, protocol=protocol((4, 4), ties=rule)
    )
    assert int(both.srg.argmax()) == 0
    assert int(both.srg.argmin()) == 1
    assert int(both.deletion_auc.argmin()) == int(both.insertion_auc.argmax()) == 0


@settings(deadline=None, max_examples=20, database=None)
@given(st.sampled_from(RULES), st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_srg_changes_sign_with_the_map_exactly(rule, rows, columns, steps, seed):
    """Exact even for ties and odd cell counts: orders come with their reverses, cuts read alike from both ends."""
    choices = protocol((rows, columns), ties=rule, steps=steps, seed=seed, orders=4)
    x, maps = images(2, (7, 6), seed), level_maps(2, (rows, columns), 3, seed)
    one, other = (faithfulness(wavy, x, m, protocol=choices) for m in (maps, -maps))
    assert_close(one.srg, -other.srg, atol=1e-6, rtol=0)
    assert_close(one.deletion_auc, other.insertion_auc, atol=1e-6, rtol=0)
    assert_close(one.srg_tie_sd, other.srg_tie_sd, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=20, database=None)
@given(st.sampled_from(RULES), sides, sides, st.integers(0, 3), st.integers(0, 3), st.floats(-9, 9, width=32))
def test_uniform_map_scores_zero_on_any_network_and_any_rectangle(rule, rows, columns, more_rows, more_columns, value):
    grid, size = (rows, columns), (rows + more_rows, columns + more_columns)
    result = faithfulness(wavy, images(3, size), torch.full((3, *grid), value), protocol=protocol(grid, ties=rule))
    assert_close(result.srg, torch.zeros(3), atol=1e-6, rtol=0)
    assert result.ties.levels.tolist() == [1, 1, 1]
    if rule == "expected" and rows * columns > 3:
        assert float(result.srg_tie_sd.max()) > 0  # single orders do not: the zero is their mean's


@settings(deadline=None, max_examples=20, database=None)
@given(st.sampled_from(RULES), sides, sides, st.integers(1, 6), st.sampled_from([*RISING]), st.integers(0, 99))
def test_monotone_transform_changes_nothing(rule, rows, columns, levels, transform, seed):
    x, maps = images(2, (8, 7), seed), level_maps(2, (rows, columns), levels, seed)
    choices = protocol((rows, columns), ties=rule)
    one, other = (faithfulness(wavy, x, m, protocol=choices) for m in (maps, RISING[transform](maps)))
    assert torch.equal(numbers(one), numbers(other))
    assert torch.equal(one.deletion.scores, other.deletion.scores)


@settings(deadline=None, max_examples=15, database=None)
@given(st.permutations(range(16)), st.integers(0, 99))
def test_group_ignores_a_permutation_inside_ties(order, seed):
    one, other = before_and_after("group", torch.tensor(order), seed)
    assert float((one - other).abs().max()) < 1e-6


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "group"])
def test_other_rules_see_a_permutation_inside_ties(rule):
    """Of most permutations: orders come in reversed pairs, for which two tied cells that trade places are the same."""
    orders = [torch.randperm(16, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    both = [before_and_after(rule, order, seed) for seed, order in enumerate(orders)]
    assert sum(float((one - other).abs().max()) > 1e-6 for one, other in both) >= 18


def before_and_after(rule, order, seed):
    """Contents of tied cells trade places under a score that sees no position: same levels, other order."""
    x, maps = images(1, seed=seed), level_maps(1, seed=seed)
    tied = maps.flatten().argsort(stable=True)
    turn = torch.empty_like(tied).scatter_(0, tied, order[maps.flatten()[order].argsort(stable=True)])
    assert torch.equal(maps.flatten()[turn], maps.flatten())
    cells = x.unflatten(3, (4, 2)).unflatten(2, (4, 2)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = cells[:, turn].unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
    return tuple(numbers(faithfulness(blind, image, maps, protocol=protocol(ties=rule))) for image in (x, moved))


def blind(states, rows):
    """Does not see where a pixel is."""
    return torch.tanh(states.double().square().mean((1, 2, 3)) * (3 + rows)).float()


# Independence from how the work is cut


@settings(deadline=None, max_examples=15, database=None)
@given(st.sampled_from(RULES), st.integers(1, 40), st.integers(1, 3000), st.integers(0, 99))
def test_batch_size_and_chunks_change_nothing(rule, batch_size, entries, seed):
    x, maps = images(6, seed=seed), level_maps(6, seed=seed)
    usual = faithfulness(wavy, x, maps, protocol=protocol(ties=rule))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve_plan, "_ENTRIES_AT_ONCE", entries)
        other = faithfulness(wavy, x, maps, protocol=protocol(ties=rule, batch_size=batch_size))
    assert_close(numbers(other), numbers(usual), atol=1e-7, rtol=0)
    assert_close(other.insertion, usual.insertion, atol=1e-7, rtol=0)
    assert other.forward_passes == usual.forward_passes


def test_chunks_are_really_cut(monkeypatch):
    monkeypatch.setattr(curve_plan, "_ENTRIES_AT_ONCE", 2 * 8 * 17)
    found = list(plan_curves(level_maps(5).flatten(1), protocol()))
    assert [(plan.start, len(plan.ranks)) for plan in found] == [(0, 2), (2, 2), (4, 1)]


@settings(deadline=None, max_examples=10, database=None)
@given(st.sampled_from(RULES), st.permutations(range(5)), st.integers(0, 99))
def test_order_and_company_of_images_change_nothing(rule, turn, seed):
    x, maps, turn = images(5, seed=seed), level_maps(5, seed=seed), torch.tensor(turn)
    alike = lambda states, rows: wavy(states, rows * 0)
    together = numbers(faithfulness(alike, x, maps, protocol=protocol(ties=rule)))
    assert_close(
        numbers(faithfulness(alike, x[turn], maps[turn], protocol=protocol(ties=rule))),
        together[turn],
        atol=1e-7,
        rtol=0,
    )
    for row in range(5):
        alone = faithfulness(alike, x[row : row + 1], maps[row : row + 1], protocol=protocol(ties=rule))
        assert_close(numbers(alone)[0], together[row], atol=1e-7, rtol=0)


# The curves themselves


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("grid", "size"), [((4, 4), (8, 8)), ((3, 5), (7, 11))])
def test_ends_are_the_image_and_the_baseline(rule, grid, size):
    x, maps = images(3, size), level_maps(3, grid)
    result = faithfulness(wavy, x, maps, protocol=protocol(grid, ties=rule))
    rows = torch.arange(3)
    empty = torch.tensor(MEAN_COLOUR).view(1, 3, 1, 1).expand_as(x)
    assert torch.equal(result.f_image, wavy(x, rows))
    assert torch.equal(result.f_baseline, wavy(empty, rows))
    for curve, first, last in (
        (result.deletion, result.f_image, result.f_baseline),
        (result.insertion, result.f_baseline, result.f_image),
    ):
        assert torch.equal(curve.scores[:, 0], first)
        assert torch.equal(curve.scores[:, -1], last)
        assert torch.equal(curve.fractions[:, 0], torch.zeros(3))
        assert torch.equal(curve.fractions[:, -1], torch.ones(3))


@settings(deadline=None, max_examples=15, database=None)
@given(st.sampled_from(RULES), sides, sides, st.integers(1, 4), st.integers(1, 20), st.integers(0, 99))
def test_removed_sets_are_nested_and_their_share_is_the_fraction(rule, rows, columns, levels, steps, seed):
    """Read from the states themselves: a cell is removed for good, and the fraction is what has been removed."""
    grid = (rows, columns)
    maps, choices = level_maps(2, grid, levels, seed), protocol(grid, ties=rule, orders=2, steps=steps)
    x = torch.ones(2, 3, 7, 11)
    black = choices.model_copy(update={"colour": (0.0, 0.0, 0.0)})
    result = faithfulness(lambda states, _: states.mean((1, 2, 3)), x, maps, protocol=black)
    assert_close(result.deletion.scores, 1 - result.deletion.fractions)  # kept share, pixel for pixel
    assert_close(result.insertion.scores, result.insertion.fractions)
    [plan] = plan_curves(maps.flatten(1), choices)
    for lookup in plan.lookup.flatten(0, 2):
        kept, _, _ = kept_cells(plan, plan.states[lookup])
        assert bool((kept[1:] <= kept[:-1]).all()) or bool((kept[1:] >= kept[:-1]).all())


def test_nominal_fractions_are_met_where_the_grid_divides_the_image():
    result = faithfulness(wavy, images(1, (16, 16)), torch.rand(1, 8, 8), protocol=protocol((8, 8)))
    assert_close(result.deletion.fractions, torch.linspace(0, 1, 33)[None])
    assert torch.equal(result.deletion.fractions, result.insertion.fractions)


def test_fractions_are_pixels_not_cells_where_it_does_not():
    maps = torch.tensor([[[3.0, 2.0, 1.0]]])
    result = faithfulness(wavy, images(1, (2, 5)), maps, protocol=protocol((1, 3)))
    cuts = [frozenset(range(count)) for count in range(4)]
    assert_close(result.deletion.fractions, torch.tensor([[share(cells, (1, 3), (2, 5)) for cells in cuts]]))


@settings(deadline=None, max_examples=60, database=None)
@given(st.integers(1, 200), st.integers(1, 64))
def test_cuts_are_symmetric_distinct_and_complete(cells, steps):
    cuts = even_cuts(cells, steps)
    assert cuts == [cells - cut for cut in reversed(cuts)]
    assert cuts == sorted(set(cuts))
    assert (cuts[0], cuts[-1]) == (0, cells)
    assert len(cuts) - 1 in (min(steps, cells), min(steps, cells) + 1)


def test_images_with_different_numbers_of_levels_share_a_batch_in_group():
    """The poorer image repeats its last point, and scores as if alone."""
    x, maps = images(2), torch.cat([level_maps(1, levels=2), torch.rand(1, 4, 4)])
    together = faithfulness(wavy, x, maps, protocol=protocol(ties="group"))
    alone = faithfulness(wavy, x[:1], maps[:1], protocol=protocol(ties="group"))
    assert together.deletion.scores.shape == (2, 17)
    assert alone.deletion.scores.shape == (1, 3)
    assert torch.equal(together.deletion.scores[0, 2:], together.f_baseline[:1].expand(15))
    assert_close(numbers(together)[0], numbers(alone)[0])


def test_area_is_the_trapezoid_of_the_mean_curve_where_the_grid_divides_the_image():
    result = faithfulness(wavy, images(), level_maps(), protocol=protocol())
    assert_close(trapezoid(result.deletion), result.deletion_auc)
    assert_close(trapezoid(result.insertion), result.insertion_auc)


def test_area_is_float32():
    assert trapezoid(Curve(torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=torch.bfloat16))).dtype == torch.float32


# Ties


def test_tie_deviation_is_exactly_zero_without_ties_and_for_groups():
    x, distinct = images(20), torch.rand(20, 4, 4)
    without = faithfulness(wavy, x, distinct, protocol=protocol())
    group = faithfulness(wavy, x, level_maps(20), protocol=protocol(ties="group"))
    for result in (without, group):
        for deviation in (result.deletion_tie_sd, result.insertion_tie_sd, result.srg_tie_sd):
            assert torch.equal(deviation, torch.zeros(20))
    assert_close(numbers(without), numbers(faithfulness(wavy, x, distinct, protocol=protocol(ties="group"))))


def test_mean_over_orders_is_an_honest_estimate_of_the_expectation():
    """All 24 orders of four tied cells against the mean of many seeds."""
    x, maps = images(1, (4, 4)), torch.zeros(1, 2, 2)
    many = torch.stack(
        [numbers(faithfulness(wavy, x, maps, protocol=protocol((2, 2), seed=s, orders=2)))[0] for s in range(300)]
    )
    row, choices = torch.tensor([0]), protocol((2, 2))
    every = [removal_sets([0.0] * 4, list(order), range(5)) for order in permutations(range(4))]
    exact = torch.tensor([areas(wavy, x[0], row, removed, choices) for removed in every]).mean(0)
    assert ((many.mean(0)[:2] - exact).abs() < 5 * many.std(0)[:2] / 300**0.5 + 1e-6).all()


def test_ties_are_reported_on_the_grid_of_the_protocol():
    x, maps = images(2), torch.rand(2, 2, 2)
    result = faithfulness(wavy, x, maps, protocol=protocol())
    assert result.ties.levels.tolist() == [4, 4]
    assert torch.equal(result.ties.tie_fraction, torch.ones(2))
    assert_close(result.ties, tie_report(on_grid(maps, (4, 4))))


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_negation_turns_ties_row_by_row_backwards(grid):
    """So neither rule alone is antisymmetric, and LeRF by the same rule is not MoRF backwards."""
    x, maps = images(), level_maps(3, grid)
    one, other = (
        faithfulness(wavy, x, some, protocol=protocol(grid, ties=rule))
        for some, rule in ((maps, "index"), (-maps, "reverse"))
    )
    assert_close(one.srg, -other.srg, atol=1e-6, rtol=0)
    same = faithfulness(wavy, x, -maps, protocol=protocol(grid, ties="index"))
    assert float((same.srg + one.srg).abs().max()) > 1e-3


# What is removed at once, and how maps reach it


@settings(deadline=None, max_examples=10, database=None)
@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from(["expected", "group", "index"]))
def test_pixels_are_cells_of_one_pixel(rows, columns, ties):
    """Any rectangular size; nearest enlargement keeps the levels as ties."""
    x, maps = images(2, (5, 7)), level_maps(2, (rows, columns))
    by_pixel = protocol((rows, columns), unit="pixel", ties=ties, steps=6, orders=2)
    by_cell = protocol((5, 7), ties=ties, steps=6, orders=2)
    one, other = faithfulness(wavy, x, maps, protocol=by_pixel), faithfulness(wavy, x, maps, protocol=by_cell)
    assert_close(numbers(one), numbers(other), atol=1e-7, rtol=0)
    assert one.ties.levels.tolist() == [int(m.unique().numel()) for m in maps]


def test_bilinear_enlargement_is_torchs_and_another_ranking_than_nearest():
    """Two libraries, one map, other ranks."""
    x, maps = images(), torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = interpolate(maps.unsqueeze(1), (8, 8), mode="bilinear", align_corners=False).squeeze(1)
    bilinear = protocol(unit="pixel", enlargement="bilinear")
    one = numbers(faithfulness(wavy, x, maps, protocol=bilinear))
    assert_close(one, numbers(faithfulness(wavy, x, smooth, protocol=protocol((8, 8)))), atol=1e-7, rtol=0)
    nearest = faithfulness(wavy, x, maps, protocol=protocol(unit="pixel"))
    assert float((numbers(nearest) - one).abs().max()) > 1e-3


def test_without_a_grid_each_map_keeps_its_own():
    x, maps = images(), level_maps(3, (2, 8))
    one, other = (faithfulness(wavy, x, maps, protocol=protocol(grid)) for grid in (None, (2, 8)))
    assert torch.equal(numbers(one), numbers(other))


# Readings of the curves


def test_lerf_is_the_insertion_curve_backwards_and_abpc_is_srg():
    """Cells of unequal size, so that the fractions are not the same from both ends."""
    x, maps = images(3, (7, 5)), torch.rand(3, 3, 3)
    found = faithfulness(wavy, x, maps, protocol=protocol(None))
    lerf = faithfulness(wavy, x, -maps, protocol=protocol(None)).deletion
    assert_close(least_first(found.insertion).scores, lerf.scores)
    assert_close(least_first(found.insertion).fractions, lerf.fractions)
    second = faithfulness(wavy, x, maps, protocol=protocol(None, second="lerf"))
    assert_close(second.insertion.scores, lerf.scores)
    assert second.forward_passes == planned_states(maps, (7, 5), protocol(None, second="lerf"))
    both = 2 * (maps[0].numel() + 1) * len(maps)  # the points of two curves without ties; insertion is not scored
    assert planned_states(maps, (7, 5), protocol(None, second="lerf", ties="index", steps=1000)) == both
    assert_close(abpc(found.deletion, least_first(found.insertion)), found.srg, atol=1e-6, rtol=0)


def test_aopc_is_the_mean_drop_and_needs_no_baseline():
    found = faithfulness(wavy, images(), torch.rand(3, 4, 4), protocol=protocol())
    drops = [[float(row[0] - value) for value in row] for row in found.deletion.scores]
    assert_close(aopc(found.deletion), torch.tensor([sum(row) / len(row) for row in drops]), atol=1e-6, rtol=0)


def test_normalised_curves_do_not_see_an_affine_change_of_the_score():
    x, maps = images(), torch.rand(3, 4, 4)
    one, other = (
        faithfulness(score, x, maps, protocol=protocol()) for score in (wavy, lambda s, rows: 3 * wavy(s, rows) - 2)
    )
    curves = [normalised(found.deletion, found.f_image, found.f_baseline) for found in (one, other)]
    rounding = 1e-6 / float((one.f_image - one.f_baseline).abs().min())  # of a float32 score, divided by its span
    assert_close(curves[0].scores, curves[1].scores, atol=rounding, rtol=0)
    assert_close(curves[0].scores[:, [0, -1]], torch.tensor([[1.0, 0.0]]).expand(3, 2))


def test_a_network_that_answers_always_alike_has_no_normalised_curve():
    found = faithfulness(lambda s, _: torch.ones(len(s)), images(), torch.rand(3, 4, 4), protocol=protocol())
    assert bool(normalised(found.deletion, found.f_image, found.f_baseline).scores.isnan().all())
    assert torch.equal(found.srg, torch.zeros(3))


# Every state once


def test_passes_grow_with_images_and_steps():
    maps = torch.rand(6, 8, 8)
    one, twice, finer = (
        planned_states(some, (16, 16), protocol((8, 8), steps=steps))
        for some, steps in ((maps[:3], 16), (maps, 16), (maps[:3], 32))
    )
    assert (one, twice, finer) == (3 * 32, 6 * 32, 3 * 64)


@settings(deadline=None, max_examples=20, database=None)
@given(st.sampled_from(RULES), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 16))
def test_planned_scored_and_distinct_states_are_the_same_number(rule, rows, columns, levels, steps):
    x, maps = images(3, (4, 5)), level_maps(3, (rows, columns), levels, seed=steps)
    choices = protocol((rows, columns), ties=rule, steps=steps, orders=4, batch_size=5)
    seen = Counted()
    result = faithfulness(seen, x, maps, protocol=choices)
    everything = frozenset(range(rows * columns))
    literal = sum(distinct_states(orders_of(m.flatten().tolist(), choices), everything) for m in maps)
    assert len(seen.seen) == len(set(seen.seen)) == literal
    assert result.forward_passes == planned_states(maps, (4, 5), choices) == literal
    assert max(seen.batches) <= 5


def test_states_are_the_images_masked_by_the_reference():
    x, maps, choices = images(2, (5, 7)), level_maps(2, (2, 3)), protocol((2, 3), ties="group")
    seen = Counted()
    faithfulness(seen, x, maps, protocol=choices)
    expected = set()
    for row, values in enumerate(maps.flatten(1).tolist()):
        for removed in level_sets(values):
            for kept in (removed, frozenset(range(6)) - removed):
                expected.add((row, masked(x[row], kept, (2, 3), MEAN_COLOUR).numpy().tobytes()))
    assert set(seen.seen) == expected


# Bad input


def test_map_that_is_coarser_or_finer_than_the_grid_is_brought_onto_it():
    x, fine = images(3), torch.rand(3, 8, 8)
    one, other = (faithfulness(wavy, x, maps, protocol=protocol()) for maps in (fine, on_grid(fine, (4, 4))))
    assert torch.equal(numbers(one), numbers(other))


@pytest.mark.parametrize(
    ("x", "maps", "message"),
    [
        (images(2), torch.full((2, 4, 4), float("nan")), "maps must be finite; 2 of 2"),
        (images(0), torch.rand(0, 4, 4), "at least one map"),
        (images(1, (3, 3)), torch.rand(1, 4, 4), "a cell must hold a pixel"),
        (images(1) - 2, torch.rand(1, 4, 4), r"must be in \[0, 1\] pixel space"),
        (images(1) * float("nan"), torch.rand(1, 4, 4), "got nan to nan"),
    ],
    ids=["nan", "none", "small", "normalised", "nan image"],
)
def test_what_cannot_be_judged_is_refused(x, maps, message):
    with pytest.raises(InputError, match=message):
        faithfulness(wavy, x, maps, protocol=protocol())


def test_a_map_larger_than_the_image_is_refused_on_its_own_grid():
    with pytest.raises(InputError, match=r"grid of \(16, 16\) cells on images of \(8, 8\) pixels"):
        faithfulness(wavy, images(1), torch.rand(1, 16, 16), protocol=protocol(None))


def test_a_rule_that_leaves_no_curve_is_refused():
    """50 pixels a step, neither end: on 8 x 8 pixels one point is left, whose area would be a silent 0."""
    with pytest.raises(InputError, match="leave 1 points of 64 cells; a curve needs two"):
        faithfulness(wavy, images(), torch.rand(3, 8, 8), protocol=preset("latec", (8, 8), MEAN_COLOUR))


@pytest.mark.parametrize("rule", [*RULES, "index", "reverse"])
def test_one_cell_and_one_pixel_have_a_defined_result(rule):
    for size in ((8, 8), (1, 1)):
        found = faithfulness(wavy, images(2, size), torch.zeros(2, 1, 1), protocol=protocol(None, ties=rule))
        assert_close(found.srg, torch.zeros(2), atol=1e-6, rtol=0)
        assert found.forward_passes == 4


def test_planning_nothing_is_refused():
    with pytest.raises(InputError, match="at least one map"):
        planned_states(torch.rand(0, 4, 4), (8, 8), protocol())


def test_nan_of_the_network_stays_nan():
    result = faithfulness(
        lambda s, rows: wavy(s, rows) / rows.clamp(max=1) * rows.clamp(max=1),
        images(2),
        level_maps(2),
        protocol=protocol(),
    )
    assert bool(result.srg[0].isnan())
    assert bool(result.srg[1].isfinite())


def test_nothing_is_left_in_the_graph_or_in_inference_mode():
    layer = torch.nn.Linear(192, 1)
    result = faithfulness(lambda s, _: layer(s.flatten(1)).squeeze(1), images(), level_maps(), protocol=protocol())
    assert not result.srg.requires_grad
    assert not result.srg.is_inference()
