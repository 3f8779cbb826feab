"""Scales per row, per image and fixed; blocks of fine maps; colour maps; and panels in a figure of one's own."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib import colormaps

from ibviz.attribution.catalogue import METHODS
from ibviz.errors import InputError
from ibviz.figures import overlay, panel
from ibviz.figures.panel_rows import block_maxima
from ibviz.figures.scale import MISLEADING
from ibviz.figures.settings import wrap_text
from ibviz.workflows.captions import without_zero
from tests.figures.drawn import continuous, grey, middle, parts, quantised


def ramp(top: float) -> torch.Tensor:
    """Two maps of 4 x 4 cells, whose greatest value in the second image is a tenth of `top`."""
    values = torch.linspace(0, top, 16).view(1, 4, 4)
    return torch.cat([values, values / 10])


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Compare two pictures, of which one may have a pixel more along a side."""
    height, width = np.min([first.shape, second.shape], axis=0)[:2]
    return bool(np.abs(first[2 : height - 2, 2 : width - 2] - second[2 : height - 2, 2 : width - 2]).max() <= 2)


def test_on_a_scale_per_image_maps_that_differ_by_a_factor_look_alike_and_the_row_says_so():
    shared, own = (panel(grey(2), {"map": ramp(5.0)}, scale=rule) for rule in ("shared", "image"))
    first, second = parts(shared)[2:4]
    assert not same(first, second)
    first, second = parts(own)[2:4]
    assert same(first, second)
    assert "scale per image" in " ".join(text.get_text().replace("\n", " ") for text in own.figure.texts)
    assert [text.get_text() for text in own.figure.axes[-1].get_yticklabels()] == ["0", "", "max"]
    assert own.account["rows"][0]["scale"] == "each image its own"


def test_attention_is_stretched_from_its_least_to_its_greatest_value_in_each_image():
    values = ramp(1.0)
    raised = torch.stack([values[0], 0.3 + values[1]])
    plain, lifted = (panel(grey(2), {"a": continuous(one)}, scale="image") for one in (values, raised))
    assert same(parts(plain)[3], parts(lifted)[3])


def test_a_fixed_scale_does_not_depend_on_the_values():
    low, high = (panel(grey(2), {"map": values}, scale="fixed").account["rows"][0] for values in (ramp(0.1), ramp(7)))
    assert low["limits"] == high["limits"] == [0, 1]
    assert (low["extend"], high["extend"]) == ("neither", "max")
    signed = panel(grey(2), {"map": ramp(0.1) - 0.05}, scale="fixed").account["rows"][0]
    assert signed["limits"] == [-1, 1]
    index = torch.arange(8).view(2, 2, 2) % 2
    anchors = panel(grey(2), {"a": quantised(index, [0.4, 0.6])}, scale="fixed").account["rows"][0]
    assert anchors["limits"] == [0, 1]


@pytest.mark.parametrize("side", [2, 3, 5])
def test_a_block_shows_its_value_of_greatest_magnitude(side):
    values = np.random.default_rng(0).standard_normal((2, 13, 10))
    expected = np.empty_like(values)
    for image in range(2):
        for row in range(13):
            for column in range(10):
                top, left = row // side * side, column // side * side
                block = values[image, top : top + side, left : left + side].ravel()
                expected[image, row, column] = block[np.abs(block).argmax()]
    np.testing.assert_array_equal(block_maxima(values, side), expected)


def test_a_single_pixel_of_a_large_map_is_seen_and_its_row_says_by_which_rule():
    dots = torch.zeros(1, 256, 256)
    dots[0, 128, 128] = 1.0
    drawn = panel(grey(1, 256, 256), {"dot": dots}, blend=1.0)
    assert drawn.account["rows"][0]["blocks"] == 4
    assert any("max of 4\u00d74" in text.get_text().replace("\n", " ") for text in drawn.figure.texts)
    lit = parts(drawn, dpi=300)[1].sum(2) > 500
    assert lit[2:-2, 2:-2].sum() >= 9


def test_limit_is_the_percentile_of_the_values_that_are_drawn():
    maps = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    row = panel(grey(1), {"map": maps}, limit=90.0).account["rows"][0]
    assert row["limits"][1] == pytest.approx(np.percentile(maps.numpy(), 90))
    assert row["extend"] == "max"


def test_a_colour_map_of_ones_own_colours_the_cells_and_the_bar():
    flat = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 4, 4).contiguous()
    drawn = panel(grey(2), {"map": flat, "signed": flat - 0.5}, cmap="viridis", blend=1.0)
    expected = (np.array(colormaps["viridis"](1.0)[:3]) * 255).round()
    assert np.abs(middle(parts(drawn)[3]) - expected).max() <= 1
    assert [row["colours"] for row in drawn.account["rows"]] == ["viridis", "RdBu_r"]
    both = panel(grey(2), {"map": flat, "signed": flat - 0.5}, cmap="coolwarm").account["rows"]
    assert [row["colours"] for row in both] == ["inferno, 0 to 0.92", "coolwarm"]


def test_a_colour_map_that_misleads_is_warned_of_and_an_unknown_one_refused():
    assert set(MISLEADING) <= set(colormaps)
    with pytest.warns(UserWarning, match="jet shows edges where the values have none"):
        panel(grey(1), {"map": torch.rand(1, 4, 4)}, cmap="jet")
    with pytest.raises(InputError, match="did you mean 'viridis'"):
        panel(grey(1), {"map": torch.rand(1, 4, 4)}, cmap="viridus")
    with pytest.raises(InputError, match="percentile"):
        panel(grey(1), {"map": torch.rand(1, 4, 4)}, limit=0.0)


