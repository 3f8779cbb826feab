"""A panel shows the values it is given: the right colour, at the right place, in every format."""

import base64
import re
from io import BytesIO

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from ibviz.errors import InputError
from ibviz.figures import panel
from ibviz.figures.sidecar import Panel
from ibviz.types import AttentionMap
from tests.figures.drawn import continuous, grey, middle, parts, quantised

ANCHORS = [0.9, -0.2, 0.35, 1.3, 0.35]  # unsorted, doubled, outside [0, 1]
LEVELS = sorted(set(ANCHORS))


def constants(values: list[float], side: int = 4) -> torch.Tensor:
    """One constant map for each value."""
    return torch.tensor(values)[:, None, None].expand(-1, side, side).contiguous()


def assert_same(actual: np.ndarray, expected: np.ndarray, within: int = 2) -> None:
    assert np.abs(actual - expected).max() <= within, f"{actual.tolist()} is not {expected.tolist()}"


def bar_colour(bar: np.ndarray, share: float) -> np.ndarray:
    """Colour at a share of the height of a bar, from below."""
    return bar[round((1 - share) * (len(bar) - 1)), bar.shape[1] // 2]


def test_each_anchor_has_the_colour_of_its_segment():
    index = torch.arange(len(ANCHORS))[:, None, None].expand(-1, 3, 3)
    drawn = panel(grey(len(ANCHORS)), {"attention": quantised(index, ANCHORS)})
    *cells, bar = parts(drawn)[len(ANCHORS) :]
    shown = [bar_colour(bar, (LEVELS.index(anchor) + 0.5) / len(LEVELS)) for anchor in ANCHORS]
    for cell, colour in zip(cells, shown, strict=True):
        assert_same(middle(cell), colour)
    assert len({tuple(colour) for colour in shown}) == len(LEVELS)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0.0, 1.0, 2.0, 4.0], 0.0, 4.0), ([-3.0, -1.0, 0.0, 2.0], -3.0, 3.0), ([-4.0, -1.0, -2.0, -3.0], -4.0, 4.0)],
)
def test_each_value_of_a_map_has_its_colour_on_the_bar(values, low, high):
    drawn = panel(grey(4), {"map": constants(values)})
    *cells, bar = parts(drawn)[4:]
    for cell, value in zip(cells, values, strict=True):
        near_end = min(max((value - low) / (high - low), 0.01), 0.99)  # the frame of the bar covers its very ends
        assert_same(middle(cell), bar_colour(bar, near_end), within=10)


@pytest.mark.parametrize(("values", "limits"), [([0.2, 0.7], (0, 1)), ([-1.0, 0.7], (-1, 0.7)), ([1.2, 3.0], (1.2, 3))])
def test_attention_is_scaled_to_unit_or_to_its_limits(values, limits):
    drawn = panel(grey(2), {"attention": continuous(constants(values))})
    assert drawn.account["rows"][0]["limits"] == pytest.approx(limits)
    first, second, bar = parts(drawn)[2:]
    for cell, value in zip((first, second), values, strict=True):
        share = (value - limits[0]) / (limits[1] - limits[0])
        assert_same(middle(cell), bar_colour(bar, min(max(share, 0.01), 0.99)), within=10)


def test_same_value_has_the_same_colour_across_a_row_whatever_else_an_image_holds():
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    maps[1] *= 0.2
    maps[:, 1:3, 1:3] = 0.15
    drawn = panel(grey(2), {"map": maps, "attention": continuous(maps)})
    shown = parts(drawn)
    assert_same(middle(shown[2]), middle(shown[3]), within=0)
    assert_same(middle(shown[5]), middle(shown[6]), within=0)


