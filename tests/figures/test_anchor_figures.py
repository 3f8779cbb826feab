"""Anchor usage, rate against accuracy, and tables show the numbers they are given."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from ibviz.errors import InputError
from ibviz.figures import anchor_usage, panel, rate_accuracy, table
from tests.figures.drawn import grey, points, quantised

USAGE, ANCHORS = torch.tensor([30, 0, 60, 10]), torch.tensor([0.5, 0.9, -0.1, 0.2])  # not in order


def test_bars_are_shares_of_the_cells_in_the_order_and_colours_of_the_anchors():
    drawn = anchor_usage(USAGE, ANCHORS)
    bars = [bar for bar in drawn.figure.axes[0].patches if isinstance(bar, Rectangle)]
    np.testing.assert_allclose([bar.get_height() for bar in bars], [60, 10, 30, 0])
    index = torch.tensor([2, 3, 0, 1]).view(4, 1, 1)
    shown = panel(grey(4), {"a": quantised(index, ANCHORS.tolist())}).figure.axes[4:8]
    colours = [axes.images[-1].to_rgba(np.asarray(axes.images[-1].get_array()))[0, 0, :3] for axes in shown]
    np.testing.assert_allclose([to_rgb(bar.get_facecolor()) for bar in bars], colours, atol=0.01)
    assert [text.get_text() for text in drawn.figure.axes[0].get_xticklabels()] == [
        "\u22120.10",
        "0.20",
        "0.50",
        "0.90",
    ]


def test_anchors_without_a_cell_are_crossed_out_and_counted():
    drawn = anchor_usage(USAGE, ANCHORS)
    [crosses] = drawn.figure.axes[0].get_lines()
    assert points(crosses)[:, 0].tolist() == [3]  # the fourth by value
    assert drawn.account["dead"] == [1]  # the second as given
    assert drawn.figure.axes[0].get_title(loc="right") == "\u00d7 1 of 4 never used"
    assert not anchor_usage(USAGE + 1, ANCHORS).figure.axes[0].get_lines()


def test_occupancy_is_a_share_of_each_class_and_its_columns_stand_below_their_bars():
    occupancy = torch.tensor([[1, 0, 2, 1], [0, 0, 0, 0]])
    drawn = anchor_usage(USAGE, ANCHORS, occupancy=occupancy, class_names=["cat", "never seen"], template="neurips")
    histogram, heat, bar = drawn.figure.axes
    assert (heat.get_ylabel(), heat.get_xlabel()) == ("class", "anchor value")
    np.testing.assert_allclose(np.asarray(heat.images[0].get_array()), [[50, 25, 25, 0], [0, 0, 0, 0]])
    drawn.figure.draw_without_rendering()
    assert (histogram.get_position().x0, histogram.get_position().x1) == pytest.approx(
        (heat.get_position().x0, heat.get_position().x1)
    )
    assert [text.get_text() for text in heat.get_yticklabels()] == ["cat", "never seen"]
    assert bar.get_ylabel() == "of the class (%)"


def test_points_stand_at_their_rates_with_their_intervals_in_order_of_rate():
    rates = torch.tensor([400.0, 4.0, 40.0])
    accuracies = torch.tensor([[0.9, 0.85, 0.92], [0.5, 0.4, 0.7], [0.8, 0.75, 0.9]])
    drawn = rate_accuracy({"ours": (rates, accuracies), "theirs": (rates[:1], accuracies[:1])})
    axes = drawn.figure.axes[0]
    [line] = [one for one in axes.get_lines() if len(points(one)) == 3]
    np.testing.assert_allclose(points(line), [[4, 0.5], [40, 0.8], [400, 0.9]], rtol=1e-6)
    intervals = next(one.get_segments() for one in axes.collections if isinstance(one, LineCollection))
    np.testing.assert_allclose(
        [segment[:, 1] for segment in intervals], [[0.4, 0.7], [0.75, 0.9], [0.85, 0.92]], rtol=1e-6
    )
    assert axes.get_xscale() == "log"
    drawn.figure.draw_without_rendering()
    assert {text.get_text() for text in axes.get_xticklabels()} >= {"10", "100"}
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == ["ours", "theirs"]
    assert rate_accuracy({"ours": (rates[1:], accuracies[1:])}).figure.axes[0].get_xscale() == "linear"


CELLS = [["uniform", "0.00"], ["Attention", "0.41"], ["a $x$ <b>", "0.5"]]


def test_a_table_has_its_cells_in_place_and_its_controls_last_in_grey():
    drawn = table(["method", "SRG"], CELLS, controls=[0])
    texts = drawn.figure.texts
    assert [text.get_text() for text in texts] == [
        "method",
        "SRG",
        "Attention",
        "0.41",
        "a $x$ <b>",
        "0.5",
        "uniform",
        "0.00",
    ]
    drawn.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    assert len({round(box.x0) for box in boxes[::2]}) == 1  # names begin together
    assert np.ptp([box.x1 for box in boxes[1::2]]) < 1.5  # numbers end together
    assert [box.y0 for box in boxes[::2]] == sorted((box.y0 for box in boxes[::2]), reverse=True)
    assert to_rgb(texts[-1].get_color()) != to_rgb(texts[2].get_color())
    inside = drawn.figure.bbox
    assert all(box.x0 >= 0 and box.x1 <= inside.x1 and box.y0 >= 0 and box.y1 <= inside.y1 for box in boxes)


def test_a_table_wider_than_its_page_is_set_smaller():
    wide = table([f"a long header {n}" for n in range(12)], [["x"] * 12], template="cvpr")
    assert wide.account["points"] < 8
    assert wide.figure.get_figwidth() <= 6.875 + 1e-6
    assert table(["a"], [["b"]]).account["points"] == 8


def empty(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: anchor_usage(USAGE, ANCHORS[:3]), "counts 4 anchors, but 3 are given"),
        (lambda: anchor_usage(-USAGE, ANCHORS), "usage counts cells, zero or more"),
        (lambda: anchor_usage(empty(0), empty(0)), "usage is empty"),
        (lambda: anchor_usage(USAGE, ANCHORS, occupancy=torch.ones(2, 3)), "4 columns; got .2, 3."),
        (lambda: anchor_usage(USAGE, ANCHORS, occupancy=torch.ones(2, 4), class_names=["a"]), "each of 1 class names"),
        (lambda: rate_accuracy({}), "at least one network"),
        (lambda: rate_accuracy({"a": (empty(2), empty(1, 3))}), r"got \(2,\) and \(1, 3\)"),
        (lambda: rate_accuracy({"a": (empty(1), torch.tensor([[0.5, 0.6, 0.7]]))}), "low <= value <= high"),
        (lambda: table(["a"], [["b", "c"]]), r"as its header, 1; got \[2\]"),
        (lambda: table(["a"], []), "a table needs rows"),
        (lambda: table(["a"], [["b"]], controls=[1]), "unknown row of controls '1'; known: 0"),
    ],
)
def test_numbers_that_cannot_be_drawn_are_named(draw, says):
    with pytest.raises(InputError, match=says):
        draw()
