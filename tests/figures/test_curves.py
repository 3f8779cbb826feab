"""Curves show the mean, the bootstrap of the mean, and controls apart."""

import numpy as np
import pytest
import torch

from ibviz.errors import InputError
from ibviz.figures import curves, trainings
from ibviz.figures.curves import AXES_HEIGHT, line_styles
from ibviz.figures.settings import TEMPLATES
from ibviz.statistics import bootstrap_interval

STEPS = torch.linspace(0, 1, 6)


def scores(count: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(seed))


def slow_bootstrap(values: np.ndarray) -> np.ndarray:
    """Means of images drawn one by one."""
    random, count = np.random.default_rng(99), len(values)
    means = [values[random.integers(0, count, count)].mean(0) for _ in range(20_000)]
    return np.percentile(means, (2.5, 97.5), axis=0)


def test_the_band_is_the_percentile_bootstrap_of_the_mean():
    values = scores(30).double().numpy()
    np.testing.assert_allclose(bootstrap_interval(values), slow_bootstrap(values), atol=0.015)
    np.testing.assert_array_equal(bootstrap_interval(values), bootstrap_interval(values))


def test_one_image_has_a_band_without_width():
    low, high = bootstrap_interval(np.array([[0.1, 0.7]]))
    np.testing.assert_allclose(low, high)


def test_the_line_is_the_mean_over_images_between_the_edges_of_the_band():
    drawn = curves({"deletion": {"cam": (STEPS, scores())}})
    axes = drawn.figure.axes[0]
    np.testing.assert_allclose(np.asarray(axes.get_lines()[0].get_ydata(), dtype=float), scores().double().mean(0))
    edge = axes.collections[0].get_paths()[0].vertices
    low, high = bootstrap_interval(scores().double().numpy())
    assert {round(float(y), 6) for y in np.asarray(edge)[:, 1]} == {round(float(y), 6) for y in (*low, *high)}


def test_images_with_their_own_fractions_are_brought_to_common_points():
    fractions = torch.tensor([[0.0, 0.2, 1.0], [0.0, 0.6, 1.0]])
    line = curves({"deletion": {"cam": (fractions, 1 - fractions)}}).figure.axes[0].get_lines()[0]
    x, y = (np.asarray(part, dtype=float) for part in line.get_data())
    np.testing.assert_allclose(y, 1 - x, atol=1e-6)


def test_controls_are_grey_and_dashed_and_one_name_looks_the_same_on_both_sides():
    given = {name: (STEPS, scores(seed=n)) for n, name in enumerate(["random", "cam", "ours"])}
    drawn = curves({"deletion": given, "insertion": dict(reversed(given.items()))}, controls=["random"])
    for axes in drawn.figure.axes:
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert lines["random"].get_color() == "#555555"
        assert lines["random"].get_linestyle() == "--"
        assert (lines["cam"].get_color(), lines["ours"].get_color()) == ("#0072B2", "#D55E00")
        assert lines["cam"].get_linestyle() == "-"


