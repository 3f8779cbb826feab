"""What a panel can be asked for: shared scales, contours, fading, templates, huge images, names in any script."""

import re
import warnings

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import TextToPath

from ibviz.errors import InputError
from ibviz.figures import overlay, panel
from ibviz.figures.layout import Texts, lay_out
from ibviz.figures.settings import HINTING, TEMPLATES, find_template, settings, text_width
from tests.figures.drawn import continuous, grey, middle, parts, points, quantised

HEIGHT, WIDTH = 40, 64


def constants(values: list[float]) -> torch.Tensor:
    return torch.tensor(values)[:, None, None].expand(-1, 4, 4).contiguous()


def near(first: np.ndarray, second: np.ndarray, within: int = 0) -> bool:
    return bool(np.abs(first - second).max() <= within)


def test_rows_of_one_name_share_scale_and_bar_so_the_same_value_has_the_same_colour():
    rows = {"a": constants([0.5, 1.0]), "b": constants([4.0, 0.5]), "c": constants([0.5, 0.5])}
    drawn = panel(grey(2), rows, scales={"a": "both", "b": "both"})
    _, _, a0, _, b0, b1, _, c0, _, _ = (middle(part) for part in parts(drawn))
    assert near(a0, b1)
    assert not near(a0, b0, within=20)
    assert not near(a0, c0, within=20)
    assert [row["limits"] for row in drawn.account["rows"]] == [[0, 4], [0, 4], [0, 0.5]]
    tall, low = (drawn.figure.axes[place].get_position().height for place in (6, 9))
    assert tall > 2 * low  # one bar beside both rows


def test_without_scales_each_row_has_its_own():
    drawn = panel(grey(1), {"a": constants([1.0]), "b": constants([4.0])})
    assert [row["limits"] for row in drawn.account["rows"]] == [[0, 1], [0, 4]]
    assert len(drawn.figure.axes) == 1 + 2 * 2


def test_fixed_limits_colour_a_value_alike_in_two_figures_and_mark_what_lies_beyond():
    limits = {"m": (-2.0, 2.0)}
    one = panel(grey(2), {"m": constants([1.0, 0.2])}, scales=limits)
    other = panel(grey(2), {"m": constants([1.0, 9.0])}, scales=limits)
    assert near(middle(parts(one)[2]), middle(parts(other)[2]))
    assert [one.account["rows"][0]["extend"], other.account["rows"][0]["extend"]] == ["neither", "max"]
    assert other.account["rows"][0]["colours"] == "RdBu_r"


def test_anchors_of_several_models_share_one_discrete_bar():
    first = quantised(torch.tensor([0, 1]).view(2, 1, 1), [0.0, 0.5])
    second = quantised(torch.tensor([0, 1]).view(2, 1, 1), [0.5, 1.0])
    drawn = panel(grey(2), {"a": first, "b": second}, scales={"a": "anchors", "b": "anchors"})
    low, half, again, high = (middle(part) for part in parts(drawn)[2:6])
    assert near(half, again)
    assert not near(low, high, within=40)
    assert [label.get_text() for label in drawn.figure.axes[-1].get_yticklabels()] == ["0.00", "0.50", "1.00"]


def test_anchors_within_fixed_limits_have_the_colours_of_those_limits():
    whole = panel(grey(1), {"a": quantised(torch.tensor([[[1]]]), [0.0, 0.5, 1.0])})
    part = panel(grey(1), {"a": quantised(torch.tensor([[[1]]]), [0.2, 0.5])}, scales={"a": (0.0, 1.0)})
    assert near(middle(parts(whole)[1]), middle(parts(part)[1]))


def test_attention_and_maps_together_are_scaled_as_maps_from_zero():
    drawn = panel(grey(1), {"a": continuous(constants([0.3])), "m": constants([3.0])}, scales={"a": "x", "m": "x"})
    assert [row["limits"] for row in drawn.account["rows"]] == [[0, 3], [0, 3]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scales": {"other": "x"}}, "unknown row of scales 'other'; known: m"),
        ({"scales": {"m": (1.0, 1.0)}}, "two ascending finite numbers"),
        ({"scales": {"m": (0.0, float("inf"))}}, "two ascending finite numbers"),
        ({"contours": [1.2]}, "contours are shares of the scale"),
        ({"template": "nature"}, "unknown template 'nature'; known: cvpr, cvpr column"),
    ],
)
def test_options_that_make_no_sense_are_named(options, says):
    with pytest.raises(InputError, match=says):
        panel(grey(1), {"m": constants([1.0])}, **options)


def lines(panel_axes) -> list[np.ndarray]:
    [drawn] = [one for one in panel_axes.collections if isinstance(one, LineCollection)]
    return drawn.get_segments()


def test_a_contour_of_a_smooth_map_runs_where_the_bilinear_value_is_the_level():
    ramp = torch.arange(8.0).expand(1, 5, 8)
    axes = panel(grey(1, HEIGHT, WIDTH), {"ramp": ramp}, contours=[0.5]).figure.axes[1]
    [line] = lines(axes)
    np.testing.assert_allclose(line[:, 0], 32.0, atol=1e-6)  # 3.5, midway between columns 3 and 4 of eight pixels each
    assert (line[:, 1].min(), line[:, 1].max()) == pytest.approx((-4, HEIGHT + 4))


