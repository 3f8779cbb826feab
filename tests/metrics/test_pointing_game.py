import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ibviz.errors import InputError
from ibviz.metrics import pointing_game
from ibviz.metrics.localisation.pointing_game import scaled_tolerance, within
from tests.metrics.reference import near, pointing


def box(size, top, left, bottom, right) -> torch.Tensor:
    """One region: rows `top` to `bottom` and columns `left` to `right`, the last excluded."""
    region = torch.zeros(1, *size, dtype=torch.bool)
    region[:, top:bottom, left:right] = True
    return region


sizes = st.integers(1, 8)


@settings(deadline=None, max_examples=60, database=None)
@given(sizes, sizes, st.sampled_from([0.0, 1.0, 1.5, math.sqrt(2), math.sqrt(5), 3.0, 100.0]), st.integers(0, 99))
def test_dilation_is_the_disk(height, width, distance, seed):
    region = torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed)) > 0.85
    assert within(region, distance)[0].flatten().tolist() == list(near(region[0], distance).values())


@settings(deadline=None, max_examples=40, database=None)
@given(sizes, sizes, st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 1.0, 2.3]), st.integers(0, 99))
def test_equals_asking_every_tied_pixel(height, width, rows, columns, distance, seed):
    generator = torch.Generator().manual_seed(seed)
    region = torch.rand(1, height, width, generator=generator) > 0.7
    maps = torch.randint(3, (1, min(rows, height), min(columns, width)), generator=generator) - 2.0
    result = pointing_game(maps, region, tolerance=distance)
    hits, chance = pointing(maps[0].tolist(), region[0], distance)
    if not region.any():
        assert all(bool(field.isnan().all()) for field in result)
    else:
        expected = [sum(hits) / len(hits), float(any(hits)), float(all(hits)), chance]
        assert_close(torch.cat(result), torch.tensor(expected))


def test_rules_of_the_literature_bracket_the_expected_hit():
    """The study of ties: first, last, any and all tied pixels on one set of maps, for 2, 4 and 20 levels."""
    raw = torch.rand(64, 8, 8, generator=torch.Generator().manual_seed(0))
    region = box((16, 16), 4, 4, 12, 12).expand(64, -1, -1)
    spread = []
    for levels in (2, 4, 20):
        maps = (raw * levels).floor()
        result = pointing_game(maps, region, tolerance=0.0)
        hits = [pointing(values.tolist(), mask, 0)[0] for values, mask in zip(maps, region, strict=True)]
        first, last, some, every = (
            sum(rule(h) for h in hits) / 64 for rule in (lambda h: h[0], lambda h: h[-1], any, all)
        )
        assert_close(result.best.mean(), torch.tensor(some))
        assert_close(result.worst.mean(), torch.tensor(every))
        assert_close(result.hit.mean(), torch.tensor(sum(sum(h) / len(h) for h in hits) / 64))
        assert every <= min(first, last) <= max(first, last) <= some
        spread.append(some - every)
    assert spread == sorted(spread, reverse=True)
    assert spread[0] == 1.0  # with two levels the rule alone decides between always and never


def test_uniform_map_hits_as_often_as_a_uniform_point():
    region = box((6, 9), 1, 5, 3, 9)
    plain = pointing_game(torch.full((1, 2, 3), 0.3), region, tolerance=0.0)
    assert_close(plain.hit, torch.tensor([8 / 54]))
    tolerant = pointing_game(torch.full((1, 2, 3), 0.3), region, tolerance=1.0)
    assert_close(tolerant.hit, tolerant.chance)
    assert float(tolerant.chance) > 8 / 54
    assert (float(plain.best), float(plain.worst)) == (1, 0)


def test_rows_are_rows_and_columns_are_columns():
    """A wide image with the object far right: swapping the axes anywhere would miss."""
    region = box((4, 12), 0, 9, 2, 12)
    maps = torch.zeros(2, 4, 12)
    maps[0, 1, 10] = maps[1, 2, 1] = 1.0
    result = pointing_game(maps, region.expand(2, -1, -1), tolerance=0.0)
    assert result.hit.tolist() == [1, 0]
    assert_close(result.chance, torch.full((2,), 6 / 48))


def test_one_pixel_region_and_zero_tolerance():
    region = box((5, 7), 2, 6, 3, 7)
    maps = torch.zeros(3, 5, 7)
    maps[0, 2, 6] = maps[1, 2, 5] = maps[2, 1, 5] = 1.0  # on it, one beside, one across
    regions = region.expand(3, -1, -1)
    assert pointing_game(maps, regions, tolerance=0.0).hit.tolist() == [1, 0, 0]
    assert pointing_game(maps, regions, tolerance=1.0).hit.tolist() == [1, 1, 0]
    assert pointing_game(maps, regions, tolerance=math.sqrt(2)).hit.tolist() == [1, 1, 1]


def test_tolerance_is_scaled_to_the_shorter_side():
    assert scaled_tolerance((224, 448)) == 15.0
    assert scaled_tolerance((64, 32)) == pytest.approx(15 / 7)
    maps, region = torch.zeros(2, 32, 64), box((32, 64), 0, 0, 1, 1).expand(2, -1, -1)
    maps[0, 0, 2] = maps[1, 0, 3] = 1.0
    assert pointing_game(maps, region).hit.tolist() == [1, 0]


def test_empty_region_is_nan_everywhere_and_alone():
    regions = torch.cat([box((4, 4), 0, 0, 0, 0), box((4, 4), 0, 0, 4, 4)])
    result = pointing_game(torch.rand(2, 2, 2), regions)
    assert all(bool(field[0].isnan()) for field in result)
    assert torch.cat(result).isfinite().sum() == 4
    assert [float(field[1]) for field in result] == [1, 1, 1, 1]


def test_all_negative_map_still_points():
    maps = torch.full((1, 4, 4), -3.0)
    maps[0, 3, 0] = -1.0
    assert pointing_game(maps, box((8, 8), 6, 0, 8, 2), tolerance=0.0) == (1, 1, 1, 4 / 64)


def test_chunks_change_nothing(monkeypatch):
    maps, regions = torch.randint(3, (9, 4, 4)).float(), torch.rand(9, 6, 5) > 0.8
    whole = pointing_game(maps, regions)
    monkeypatch.setitem(pointing_game.__globals__, "PIXELS_AT_ONCE", 60)
    assert_close(pointing_game(maps, regions), whole, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_impossible_tolerance_is_refused(tolerance):
    with pytest.raises(InputError, match="tolerance must be 0 or more"):
        pointing_game(torch.rand(1, 2, 2), box((4, 4), 0, 0, 1, 1), tolerance=tolerance)


def test_maps_without_an_order_are_refused():
    with pytest.raises(InputError, match="maps must be finite"):
        pointing_game(torch.full((1, 2, 2), math.nan), box((4, 4), 0, 0, 1, 1))
    with pytest.raises(InputError, match="at least one map"):
        pointing_game(torch.rand(0, 2, 2), torch.zeros(0, 4, 4, dtype=torch.bool))