def test_arrays_of_numpy_are_taken_and_anything_else_is_refused_in_words():
    images, maps = np.full((2, 3, 8, 8), 0.5), np.random.default_rng(0).random((2, 4, 4))
    from_arrays = panel(images, {"map": maps})
    from_tensors = panel(torch.from_numpy(images).float(), {"map": torch.from_numpy(maps).float()})
    assert all(np.array_equal(one, two) for one, two in zip(parts(from_arrays), parts(from_tensors), strict=True))
    with pytest.raises(InputError, match="of one image, images"):
        panel(np.zeros((3, 8, 8)), {})
    with pytest.raises(InputError, match=r"of bytes, ibviz\.data\.to_float"):
        panel(np.zeros((1, 3, 8, 8), np.uint8), {})


@pytest.mark.parametrize("images", [1, 3])
def test_a_panel_in_the_place_of_axes_lies_inside_them_and_shows_the_same(images):
    maps = {"map": torch.rand(images, 4, 4, generator=torch.Generator().manual_seed(0))}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4))
    left.plot([0, 1])
    before, box = len(figure.axes), right.get_position()
    composed = panel(grey(images), maps, axes=right)
    assert composed.figure is figure
    added = figure.axes[before:]
    assert len(added) == 2 * images + 1
    for axes in added:
        place = axes.get_position()
        assert box.x0 - 1e-9 <= place.x0 < place.x1 <= box.x1 + 1e-9
        assert box.y0 - 1e-9 <= place.y0 < place.y1 <= box.y1 + 1e-9
    alone = panel(grey(images), maps)
    for one, two in zip(parts(composed)[before:], parts(alone), strict=True):
        assert np.abs(middle(one) - middle(two)).max() <= 3
    plt.close(figure)


def test_axes_that_are_too_small_are_refused():
    figure, axes = plt.subplots(figsize=(1, 1))
    with pytest.raises(InputError, match=r"the panel takes .* and the axes have"):
        panel(grey(6), {str(row): torch.rand(6, 4, 4) for row in range(6)}, axes=axes)
    plt.close(figure)


def test_a_title_a_note_and_groups_are_written():
    rows = {name: torch.rand(1, 4, 4) for name in "abc"}
    drawn = panel(grey(1), rows, title="net", note="cropped", groups={"a": "first", "b": "second", "c": "second"})
    texts = [text.get_text() for text in drawn.figure.texts]
    assert {"net", "cropped", "first", "second"} <= set(texts)
    assert texts.count("second") == 1
    with pytest.raises(InputError, match="unknown row of groups 'd'"):
        panel(grey(1), rows, groups={"d": "first"})


def test_the_pictures_of_one_image_stand_side_by_side():
    drawn = overlay(torch.rand(3, 8, 8), torch.rand(2, 2), label="m")
    photo, map_, bar = (axes.get_position() for axes in drawn.figure.axes)
    assert photo.y0 == pytest.approx(map_.y0)
    assert photo.x1 < map_.x0 < map_.x1 < bar.x0


def test_a_row_without_a_meaningful_zero_looks_as_if_its_least_value_were_zero_and_says_so():
    values = ramp(1.0)[:1]
    low, high = panel(grey(1), {"map": values}), panel(grey(1), {"map": 4 + values}, from_least=["map"])
    assert same(parts(low)[1], parts(high)[1])
    assert high.account["rows"][0]["limits"] == [4, 5]
    assert "not\u00a0from\u00a00" in " ".join(text.get_text().replace("\n", " ") for text in high.figure.texts)
    several = panel(grey(2), {"map": torch.cat([4 + values, 9 + values / 10])}, from_least=["map"])
    first, second = parts(several)[2:4]
    assert same(first, second)
    assert several.account["rows"][0]["scale"] == "each image its own"
    assert panel(grey(1), {"map": torch.ones(1, 4, 4)}, from_least=["map"]).account["rows"][0]["limits"] == [0, 1]


def test_two_classes_without_a_meaningful_zero_are_each_drawn_on_a_scale_of_its_own():
    values, names = ramp(1.0)[:1], {"high": "one", "low": "one"}
    drawn = panel(grey(1), {"high": 4 + values, "low": values / 10}, scales=names, from_least=list(names))
    assert same(*parts(drawn)[1:3])
    assert {row["scale"] for row in drawn.account["rows"]} == {"each image its own"}
    fixed = panel(grey(1), {"high": 4 + values}, scales={"high": (0.0, 5.0)}, from_least=["high"])
    assert fixed.account["rows"][0]["limits"] == [0, 5]
    with pytest.raises(InputError, match="unknown row of from_least 'hihg'; known: high; did you mean 'high'"):
        panel(grey(1), {"high": values}, from_least=["hihg"])


def test_rise_alone_has_no_meaningful_zero():
    assert without_zero([(name, name) for name in METHODS]) == ["rise"]


def test_a_class_name_with_a_hyphen_breaks_there_only_if_it_is_wider_than_the_line():
    assert wrap_text("gradients: runner-up", 8.0, 0.8) == "gradients:\nrunner-up"
    assert wrap_text("black-and-tan coonhound", 8.0, 0.7) == "black-and-\ntan\ncoonhound"