@pytest.mark.parametrize("template", ["ijcai", "cvpr column", "slides"])
@pytest.mark.parametrize("count", [8, 20])
def test_the_legend_covers_no_curve_and_every_name_is_on_the_page(template, count):
    given = {f"method {number} of some length": (STEPS, scores(1)) for number in range(count)}
    figure = curves({"deletion": given, "insertion": given}, template=template).figure
    figure.draw_without_rendering()
    legend = figure.legends[0]
    taken = [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
    assert len(taken) == 2
    assert not any(legend.get_window_extent().overlaps(box) for box in taken)
    names = [text.get_window_extent() for text in legend.get_texts()]
    assert len(names) == count
    assert all(figure.bbox.x0 <= one.x0 and one.x1 <= figure.bbox.x1 for one in names)
    assert all(figure.bbox.y0 <= one.y0 and one.y1 <= figure.bbox.y1 for one in names)
    assert all(
        axes.get_window_extent().height > 0.55 * AXES_HEIGHT * TEMPLATES[template].unit * figure.dpi
        for axes in figure.axes
    )


def test_controls_are_thin_marked_apart_and_without_bands_by_default():
    names = [f"control {number}" for number in range(6)]
    given = {name: (STEPS, scores()) for name in [*names, "cam"]}
    axes = curves({"deletion": given}, controls=names).figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    styles = {(lines[name].get_marker(), lines[name].get_linestyle()) for name in names}
    assert len(styles) == 6
    assert max(lines[name].get_linewidth() for name in names) < lines["cam"].get_linewidth()
    assert len(axes.collections) == 1


@pytest.mark.parametrize(("methods", "controls", "bands"), [(5, 3, 8), (5, 4, 5), (8, 1, 8), (9, 0, 0), (9, 1, 0)])
def test_bands_that_would_hide_one_another_are_left_out_first_of_controls(methods, controls, bands):
    names = [*(f"control {number}" for number in range(controls)), *(f"method {number}" for number in range(methods))]
    drawn = curves(
        {"deletion": {name: (STEPS, scores()) for name in names}}, controls=names[:controls], control_bands=True
    )
    assert len(drawn.figure.axes[0].collections) == len(drawn.account["bands"]["of"]) == bands
    assert bands > methods or not any("control" in name for name in drawn.account["bands"]["of"])


@pytest.mark.parametrize(("shift", "low", "high"), [(2.0, 0.0, 3.0), (-2.0, -2.0, 0.0), (-0.5, -0.5, 0.5)])
def test_the_axis_of_scores_holds_zero_from_which_areas_are_measured(shift, low, high):
    drawn = curves({"deletion": {"cam": (STEPS, torch.rand(1, 6) * 0.1 + shift + 0.45)}})
    bottom, top = drawn.figure.axes[0].get_ylim()
    assert bottom <= 0 <= top
    assert low <= bottom
    assert top <= high
    assert bottom == 0 or shift < 0


def test_every_method_of_a_long_list_has_its_own_line():
    styles = line_styles([f"method {number}" for number in range(28)], [])
    assert len({(one["color"], str(one["linestyle"])) for one in styles.values()}) == 28


def test_the_account_says_what_was_drawn_and_the_file_is_the_same_each_time(tmp_path):
    for name in ("one.png", "two.png"):
        drawn = curves({"deletion": {"cam": (STEPS, scores())}}, score="logit", record={"suite": "digits"})
        drawn.save(tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert drawn.account["sides"] == {"deletion": {"cam": {"images": 12, "points": 6}}}
    assert drawn.account["bands"] == {"interval": [2.5, 97.5], "resamples": 2000, "seed": 0, "of": ["cam"]}
    assert drawn.account["record"] == {"suite": "digits"}


@pytest.mark.parametrize(
    ("sides", "controls", "says"),
    [
        ({}, [], "at least one curve"),
        ({"deletion": {}}, [], r"at least one curve; got {'deletion': \[\]}"),
        ({"deletion": {"cam": (STEPS, scores())}}, ["noise"], "unknown control 'noise'; known: cam"),
        (
            {"deletion": {"cam": (STEPS[:4], scores())}},
            [],
            r"deletion of 'cam' .* got \(12, 6\) and \(4,\)",
        ),
        ({"deletion": {"cam": (STEPS.flip(0), scores())}}, [], "ascending fractions"),
        ({"deletion": {"cam": (STEPS, scores() * float("nan"))}}, [], "finite scores"),
    ],
)
def test_curves_that_cannot_be_drawn_are_named(sides, controls, says):
    with pytest.raises(InputError, match=says):
        curves(sides, controls=controls)


def test_the_figure_of_trainings_says_where_their_mean_has_no_interval_and_its_legend_takes_two_columns():
    single = {"attention": torch.tensor([[0.4, 0.3, 0.5], [0.5, 0.4, 0.6], [0.6, 0.5, 0.7]])}
    controls = {name: torch.tensor([0.1, 0.0, 0.2]) for name in ("uniform", "centre", "edges", "random cells")}
    for interval, says in ((0.2, "all trainings and images"), (float("nan"), "all trainings, no interval")):
        mean = torch.tensor([0.5, 0.5 - interval, 0.5 + interval])
        drawn = trainings(single, {"attention": mean}, controls=controls, template="ijcai column")
        [legend] = drawn.figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [says, "a training, over images", *controls]
        drawn.figure.draw_without_rendering()
        lefts = {round(text.get_window_extent().x0) for text in legend.get_texts()}
        assert len(lefts) == 2