@pytest.mark.parametrize(
    ("row", "share"),
    [
        (torch.zeros(2, 5, 5), 0.01),
        (torch.full((2, 5, 5), 0.3), 0.99),
        (torch.full((2, 5, 5), -0.3), 0.01),
        (torch.full((2, 5, 5), 1e30), 0.99),
        (continuous(torch.full((2, 5, 5), 0.5)), 0.5),
        (continuous(torch.full((2, 5, 5), 7.0) + 1e-6 * torch.rand(2, 5, 5)), 0.99),
        (quantised(torch.zeros(2, 5, 5, dtype=torch.int64), [0.4]), 0.5),
        (quantised(torch.ones(2, 5, 5, dtype=torch.int64), [0.4, 0.4]), 0.5),
        (quantised(torch.ones(2, 5, 5, dtype=torch.int64), [0.1, 0.9]), 0.75),
    ],
    ids=["zero", "positive", "negative", "huge", "attention", "attention+rounding", "one anchor", "equal", "one used"],
)
def test_a_constant_map_is_one_colour_and_not_noise(row, share):
    drawn = panel(grey(2), {"flat": row})
    *cells, bar = parts(drawn)[2:]
    first, second = (cell[2 : len(cell) // 2, 2:-2] for cell in cells)  # below stands that the map is constant
    assert np.ptp(first, axis=(0, 1)).max() == np.ptp(second, axis=(0, 1)).max() == 0
    assert_same(first[0, 0], second[0, 0], within=0)
    assert_same(first[0, 0], bar_colour(bar, share), within=10)


def words(drawn: Panel) -> list[str]:
    """Texts inside the pictures."""
    return [text.get_text() for axes in drawn.figure.axes for text in axes.texts]


def test_a_map_with_one_value_says_so():
    maps = torch.rand(3, 4, 4)
    maps[0], maps[2] = 0.0, 0.4
    drawn = panel(grey(3), {"map": maps, "zero": torch.zeros(3, 4, 4), "attention": continuous(maps)})
    assert words(drawn) == ["all zero", "constant 0.4", *["all zero"] * 3, "all zero", "constant 0.4"]


def test_rounding_below_zero_does_not_make_a_map_signed():
    values = torch.tensor([[[-1e-9, 0.5], [0.2, 1.0]]])
    assert panel(grey(1), {"map": values}).account["rows"][0]["limits"] == [0, 1]


def test_outliers_of_a_pixel_map_are_cut_openly():
    maps = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    maps[0, 3, 3] = 50.0
    row = panel(grey(1), {"map": maps}).account["rows"][0]
    assert row["extend"] == "max"
    assert row["limits"][1] < 1
    assert "99.5 %" in row["scale"]
    assert panel(grey(1), {"map": maps[:, ::2, ::2]}).account["rows"][0]["extend"] == "neither"


HEIGHT, WIDTH = 40, 64


def lit(part: np.ndarray, floor: int) -> tuple[float, float, float, float]:
    """Box x0, y0, x1, y1 of what is bright, in pixels of the image."""
    rows, columns = np.nonzero(part.sum(2) > floor)
    inner = (rows > 0) & (rows < len(part) - 1) & (columns > 0) & (columns < part.shape[1] - 1)  # the page is white
    rows, columns = rows[inner], columns[inner]
    down, right = part.shape[0] / HEIGHT, part.shape[1] / WIDTH
    return columns.min() / right, rows.min() / down, (columns.max() + 1) / right, (rows.max() + 1) / down


def test_a_cell_lies_exactly_over_its_pixels():
    index = torch.zeros(1, 5, 8, dtype=torch.int64)
    index[0, 3, 6] = 2  # between levels 0 and 2 a smooth enlargement would show level 1
    drawn = panel(grey(1, HEIGHT, WIDTH), {"attention": quantised(index, [0.0, 0.5, 1.0])}, blend=1.0)
    assert lit(parts(drawn)[1], 250) == pytest.approx((48, 24, 56, 32), abs=0.5)


def test_a_pixel_of_a_map_lies_over_the_pixel_of_the_photograph():
    photo, dots = torch.zeros(1, 3, HEIGHT, WIDTH), torch.zeros(1, HEIGHT, WIDTH)
    photo[0, :, 29, 51] = dots[0, 29, 51] = 1
    drawn = panel(photo, {"map": dots}, blend=1.0)
    assert lit(parts(drawn)[0], 400) == pytest.approx((51, 29, 52, 30), abs=0.5)
    assert lit(parts(drawn)[1], 400) == pytest.approx((51, 29, 52, 30), abs=0.5)


def test_bilinear_enlargement_peaks_at_the_middle_of_a_cell_and_is_linear_between_middles():
    maps = torch.zeros(1, 5, 8)
    maps[0, 3, 6] = 1
    drawn = panel(grey(1, HEIGHT, WIDTH), {"dot": maps}, blend=1.0)
    x0, y0, x1, y1 = lit(parts(drawn)[1], 430)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((52, 28), abs=1)
    ramp = torch.arange(8.0).expand(1, 5, 8)
    drawn = panel(grey(1, HEIGHT, WIDTH), {"ramp": ramp}, blend=1.0)
    _, cell, bar = parts(drawn)
    for column, value in [(12, 1.0), (16, 1.5), (30, 3.25), (48, 5.5)]:
        assert_same(cell[len(cell) // 2, round(column / WIDTH * cell.shape[1])], bar_colour(bar, value / 7), within=10)


def test_boxes_and_masks_are_outlined_where_they_are():
    photos, mask = torch.full((1, 3, HEIGHT, WIDTH), 0.3), torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 5:20, 30:60] = True
    boxed = panel(photos, {}, boxes=torch.tensor([[30.0, 5.0, 60.0, 20.0]]))
    masked = panel(photos, {}, masks=mask)
    for drawn in (boxed, masked):
        assert lit(parts(drawn)[0], 500) == pytest.approx((30, 5, 60, 20), abs=1)
    panel(photos, {}, masks=torch.zeros_like(mask))


def test_an_image_whose_box_is_nan_is_drawn_without_one():
    photos, box = torch.full((2, 3, HEIGHT, WIDTH), 0.3), torch.tensor([30.0, 5.0, 60.0, 20.0])
    boxed, bare = parts(panel(photos, {}, boxes=torch.stack([box, torch.full((4,), torch.nan)])))
    assert lit(boxed, 500) == pytest.approx((30, 5, 60, 20), abs=1)
    assert np.array_equal(bare, parts(panel(photos, {}))[1])


def test_an_svg_shows_the_colours_of_the_png(tmp_path):
    drawn = panel(grey(1), {"map": constants([0.7])})
    drawn.save(tmp_path / "p.svg")
    found = re.findall(r'base64,\s*([^"]+)"', (tmp_path / "p.svg").read_text())
    colours = [np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]
    expected = middle(parts(drawn)[1])
    assert any(np.abs(middle(colour.astype(int)) - expected).max() <= 2 for colour in colours)


@pytest.mark.parametrize(
    ("images", "methods", "height", "width"),
    [(1, 1, 32, 32), (8, 8, 32, 32), (5, 3, 20, 80), (2, 26, 32, 32), (1, 31, 20, 30)],
)
def test_all_text_is_inside_the_figure_and_none_overlaps(images, methods, height, width):
    index = torch.arange(images * 9).view(images, 3, 3) % 20
    rows = {f"A rather long method, {n}": torch.rand(images, 4, 4) for n in range(methods - 1)}
    rows |= {"Attention": quantised(index, torch.linspace(0, 1, 20).tolist())}
    drawn = panel(grey(images, height, width), rows, captions=[f"Yellow_headed_Blackbird {n}" for n in range(images)])
    drawn.figure.set_dpi(300)
    canvas = drawn.figure.bbox
    drawn.figure.draw_without_rendering()
    texts = [text for text in drawn.figure.findobj(Text) if isinstance(text, Text) and text.get_text().strip()]
    boxes = [text.get_window_extent() for text in texts if text.get_visible()]
    assert all(box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= canvas.x1 + 0.5 for box in boxes)
    assert all(box.y1 <= canvas.y1 + 0.5 for box in boxes)
    inner = [box.padded(-2) for box in boxes]
    clashes = [(texts[a], texts[b]) for a in range(len(inner)) for b in range(a) if inner[a].overlaps(inner[b])]
    assert not clashes


def test_a_table_higher_than_a_page_is_folded_into_blocks_with_the_images_above_each():
    rows = {f"Method {n}": torch.full((2, 4, 4), float(n + 1)) for n in range(25)}
    drawn = panel(grey(2, 32, 32), rows)
    width, height = drawn.figure.get_size_inches()
    assert width <= 7.01
    assert height <= 9
    pictures = [axes for axes in drawn.figure.axes if axes.images and not axes.axison]
    corners = [(round(axes.get_position().x0, 4), round(axes.get_position().y0, 4)) for axes in pictures]
    assert len(set(corners)) == len(corners) == 3 * 2 + 25 * 2
    assert sorted({x for x, _ in corners}) == sorted({x for x, y in corners if y == max(y for _, y in corners)})
    values = [np.asarray(axes.images[-1].get_array()) for axes in pictures[6:]]
    assert [float(one.max()) for one in values] == [float(n + 1) for n in range(25) for _ in range(2)]


def test_twenty_anchors_keep_twenty_ticks_and_few_labels():
    drawn = panel(grey(8), {"a": quantised(torch.zeros(8, 3, 3, dtype=torch.int64), torch.linspace(0, 1, 20).tolist())})
    axis = drawn.figure.axes[-1].yaxis
    labels = [label.get_text() for label in axis.get_ticklabels()]
    assert len(axis.get_ticklocs()) == 20
    assert (labels[0], labels[-1]) == ("0.00", "1.00")
    assert 3 <= sum(map(bool, labels)) <= 10


def test_markup_in_names_is_shown_as_text(tmp_path):
    names = ["$\\frac{a$", "<script>alert(1)</script>"]
    drawn = panel(grey(2), {"50 % & $x$": torch.rand(2, 3, 3)}, captions=names)
    drawn.save(tmp_path / "p.svg")
    assert "<script" not in (tmp_path / "p.svg").read_text()


def test_settings_of_the_reader_are_neither_used_nor_changed():
    values = {"m": torch.rand(1, 3, 3)}
    plain = parts(panel(grey(1), values))[1]
    with matplotlib.rc_context({"font.size": 30, "image.interpolation": "lanczos", "image.origin": "lower"}):
        own = panel(grey(1), values)
        assert matplotlib.rcParams["font.size"] == 30
    assert_same(parts(own)[1], plain, within=0)


def test_the_sidecar_tells_how_each_row_was_made():
    index = torch.zeros(2, 3, 5, dtype=torch.int64)
    rows = {"ours": quantised(index, [0.5, 0.25]), "cam": torch.rand(2, 4, 4), "ig": torch.rand(2, 32, 32) - 0.5}
    account = panel(grey(2), rows, captions=["a", "b"], blend=0.5, record={"seed": 7, "model": "vgg32"}).account
    ours, cam, pixel = account["rows"]
    assert (account["format"], account["version"], account["kind"]) == ("ibviz figure", 2, "panel")
    assert account["images"] == {"count": 2, "size": [32, 32], "interpolation": "nearest", "original_size": None}
    assert (account["arguments"]["captions"], account["arguments"]["blend"]) == (["a", "b"], 0.5)
    assert account["record"] == {"seed": 7, "model": "vgg32"}
    assert {"ibviz", "matplotlib", "numpy"} <= set(account["libraries"])
    assert (ours["label"], ours["quantised"], ours["anchors"], ours["grid"]) == ("ours", True, [0.5, 0.25], [3, 5])
    assert (ours["enlargement"], ours["limits"]) == ("nearest blocks", [0.25, 0.5])
    assert (cam["enlargement"], cam["quantised"], cam["anchors"]) == ("bilinear", False, None)
    assert (pixel["enlargement"], pixel["colours"]) == ("pixels", "RdBu_r")


def nan_map() -> torch.Tensor:
    maps = torch.rand(2, 3, 3)
    maps[1, 2, 2] = float("nan")
    return maps


def foreign_index() -> AttentionMap:
    mean = torch.zeros(2, 2, 2)
    return AttentionMap(mean, mean, torch.full((2, 2, 2), 5), torch.rand(3))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (nan_map(), r"row 'mine' holds NaN or infinite values in images \[1\]"),
        (torch.rand(3, 4, 4), r"row 'mine' needs one map .* each of 2 images; got shape \(3, 4, 4\)"),
        (continuous(torch.rand(3, 4, 4)), r"row 'mine' needs one map .* each of 2 images"),
        (torch.rand(2, 0, 4), r"row 'mine' needs one map"),
        (quantised(torch.zeros(2, 2, 2, dtype=torch.int64), [float("nan")]), "row 'mine' needs at least one anchor"),
        (foreign_index(), "3 anchors, but its cells name anchors 5 to 5"),
    ],
)
def test_a_row_that_cannot_be_drawn_is_named(row, says):
    with pytest.raises(InputError, match=says):
        panel(grey(2), {"mine": row})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"captions": ["one"]}, "captions are for 1 images, but 2"),
        ({"blend": 1.5}, "blend is the share"),
        ({"record": {"bad": torch.zeros(2)}}, "record must hold what JSON can"),
        ({"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0], [9.0, 9.0, 90.0, 20.0]])}, r"images \[1\] differ"),
        ({"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 9.0, 9.0]])}, r"images \[0\] differ"),
        ({"boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, torch.nan]])}, r"images \[1\] differ"),
    ],
)
def test_what_lies_beside_the_images_is_checked(given, says):
    with pytest.raises(InputError, match=says):
        panel(grey(2), {"m": torch.rand(2, 3, 3)}, **given)


@pytest.mark.parametrize("value", [-0.5, 2.0, float("nan")])
def test_images_after_normalisation_are_refused(value):
    with pytest.raises(InputError, match=r"images must be in \[0, 1\], before any normalisation"):
        panel(torch.full((1, 3, 8, 8), value), {})