def test_a_contour_of_a_bilinear_peak_is_its_level_set():
    maps = torch.zeros(1, 5, 8)
    maps[0, 3, 6] = 1
    axes = panel(grey(1, HEIGHT, WIDTH), {"dot": maps}, contours=[0.4]).figure.axes[1]
    [line] = lines(axes)
    x, y = np.abs(line[:, 0] - 52) / 8, np.abs(line[:, 1] - 28) / 8  # from the middle of the cell, in cells
    np.testing.assert_allclose((1 - x) * (1 - y), 0.4, atol=0.01)


def test_a_contour_of_anchors_follows_the_blocks_and_lies_between_their_segments_on_the_bar():
    index = torch.zeros(1, 5, 8, dtype=torch.int64)
    index[0, 1:3, 2:4] = 2
    drawn = panel(grey(1, HEIGHT, WIDTH), {"a": quantised(index, [0.0, 0.1, 1.0])}, contours=[0.5])
    _, cell, bar = drawn.figure.axes
    ends = {tuple(point) for line in lines(cell) for point in line}
    assert {x for x, _ in ends} == {16, 24, 32}
    assert {y for _, y in ends} == {8, 16, 24}
    marks = [float(points(line)[0, 1]) for line in bar.get_lines()]
    assert any(one == pytest.approx(0.55) for one in marks)


def test_maps_as_fine_as_the_images_have_no_contours():
    drawn = panel(grey(1), {"pixels": torch.rand(1, 32, 32)}, contours=[0.5])
    assert not drawn.figure.axes[1].collections


