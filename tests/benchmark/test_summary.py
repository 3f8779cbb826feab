import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from results import write_results
from scipy import stats

from ibviz.benchmark.results import read_results
from ibviz.benchmark.summary import AGREEMENT, ALL_IMAGES, LINES, summarise
from ibviz.errors import InputError
from ibviz.statistics import estimate, estimates, holm, krippendorff_alpha, sign_flip

CONTROLS = ("uniform", "centre")


def rows(values: dict[tuple[str, str], Any], **columns: Any) -> Any:
    """Rows of an evaluation in memory: values of images by metric and method; `columns` hold one entry an image."""
    found = [
        {
            "image": image,
            "method": method,
            "control": method in CONTROLS,
            "native": False,
            "grid": "4 x 4",
            "protocol": "0123",
            "metric": metric,
            "value": value,
            "tie_sd": 0.25,
            "label": None,
            "correct": None,
            "f_baseline": 0.1,
            "random_order": 0.4,
            "tie_fraction": 0.5,
        }
        | {name: column[image] for name, column in columns.items()}
        for (metric, method), column in values.items()
        for image, value in enumerate(column)
    ]
    return pd.DataFrame(found)


def drawn(*methods: str, metric: str = "srg", n: int = 40, gap: float = 0.5) -> dict[tuple[str, str], Any]:
    """Each method is better than the next by `gap` deviations of their difference."""
    generator = np.random.default_rng(0)
    image = generator.normal(size=n)
    return {(metric, name): image + generator.normal(size=n) - gap * i for i, name in enumerate(methods)}


def of(found: Any, **fixed: Any) -> Any:
    """The only line of these values."""
    kept = found
    for name, value in ({"stratum": ALL_IMAGES, "models": 1, "native": False} | fixed).items():
        kept = kept[kept[name] == value]
    assert len(kept) == 1
    return kept.iloc[0]


def test_rows_of_an_evaluation_in_memory_are_completed():
    found = summarise(rows(drawn("one", "centre"))).lines
    assert tuple(found.columns) == LINES
    assert found["method"].tolist() == ["one", "centre"]
    line = of(found, method="one")
    assert (line["model"], line["protocol"], line["hash"], line["control"]) == ("unnamed", "default", "0123", False)
    facts = line[["tie_sd", "tie_fraction", "f_baseline", "random_order"]].tolist()
    assert facts == pytest.approx([0.25, 0.5, 0.1, 0.4])
    assert math.isnan(line["macro"])


def test_lines_hold_the_estimates_of_each_column_with_gaps():
    values = drawn("one", "two", "centre") | drawn("one", "centre", metric="deletion")
    values["srg", "two"][::9] = math.nan
    found = summarise(rows(values)).lines
    for (metric, method), column in values.items():
        line, direct = of(found, metric=metric, method=method), estimates(column[:, None])
        assert line[list(direct._fields)].tolist() == pytest.approx([one[0] for one in direct])
    assert of(found, metric="srg", method="two")["excluded"] == 5


def test_images_of_a_method_that_failed_are_excluded():
    values = drawn("one", "two", "centre")
    whole = rows(values)
    found = summarise(whole[(whole["method"] != "two") | (whole["image"] >= 10)]).lines
    assert of(found, method="two")[["n", "excluded"]].tolist() == [30, 10]
    both = np.stack([values["srg", "two"], values["srg", "centre"]], axis=1)[10:]
    assert of(found, method="two")["difference"] == pytest.approx((both[:, 0] - both[:, 1]).mean())


