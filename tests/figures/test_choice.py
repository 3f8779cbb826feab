"""The rule by which a figure's images were chosen gives the same images again."""

import pytest

from ibviz.errors import InputError
from ibviz.figures import by_class, by_list, by_quantile, by_seed, panel
from tests.figures.drawn import grey

NAN = float("nan")


def test_a_seed_draws_each_image_at_most_once_and_the_same_ones_again():
    chosen = by_seed(50, 6, seed=3)
    assert chosen == by_seed(50, 6, seed=3)
    assert chosen != by_seed(50, 6, seed=4)
    assert len(set(chosen.images)) == 6
    assert set(chosen.images) <= set(range(50))
    assert chosen.account() == {"by": "seed", "seed": 3, "of": 50, "images": chosen.images}


def test_every_image_is_drawn_about_equally_often():
    drawn = [image for seed in range(400) for image in by_seed(8, 2, seed=seed).images]
    counts = [drawn.count(image) for image in range(8)]
    assert min(counts) > 70  # of 100; three deviations are 27
    assert max(counts) < 130


def test_quantiles_of_a_metric_are_the_best_the_median_and_the_worst():
    values = [0.3, 0.9, NAN, 0.1, 0.5, 0.7]
    chosen = by_quantile(values, metric="srg")
    assert chosen.images == [1, 4, 3]
    assert chosen.rule["values"] == [0.9, 0.5, 0.1]
    assert (chosen.rule["of"], chosen.rule["eligible"]) == (6, 5)
    assert by_quantile(values, metric="deletion_auc", lower_is_better=True).images == [3, 4, 1]


def test_several_images_about_a_quantile_are_its_nearest_ranks_and_none_comes_twice():
    values = [float(n) for n in range(9)]
    assert by_quantile(values, ["best", "worst"], metric="m", each=2).images == [8, 7, 0, 1]
    assert by_quantile(values, [0.5], metric="m", each=3).images == [4, 3, 5]
    assert by_quantile(values, [0.5, 0.51], metric="m").images == [4, 5]
    assert by_quantile([1.0, 1.0, 1.0], metric="m").images == [2, 1, 0]


def test_the_choice_is_in_the_sidecar():
    chosen = by_list(9, [4, 2])
    assert panel(grey(2), {}, record={"chosen": chosen.account()}).account["record"]["chosen"]["images"] == [4, 2]


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (lambda: by_seed(3, 4), "asked for 4 of 3 images"),
        (lambda: by_seed(3, 0), "asked for 0 of 3 images"),
        (lambda: by_list(3, [0, 3]), "numbered from 0 to 2"),
        (lambda: by_list(3, []), "at least one is needed"),
        (lambda: by_quantile([1.0, NAN, NAN], metric="srg"), "got 1 of 3 images"),
        (lambda: by_quantile([1.0, 2.0, 3.0], ["top"], metric="srg"), "best, median, worst"),
        (lambda: by_quantile([1.0, 2.0, 3.0], [1.5], metric="srg"), "numbers from 0 to 1"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(choose, says):
    with pytest.raises(InputError, match=says):
        choose()


def test_images_are_spread_over_the_classes_and_those_without_a_class_come_last():
    labels = [0] * 20 + [1] * 3 + [2] + [-1] * 5
    for seed in range(20):
        few = by_class(labels, 3, seed=seed).images
        assert sorted(labels[image] for image in few) == [0, 1, 2]
        more = [labels[image] for image in by_class(labels, 7, seed=seed).images]
        assert (more.count(0), more.count(1), more.count(2), more.count(-1)) == (3, 3, 1, 0)
    assert len({tuple(by_class(labels, 3, seed=seed).images) for seed in range(20)}) > 10
    assert by_class(labels, 29).images == list(range(29))
    assert by_class(labels, 25).account()["by"] == "spread over classes"
    with pytest.raises(InputError, match="asked for 30 of 29 images"):
        by_class(labels, 30)
