import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibviz.errors import InputError
from ibviz.metrics import on_grid, paint
from ibviz.metrics.grid import cell_areas
from tests.metrics.reference import cell_of

sides = st.integers(1, 9)


@settings(deadline=None, max_examples=40, database=None)
@given(sides, sides, sides, sides)
def test_paint_gives_each_pixel_its_cell(rows, columns, height, width):
    cells = torch.rand(2, rows, columns) > 0.5
    painted = paint(cells, (height, width))
    for y in range(height):
        for x in range(width):
            expected = cells.flatten(1)[:, cell_of(y, x, (rows, columns), (height, width))]
            assert torch.equal(painted[:, y, x], expected)


@settings(deadline=None, max_examples=25, database=None)
@given(sides, sides, st.integers(0, 5), st.integers(0, 5))
def test_areas_count_the_painted_pixels_and_no_cell_is_empty(rows, columns, more_rows, more_columns):
    grid, size = (rows, columns), (rows + more_rows, columns + more_columns)
    areas = cell_areas(grid, size)
    one_cell_each = torch.eye(rows * columns, dtype=torch.bool).view(-1, *grid)
    assert torch.equal(areas, paint(one_cell_each, size).flatten(1).sum(1))
    assert int(areas.min()) >= 1


def test_finer_map_is_averaged_into_cells():
    maps = torch.rand(2, 6, 4)
    expected = torch.stack([maps[:, 3 * i : 3 * i + 3, 2 * j : 2 * j + 2].mean((1, 2)) for i in (0, 1) for j in (0, 1)])
    torch.testing.assert_close(on_grid(maps, (2, 2)), expected.T.view(2, 2, 2))


def test_border_pixel_counts_in_both_cells_where_sizes_do_not_divide():
    torch.testing.assert_close(on_grid(torch.tensor([[[1.0, 2.0, 6.0]]]), (1, 2)), torch.tensor([[[1.5, 4.0]]]))


def test_coarser_map_keeps_its_blocks_as_ties():
    maps = torch.tensor([[[0.1, 0.7], [-0.3, 0.2]]])
    assert torch.equal(on_grid(maps, (4, 6)), maps.repeat_interleave(2, 1).repeat_interleave(3, 2))
    assert torch.equal(on_grid(maps, (5, 3)).unique(), maps.unique())


def test_levels_survive_enlargement_and_averaging_back():
    maps = torch.linspace(0, 1, 7)[torch.randint(7, (3, 5, 4))]
    assert torch.equal(on_grid(on_grid(maps, (20, 16)), (5, 4)), maps)


def test_blocks_of_the_same_levels_in_another_order_stay_ties():
    """In float32, 0.1 + 0.2 + 0.3 + 0.1 and 0.3 + 0.1 + 0.1 + 0.2 round to two numbers."""
    one, other = torch.tensor([[0.1, 0.2], [0.3, 0.1]]), torch.tensor([[0.3, 0.1], [0.1, 0.2]])
    found = on_grid(torch.cat([one, other], dim=1)[None], (1, 2))
    assert found.flatten().tolist() == [pytest.approx(0.175)] * 2
    assert found.unique().numel() == 1


def test_each_axis_is_treated_for_itself():
    maps = torch.rand(1, 8, 2)
    torch.testing.assert_close(on_grid(maps, (4, 4)), maps.view(1, 4, 2, 2).mean(2).repeat_interleave(2, 2))


def test_same_grid_is_the_same_map_in_float32():
    maps = torch.rand(2, 3, 5, dtype=torch.float64)
    assert torch.equal(on_grid(maps, (3, 5)), maps.float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_maps_without_an_order_are_refused(value):
    maps = torch.rand(3, 2, 2)
    maps[1, 0, 1] = value
    with pytest.raises(InputError, match="1 of 3 are not, the first at index 1"):
        on_grid(maps, (2, 2))


def test_a_grid_finer_than_the_image_is_refused():
    with pytest.raises(InputError, match=r"a cell must hold a pixel; got a grid of \(4, 2\)"):
        cell_areas((4, 2), (3, 8))