def test_fading_shows_the_photograph_where_a_map_is_zero_and_the_whole_blend_where_it_is_greatest():
    photo = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    signed = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])
    bare = parts(panel(photo, {"m": torch.zeros(1, 2, 2)}, blend=0.0))[1]
    faded, plain = (
        parts(panel(photo, {"m": signed.repeat_interleave(2, 1).repeat_interleave(2, 2)}, fade=fade))[1]
        for fade in (True, False)
    )
    high, wide = (side // 2 for side in bare.shape[:2])
    corner = slice(3, high - 3), slice(3, wide - 3)
    assert near(faded[corner], bare[corner], within=4)
    assert not near(plain[corner], bare[corner], within=20)
    other = slice(3, high - 3), slice(wide + 3, 2 * wide - 3)
    assert near(faded[other], plain[other], within=2)


def test_a_faded_overlay_over_middle_grey_has_the_colours_of_its_bar():
    drawn = panel(grey(3), {"m": constants([0.5, 2.0, 4.0])}, fade=True)
    *cells, bar = parts(drawn)[3:]
    for cell, share in zip(cells, (0.125, 0.5, 0.99), strict=True):
        assert near(middle(cell), bar[round((1 - share) * (len(bar) - 1)), bar.shape[1] // 2], within=10)


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize(("images", "methods"), [(6, 8), (1, 1), (2, 20)])
def test_a_panel_fits_the_page_of_its_template(name, images, methods):
    page = TEMPLATES[name]
    texts = Texts([(f"Method {n}", "bilinear, 4 x 4") for n in range(methods)], ["0.50"], ["cat 0.9"] * images)
    with settings(page):
        layout, _, _ = lay_out(texts, images, (32, 32), page)
    assert layout.size[0] <= page.width + 0.01
    assert layout.size[1] <= page.height + 0.01
    assert layout.cell[0] >= 0.3 * page.unit


@pytest.mark.parametrize("name", ["neurips", "slides"])
def test_type_is_that_of_the_template(name):
    drawn = panel(grey(1), {"m": torch.rand(1, 4, 4)}, captions=["cat"], template=name)
    [caption] = [text for text in drawn.figure.texts if text.get_text() == "cat"]
    assert (caption.get_text(), caption.get_fontsize()) == ("cat", TEMPLATES[name].text)
    assert caption.get_fontfamily()[0] == TEMPLATES[name].font


def test_templates_are_those_of_the_style_files():
    widths = {name: TEMPLATES[name].width for name in TEMPLATES}
    assert widths == {
        "neurips": 5.5,
        "cvpr": 6.875,
        "cvpr column": 3.25,
        "ijcai": 7.0,
        "ijcai column": 3.375,
        "slides": 13.33,
    }


def test_one_map_on_one_image_is_a_panel_of_one_cell():
    image, dots = torch.zeros(3, HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH)
    image[:, 29, 51] = dots[29, 51] = 1
    drawn = overlay(image, dots, label="dot", caption="cat", blend=1.0)
    same = panel(image[None], {"dot": dots[None]}, captions=["cat"], blend=1.0)
    assert all(np.array_equal(one, two) for one, two in zip(parts(drawn), parts(same), strict=True))


def huge() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A black image 2400 wide and 1200 high with a square of 48 pixels, as a mask and as a box too."""
    image, box = torch.zeros(1, 3, 1200, 2400), torch.tensor([[1920.0, 720.0, 1968.0, 768.0]])
    image[0, :, 720:768, 1920:1968] = 1
    return image, box, image[:, 0] > 0.5


def lit(part: np.ndarray, floor: int) -> tuple[float, float, float, float]:
    """Box of what is bright, in shares of the picture."""
    rows, columns = np.nonzero(part[1:-1, 1:-1].sum(2) > floor)
    high, wide = part.shape[:2]
    return columns.min() / wide, rows.min() / high, (columns.max() + 1) / wide, (rows.max() + 1) / high


def test_huge_images_are_drawn_smaller_with_a_note_and_nothing_shifts(tmp_path):
    image, box, mask = huge()
    drawn = panel(image, {"map": image[:, 0]}, blend=1.0)
    assert drawn.account["images"] == {
        "count": 1,
        "size": [500, 1000],
        "interpolation": "antialiased",
        "original_size": [1200, 2400],
    }
    texts = [text.get_text() for text in drawn.figure.texts]
    assert "Images of 2400\u00d71200 pixels, drawn as 1000\u00d7500." in texts
    photo, overlaid = parts(drawn)[:2]
    assert lit(photo, 380) == pytest.approx((0.8, 0.6, 0.82, 0.64), abs=1 / 100)
    block = np.array([16 / 1000, 16 / 500] * 2)  # a map of 1000 pixels shows the greatest of 16 x 16
    before, after = np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1])
    box_lit, box_true = np.array(lit(overlaid, 380)), np.array([0.8, 0.6, 0.82, 0.64])
    assert (box_lit >= box_true - block * before - 1 / 60).all()
    assert (box_lit <= box_true + block * after + 1 / 60).all()
    for outlined in (panel(image * 0, {}, boxes=box), panel(image * 0, {}, masks=mask)):
        x0, y0, x1, y1 = lit(parts(outlined)[0], 300)
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((0.81, 0.62), abs=0.01)
    drawn.save(tmp_path / "p.png", dpi=50)
    assert (tmp_path / "p.data.safetensors").stat().st_size < 4_000_000  # images of 8 bits, maps of 32, both smaller


def test_the_note_stands_below_all_pictures():
    drawn = panel(grey(2, 32, 64), {"m": torch.rand(2, 3, 3)}, original_size=(3200, 6400), template="cvpr column")
    drawn.figure.draw_without_rendering()
    [note] = [text for text in drawn.figure.texts if text.get_text().startswith("Images of")]
    box = note.get_window_extent()
    assert box.y0 >= 0
    assert box.x1 <= drawn.figure.bbox.x1
    assert all(box.y1 <= axes.get_window_extent().y0 for axes in drawn.figure.axes)


NAMES = [
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627",
    "\U0001f600 smile",
    "<script>alert('x')</script>",
    '"$x^2$" & \\frac',
]


def test_names_in_other_scripts_are_drawn_as_text_without_a_warning(tmp_path):
    rows = {name: torch.rand(len(NAMES), 2, 2) for name in NAMES}
    drawn = panel(grey(len(NAMES)), rows, captions=NAMES)
    for suffix in (".png", ".pdf", ".svg"):
        drawn.save(tmp_path / f"p{suffix}", dpi=60)
    shown = {text.get_text().replace("\n", " ") for text in drawn.figure.findobj(Text) if isinstance(text, Text)}
    assert {NAMES[0], NAMES[1], NAMES[2]} <= shown
    svg = (tmp_path / "p.svg").read_text()
    assert "<script" not in svg
    assert not re.search(r"<image[^>]*script", svg)


@pytest.mark.parametrize(
    ("name", "says"), [("\u65e5\u672c", "\u65e5 \u672c drawn as boxes"), ("a\tb", "'.t' drawn as boxes")]
)
def test_letters_that_no_font_has_are_told_in_one_warning(tmp_path, monkeypatch, name, says):
    monkeypatch.setattr("ibviz.figures.fonts._installed", lambda _: [])  # none but those of matplotlib
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        drawn = panel(grey(3), {name: torch.rand(3, 2, 2), f"{name} 2": torch.rand(3, 2, 2)}, captions=[name] * 3)
        for suffix in (".png", ".pdf", ".svg"):
            drawn.save(tmp_path / f"p{suffix}", dpi=60)
    assert len(told) == 1
    assert re.search(says, str(told[0].message))


def test_the_width_of_a_text_is_that_in_the_font_of_the_page():
    """A width that was asked for once is kept; it must not be that of another font or size."""
    widths = []
    for page, size in (("cvpr", 8.0), ("slides", 8.0), ("cvpr", 9.0), ("cvpr", 8.0)):
        with settings(find_template(page)):
            measured = TextToPath().get_text_width_height_descent("Grad-CAM", FontProperties(size=size), ismath=False)
            widths.append(text_width("Grad-CAM", size))
        assert widths[-1] == HINTING * measured[0] / 72
    assert len(set(widths)) == 3