@pytest.mark.parametrize(("metric", "sign"), [("srg", 1), ("deletion", -1)])
def test_methods_are_ranked_and_held_against_the_best_control(metric, sign):
    order = ["one", "two", "centre", "three", "uniform"]
    values = drawn(*order, metric=metric, n=14, gap=0.9)
    values = {key: sign * column for key, column in values.items()}
    found = summarise(rows(values)).lines
    columns = np.stack([sign * values[metric, name] for name in order], axis=1)
    pairs = np.triu_indices(5, 1)
    p = np.full((5, 5), math.nan)
    p[pairs] = p[pairs[::-1]] = holm(sign_flip(columns).p[pairs])
    means = columns.mean(0)
    for i, name in enumerate(order):
        line = of(found, method=name)
        assert line["rank"] == 1 + sum(means[j] > means[i] and p[i, j] <= 0.05 for j in range(5) if j != i)
        if name not in CONTROLS:
            difference = columns[:, i] - columns[:, 2]
            assert line["best_control"] == "centre"
            assert line["p"] == p[i, 2]
            assert line["difference"] == pytest.approx(difference.mean())
            low, high = stats.bootstrap(
                (difference,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
            ).confidence_interval
            assert (line["difference_low"], line["difference_high"]) == pytest.approx((low, high))
            assert line["standardised"] == pytest.approx(difference.mean() / difference.std(ddof=1))
    verdicts = {name: of(found, method=name)["verdict"] for name in order}
    assert verdicts["one"] == "better than centre"
    assert verdicts["two"] == "not separated from centre"
    assert verdicts["three"] == "worse than centre"
    assert all(pd.isna(verdicts[name]) for name in CONTROLS)


def test_a_method_can_be_worse_than_the_best_control():
    found = summarise(rows(drawn("centre", "one", gap=3.0))).lines
    assert of(found, method="one")["verdict"] == "worse than centre"
    assert of(found, method="one")["rank"] == 2


def test_without_controls_there_is_no_verdict():
    found = summarise(rows(drawn("one", "two", gap=0.01))).lines
    assert pd.isna(found["verdict"].tolist()).tolist() == [True, True]
    assert found["rank"].tolist() == [1, 1]


def test_strata_are_of_the_images_they_name():
    values = drawn("one", "centre", n=30)
    share, correct = np.linspace(0.01, 0.3, 30), [None, True, False] * 10
    found = summarise(rows(values, object_share=share, correct=correct)).lines
    column = values["srg", "one"]
    expected = {
        "correct": column[1::3],
        "incorrect": column[2::3],
        "small objects: up to 11%": column[:10],
        "medium objects: up to 20%": column[10:20],
        "large objects: above 20%": column[20:],
    }
    assert list(found["stratum"].unique()) == [ALL_IMAGES, *expected]
    for stratum, images in expected.items():
        line = of(found, method="one", stratum=stratum)
        assert line["mean"] == pytest.approx(images.mean())
        assert line["n"] == 10
        assert pd.isna(line["rank"])


def test_strata_that_hold_all_images_or_none_are_left_out():
    found = summarise(rows(drawn("one", "centre"), object_share=[0.2] * 40, correct=[True] * 40)).lines
    assert found["stratum"].unique().tolist() == [ALL_IMAGES]


def test_the_macro_mean_weighs_classes_alike():
    values = {("pointing_game", "one"): [1, 1, 1, 0, math.nan, 1], ("pointing_game", "centre"): [0] * 6}
    found = summarise(rows(values, label=[0, 0, 0, 1, 1, None])).lines
    assert of(found, method="one")["macro"] == 0.5
    assert of(found, method="one")["mean"] == 0.8


def test_each_methods_own_grid_is_not_ranked():
    common = rows(drawn("one", "two", "centre"))
    found = summarise(pd.concat([common, common[common["method"] == "one"].assign(native=True)])).lines
    own = of(found, native=True)
    assert own["method"] == "one"
    assert pd.isna(own[["rank", "p", "best_control"]].tolist()).tolist() == [True] * 3
    assert own["mean"] == pytest.approx(of(found, method="one")["mean"])


def trained(*models: str, apart: float = 0.05) -> Any:
    """The same images by several trainings, whose methods are all a little better or worse together."""
    values = drawn("one", "two", "centre", gap=1.0)
    generator = np.random.default_rng(1)
    moved = (
        {key: column + apart * generator.normal() + 0.1 * generator.normal(size=40) for key, column in values.items()}
        for _ in models
    )
    return [rows(one).assign(model=model) for model, one in zip(models, moved, strict=True)]


def test_trainings_of_one_recipe_have_a_line_each_and_one_together():
    parts = trained("a", "b", "other")
    parts[1].loc[0, "value"] = math.nan  # image 0 of "one"
    found = summarise(pd.concat(parts), {"a": "x", "b": "x", "other": "y"}).lines
    together = of(found, models=2, method="one")
    assert together["model"] == "mean of 2 trainings: a, b"
    both = [part[part["method"] == "one"]["value"].to_numpy()[1:] for part in parts[:2]]
    assert together["mean"] == pytest.approx(np.mean(both))
    assert together[["n", "excluded"]].tolist() == [39, 1]
    direct = estimates(np.stack(both, axis=1)[:, :, None])
    assert together[["low", "high"]].tolist() == pytest.approx([direct.low[0], direct.high[0]])


def test_models_whose_recipe_is_unknown_or_another_are_not_averaged():
    parts = pd.concat(trained("a", "b", "c"))
    for recipes in (None, {"a": "x", "b": "y"}):
        assert summarise(parts, recipes).lines["models"].tolist() == [1] * 9


def test_ranks_and_verdicts_hold_over_trainings():
    """What differs from training to training is no finding, however many images see it."""
    found = summarise(pd.concat(trained("a", "b", "c")), dict.fromkeys("abc", "x")).lines
    assert of(found, models=3, method="one")["verdict"] == "better than centre"
    assert of(found, models=3, method="one")[["rank", "best_control"]].tolist() == [1, "centre"]
    apart = summarise(pd.concat(trained("a", "b", "c", apart=4.0)), dict.fromkeys("abc", "x")).lines
    assert of(apart, model="a", method="one")["p"] < 0.05
    assert of(apart, models=3, method="one")["verdict"] == "not separated from centre"


def test_clusters_of_images_are_counted_in_all_lines():
    values = drawn("one", "centre", n=40)
    cluster = [f"patient {image // 5}" for image in range(40)]
    found = summarise(rows(values, cluster=cluster)).lines
    line, direct = of(found, method="one"), estimate(values["srg", "one"].tolist(), clusters=cluster)
    assert line[["mean", "low", "high"]].tolist() == pytest.approx(list(direct[:3]))
    assert line[["clusters", "largest_cluster"]].tolist() == [8, 0.125]
    assert math.isnan(line["bca_low"])
    difference = (values["srg", "one"] - values["srg", "centre"]).reshape(8, 5).sum(1)
    exact = stats.permutation_test((difference,), np.sum, permutation_type="samples", n_resamples=256).pvalue
    assert line["p"] == pytest.approx(exact)


def test_a_cluster_for_some_images_only_is_one_clear_error():
    cluster = ["a"] * 30 + [None] * 10
    with pytest.raises(InputError, match="10 of 40 images have no cluster; name one for each or for none"):
        summarise(rows(drawn("one", "centre"), cluster=cluster))


def test_agreement_is_counted_over_methods_without_controls():
    names = ("one", "two", "three", "four", "centre")
    values = drawn(*names) | drawn(*names[::-1], metric="deletion", gap=0.2) | drawn(*names, metric="insertion", gap=0)
    found: Any = summarise(rows(values)).agreement
    assert tuple(found.columns) == AGREEMENT
    means = {
        m: np.array([s * values[m, name].mean() for name in names[:4]])
        for m, s in {"srg": 1, "deletion": -1, "insertion": 1}.items()
    }
    assert found["judges"].tolist()[:4] == ["SRG, Deletion", "SRG, Insertion", "Deletion, Insertion", "all 3"]
    for line, (a, b) in zip(
        found.iloc[:3].itertuples(), [("srg", "deletion"), ("srg", "insertion"), ("deletion", "insertion")], strict=True
    ):
        assert line.kendall == pytest.approx(stats.kendalltau(means[a], means[b])[0])
        assert line.spearman == pytest.approx(stats.spearmanr(means[a], means[b])[0])
    ratings = np.stack([stats.rankdata(one) for one in means.values()])
    assert found["alpha"][3] == pytest.approx(krippendorff_alpha(ratings))
    images = np.stack([values["srg", name] for name in names[:4]], axis=1)
    by_image = found.set_index("judges")["alpha"]["images by SRG"]
    assert by_image == pytest.approx(krippendorff_alpha(stats.rankdata(images, axis=1)))
    assert found["units"].tolist() == [4] * len(found)


def test_protocols_are_judges_too():
    part = rows(drawn("one", "two", "three")).assign(hash="h", protocol="default")
    reversed_ = part.assign(value=-part["value"], protocol="rise")
    found: Any = summarise(pd.concat([part, reversed_])).agreement
    line = found[found["judges"] == "default by SRG, rise by SRG"].iloc[0]
    assert line[["kendall", "spearman"]].tolist() == [-1, -1]
    assert line["protocol"] == "all"


def test_the_order_of_rows_changes_nothing(tmp_path):
    rows = read_results(write_results(tmp_path, models=("a", "b"))).rows
    keys = ["model", "native", "stratum", "metric", "method"]
    once, again = (
        summarise(one).lines.sort_values(keys, ignore_index=True)
        for one in (rows, rows.sort_values(["image", "metric"], kind="stable"))
    )
    pd.testing.assert_frame_equal(once, again)


def test_rows_that_cannot_be_counted_are_one_clear_error():
    good = rows(drawn("one", "centre"))
    with pytest.raises(InputError, match="image 3 has two rows for one by srg; expected one"):
        summarise(pd.concat([good, good[3:4]]))
    with pytest.raises(InputError, match=r"unknown metric 'sgr'; known: .*, srg, "):
        summarise(good.replace({"metric": {"srg": "sgr"}}))
