"""Adaptive steps against a loop over one image that bisects as specified, closed forms, and the even grid."""

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from ibviz.metrics import CurveProtocol, faithfulness, planned_states, random_order_area, shuffles
from ibviz.metrics.adaptive import first_points, middle
from ibviz.metrics.curve_plan import even_cuts
from ibviz.settings import describe_validation_error
from tests.metrics.reference import masked, removal_sets, share, trapezoid
from tests.metrics.test_curves import MEAN_COLOUR, Counted, images, level_maps, protocol, wavy

RULES = ("expected", "index", "reverse")


def adaptive(grid=(8, 8), **choices) -> CurveProtocol:
    return protocol(grid, **({"steps": "adaptive", "tolerance": 0.05, "orders": 4} | choices))


def halves(steps):
    """Both ends, the middle and the quarters, rounded towards the middle, by hand."""
    inner = [steps // 2, steps - steps // 2]
    left = -(-inner[0] // 2)
    return {0, left, *inner, steps - left, steps}


def bounds_of(scores, fractions):
    """The bound of each interval between two known scores that has points inside."""
    points = [point for point, known in enumerate(scores) if known is not None]
    return {
        (low, high): abs(scores[high] - scores[low]) * (fractions[high] - fractions[low]) / 2
        for low, high in pairwise(points)
        if high - low > 1
    }


def bisected(score, image, row, values, choices):
    """Areas and bounds of one image, by dictionaries and sets: all curves in turn, round after round."""
    grid, cells = choices.grid, len(values)
    cuts, everything = even_cuts(cells, 32), frozenset(range(cells))
    steps = len(cuts) - 1
    row_by_row = list(range(cells))
    orders = {
        "index": [row_by_row],
        "reverse": [row_by_row[::-1]],
        "expected": [order.tolist() for order in shuffles(cells, choices.orders, choices.seed)],
    }[choices.ties]
    removals = [removal_sets(values, order, cuts) for order in orders]
    fractions = [[share(removed, grid, image.shape[1:]) for removed in removal] for removal in removals]
    curves = [[everything - removed for removed in removal] for removal in removals] + removals
    places = fractions * 2
    known: dict[frozenset, float] = {}
    bounds = list[float]()
    wanted = {states[point] for states in curves for point in halves(steps)}
    while wanted:
        for kept in wanted:
            known[kept] = float(score(masked(image, kept, grid, choices.colour)[None], row))
        wanted, bounds = set(), []
        for states, x in zip(curves, places, strict=True):
            off = bounds_of([known.get(state) for state in states], x)
            bounds.append(sum(off.values()))
            for (low, high), bound in off.items():
                if sum(other for other in off.values() if other <= bound) > choices.tolerance:
                    centre = (low + high) / 2
                    wanted.add(states[int(centre + 0.5) if low + high < steps else int(centre)])
    areas = []
    for states, x in zip(curves, places, strict=True):
        points = [point for point in range(steps + 1) if states[point] in known]
        areas.append(trapezoid([x[point] for point in points], [known[states[point]] for point in points]))
    number = len(orders)
    return sum(areas[:number]) / number, sum(areas[number:]) / number, sum(bounds) / number, len(known)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("grid", "size"), [((8, 8), (16, 16)), ((7, 7), (15, 14)), ((3, 3), (7, 5)), ((1, 1), (3, 2))])
def test_equals_bisecting_image_by_image(rule, grid, size):
    choices = adaptive(grid, ties=rule, batch_size=7)
    x, maps = images(3, size), level_maps(3, grid, levels=20)
    steep = lambda states, rows: torch.sigmoid(40 * (wavy(states, rows) - 0.45))
    result = faithfulness(steep, x, maps, protocol=choices)
    passes = 0
    for row in range(3):
        values = maps[row].flatten().tolist()
        deletion, insertion, bound, count = bisected(steep, x[row], torch.tensor([row]), values, choices)
        assert_close(result.deletion_auc[row].item(), deletion, atol=1e-6, rtol=0)
        assert_close(result.insertion_auc[row].item(), insertion, atol=1e-6, rtol=0)
        assert_close(result.srg[row].item(), insertion - deletion, atol=2e-6, rtol=0)
        assert_close(result.area_error[row].item(), bound, atol=1e-6, rtol=0)
        passes += count
    assert result.forward_passes == passes
    if grid == (8, 8):
        assert passes < planned_states(maps, size, choices)


def test_all_points_give_the_curves_and_areas_of_the_even_grid():
    x, maps = images(3, (16, 16)), level_maps(3, (8, 8), levels=20)
    for own in ({}, {"ties": "index"}, {"insertion_baseline": "image_mean"}, {"second": "lerf"}, {"unit": "pixel"}):
        fine = faithfulness(wavy, x, maps, protocol=adaptive(tolerance=1e-9, **own))
        even = faithfulness(wavy, x, maps, protocol=adaptive(steps=32, **own))
        assert torch.equal(fine.deletion.scores, even.deletion.scores)
        assert torch.equal(fine.srg, even.srg)
        assert torch.equal(fine.insertion_auc, even.insertion_auc)
        assert fine.forward_passes == even.forward_passes
        assert float(fine.area_error.max()) == float(even.area_error.max()) == 0.0


def distinct(grid=(8, 8)):
    """A map in which every cell has its own value, the first one the highest."""
    return torch.linspace(1, 0, grid[0] * grid[1]).view(1, *grid)


def kept_share(states):
    """Share of white pixels that a black baseline has not replaced."""
    return states.mean((1, 2, 3))


def judged(score, tolerance):
    black = adaptive(tolerance=tolerance, colour=(0.0, 0.0, 0.0), ties="index")
    seen = Counted(lambda states, _: score(kept_share(states)))
    return faithfulness(seen, torch.ones(1, 3, 16, 16), distinct(), protocol=black), seen


def test_a_constant_score_needs_only_the_first_points():
    """Both curves share nothing but their ends: five points each."""
    found, seen = judged(lambda kept: kept * 0 + 0.3, 0.01)
    assert found.forward_passes == len(seen.seen) == 2 * 5 - 2
    assert_close(found.deletion_auc, torch.tensor([0.3]))
    assert float(found.area_error) == 0.0


def test_a_linear_score_has_its_bound_in_closed_form():
    """A line from 0 to 1 in n intervals has the bound 1 / 2n: four suffice for 0.126, and eight for 0.063."""
    for tolerance, intervals in ((0.126, 4), (0.063, 8), (0.032, 16)):
        found, _ = judged(lambda kept: kept, tolerance)
        assert found.forward_passes == 2 * (intervals + 1) - 2
        assert_close(found.area_error, torch.tensor([2 / (2 * intervals)]))
        assert_close(found.deletion_auc, torch.tensor([0.5]))


def test_points_that_were_left_out_lie_on_the_line_between_their_neighbours():
    black = adaptive((7, 7), tolerance=0.126, colour=(0.0, 0.0, 0.0), ties="index")
    found = faithfulness(
        lambda states, _: kept_share(states), torch.ones(1, 3, 15, 14), distinct((7, 7)), protocol=black
    )
    assert found.deletion.scores.shape == (1, 34)
    assert found.forward_passes < 16
    assert_close(found.deletion.scores, 1 - found.deletion.fractions)


@pytest.mark.parametrize("edge", [0.1, 0.3, 0.52, 0.9])
def test_a_step_is_located_by_bisection(edge):
    """Three rounds halve the quarter that holds the step; all else is flat and left out, and the area exact."""
    found, seen = judged(lambda kept: (kept > edge).float(), 0.01)
    even, _ = judged(lambda kept: (kept > edge).float(), 1e-9)
    assert found.forward_passes == len(seen.seen) == (2 * 5 - 2) + 2 * 3
    assert torch.equal(found.deletion_auc, even.deletion_auc)
    assert torch.equal(found.insertion_auc, even.insertion_auc)
    assert float(found.area_error) == 0.0


def test_a_monotone_curve_is_off_by_no_more_than_its_bound_and_the_bound_no_more_than_the_tolerance():
    x, maps = torch.ones(40, 3, 16, 16), torch.rand(40, 8, 8, generator=torch.Generator().manual_seed(3))
    power = torch.linspace(0.1, 9, 40)
    black = {"colour": (0.0, 0.0, 0.0)}
    for tolerance in (0.003, 0.02, 0.1):
        score = lambda states, rows: kept_share(states) ** power[rows]
        found = faithfulness(score, x, maps, protocol=adaptive(tolerance=tolerance, **black))
        even = faithfulness(score, x, maps, protocol=adaptive(steps=32, **black))
        assert bool(((found.srg - even.srg).abs() <= found.area_error + 1e-6).all())
        assert float(found.area_error.max()) <= 2 * tolerance
        assert float((found.srg - even.srg).abs().max()) > 0


@pytest.mark.parametrize("grid", [(4, 8), (7, 7), (5, 3)])
def test_srg_changes_sign_with_the_map_and_is_zero_for_a_constant_one(grid):
    x, maps = images(2, (14, 16)), level_maps(2, grid)
    one, other = (faithfulness(wavy, x, m, protocol=adaptive(grid, tolerance=0.02)) for m in (maps, -maps))
    assert_close(one.srg, -other.srg, atol=1e-6, rtol=0)
    assert one.forward_passes == other.forward_passes
    flat = faithfulness(wavy, x, torch.zeros_like(maps), protocol=adaptive(grid, tolerance=0.02))
    assert_close(flat.srg, torch.zeros(2), atol=1e-6, rtol=0)


def test_points_do_not_depend_on_batches_or_on_the_neighbours():
    x, maps = images(5, (16, 16)), level_maps(5, (8, 8), levels=9)
    alike = lambda states, rows: wavy(states, rows * 0)
    whole = faithfulness(alike, x, maps, protocol=adaptive())
    passes = 0
    for row in range(5):
        alone = faithfulness(alike, x[row : row + 1], maps[row : row + 1], protocol=adaptive(batch_size=3))
        assert_close(alone.srg[0], whole.srg[row], atol=1e-6, rtol=0)
        passes += alone.forward_passes
    assert passes == whole.forward_passes


def test_no_state_is_scored_twice_and_no_batch_is_too_large():
    seen = Counted()
    found = faithfulness(seen, images(3, (16, 16)), level_maps(3, (8, 8)), protocol=adaptive(batch_size=5))
    assert len(seen.seen) == len(set(seen.seen)) == found.forward_passes
    assert max(seen.batches) <= 5


def test_random_orders_take_adaptive_steps_as_well():
    score = lambda states, _: kept_share(states) ** 3
    area = random_order_area(score, images(2, (16, 16)), (8, 8), protocol=adaptive(tolerance=0.05))
    exact = random_order_area(score, images(2, (16, 16)), (8, 8), protocol=adaptive(steps=32))
    assert 0 < float((area - exact).abs().max()) < 0.05


def test_nan_of_the_network_stays_nan_and_costs_the_others_nothing():
    score = lambda states, rows: torch.where(rows == 0, torch.nan, wavy(states, rows * 0))
    x, maps = images(1, (16, 16)).expand(2, 3, 16, 16).contiguous(), level_maps(1, (8, 8)).expand(2, 8, 8).contiguous()
    found = faithfulness(score, x, maps, protocol=adaptive())
    alone = faithfulness(lambda states, rows: wavy(states, rows * 0), x[1:], maps[1:], protocol=adaptive())
    assert found.srg.isnan().tolist() == found.area_error.isnan().tolist() == [True, False]
    assert_close(found.srg[1], alone.srg[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [*range(1, 40), 64])
def test_points_of_a_curve_read_backwards_are_the_same(steps):
    assert first_points(steps) == sorted(halves(steps))
    for low in range(steps):
        for high in range(low + 1, steps + 1):
            turned = steps - middle(steps - high, steps - low, steps)
            assert middle(low, high, steps) == turned or (
                low + high == steps and abs(middle(low, high, steps) - turned) == 1
            )
            assert low < middle(low, high, steps) < high or high - low == 1


# The protocol


def test_adaptive_steps_have_a_hash_of_their_own_and_a_tolerance_only_with_them():
    plain = CurveProtocol(colour=MEAN_COLOUR)
    own = plain.model_copy(update={"steps": "adaptive"})
    assert len({plain.hash, own.hash, own.model_copy(update={"tolerance": 0.02}).hash}) == 3
    assert plain.model_copy(update={"tolerance": 0.02}).hash == plain.hash


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"steps": "adaptiv"}, "steps: expected a whole number from 1 on, or 'adaptive'; got 'adaptiv'"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1, or 'adaptive'; got 0"),
        ({"tolerance": 0}, "tolerance: Input should be greater than 0"),
        (
            {"steps": "adaptive", "ties": "group"},
            "steps = 'adaptive' goes with cuts = 'even', area = 'fractions' and ties = 'expected', 'index' or "
            "'reverse'; got 'even', 'fractions' and 'group'",
        ),
    ],
)
def test_a_wrong_choice_is_one_clear_line(choices, message):
    with pytest.raises(ValidationError) as caught:
        CurveProtocol.model_validate({"colour": MEAN_COLOUR} | choices)
    assert describe_validation_error(caught.value, CurveProtocol) == message
