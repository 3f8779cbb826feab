import pandas as pd
import pytest
import torch
from networks import bottlenecked, quadrants
from PIL import Image
from torch.testing import assert_close

from ibviz.attribution.methods import values
from ibviz.benchmark import judging
from ibviz.benchmark.batch import Batch
from ibviz.benchmark.class_match import match_classes
from ibviz.benchmark.config import ProtocolConfig, SuiteConfig
from ibviz.benchmark.evaluation import card_of, evaluate
from ibviz.benchmark.judging import Rules, judge
from ibviz.benchmark.runner.maps import Network, ReadImages, batch_for
from ibviz.benchmark.setup import comparison_grid
from ibviz.benchmark.suite import protocols_of
from ibviz.data.image_set import ImageSet
from ibviz.data.objects import annotate
from ibviz.errors import InputError
from ibviz.figures import curves
from ibviz.files import read_rows
from ibviz.metrics import (
    CurveProtocol,
    Targets,
    average_drop,
    faithfulness,
    metric,
    planned_states,
    pointing_game,
    preset,
    random_order_area,
    scorer,
)
from ibviz.types import AttentionMap


def planted(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bright quadrant k in image k; its class; its mask."""
    masks = torch.zeros(count, 16, 16, dtype=torch.bool)
    for k in range(count):
        masks[k, 8 * (k // 2) :, 8 * (k % 2) :][:8, :8] = True
    images = 0.1 * torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return images + 0.9 * masks[:, None], torch.arange(count), masks


@pytest.fixture
def evaluation():
    images, labels, masks = planted()
    exact = masks[:, ::4, ::4].float()
    return evaluate(quadrants(), images, {"exact": exact, "wrong": 1 - exact}, labels=labels, masks=masks)


def mean(evaluation, method: str, metric: str) -> float:
    found = [row["value"] for row in evaluation.rows if (row["method"], row["metric"]) == (method, metric)]
    return sum(found) / len(found)


def test_the_planted_map_wins_and_its_negation_loses(evaluation):
    assert mean(evaluation, "exact", "pointing_game") == 1
    assert mean(evaluation, "wrong", "pointing_game") < 0.25
    assert mean(evaluation, "exact", "srg") == pytest.approx(-mean(evaluation, "wrong", "srg"), abs=1e-6)
    assert mean(evaluation, "exact", "srg") > 0.05
    assert mean(evaluation, "uniform", "srg") == pytest.approx(0, abs=1e-6)


def test_rows_are_those_of_the_metrics_called_directly(evaluation):
    images, labels, masks = planted()
    maps, model = masks[:, ::4, ::4].float(), quadrants()
    protocol = CurveProtocol(colour=(0, 0, 0), grid=(4, 4))
    direct = faithfulness(scorer(model, labels), images, maps, protocol=protocol)
    rows = [row for row in evaluation.rows if row["method"] == "exact"]
    assert [row["value"] for row in rows if row["metric"] == "deletion"] == direct.deletion_auc.tolist()
    assert [row["value"] for row in rows if row["metric"] == "pointing_game"] == pointing_game(maps, masks).hit.tolist()
    assert {row["hash"] for row in evaluation.rows} == {evaluation.card.hash}
    assert evaluation.protocol.hash == protocol.hash
    assert all(row["correct"] for row in evaluation.rows)


def test_controls_are_always_there_and_marked(evaluation):
    controls = {row["method"] for row in evaluation.rows if row["control"]}
    assert controls == {"uniform", "centre", "random cells", "random pixels", "edges", "other image"}
    assert values(evaluation.maps["random cells"]).shape[1:] == evaluation.protocol.grid


def test_boxes_stand_for_masks():
    images, labels, masks = planted()
    boxes = torch.tensor([[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]]).float()
    maps = {"m": torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(3))}
    by_box = evaluate(quadrants(), images, maps, labels=labels, boxes=boxes)
    by_mask = evaluate(quadrants(), images, maps, labels=labels, masks=masks)
    assert by_box.rows == by_mask.rows


def test_clusters_are_on_every_row_and_in_the_table():
    images, labels, masks = planted()
    maps, names = {"m": torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(3))}, ["p", "q", "q", "r"]
    found = evaluate(quadrants(), images, maps, labels=labels, masks=masks, clusters=names)
    assert {(row["image"], row["cluster"]) for row in found.rows} == set(enumerate(names))
    assert "Means with 95 % intervals over 4 images in 3 clusters." in found.table(short=True)
    with pytest.raises(InputError, match="clusters name the cluster of each image: expected 4 names, got 3"):
        evaluate(quadrants(), images, maps, clusters=names[:3])


def test_the_grid_is_that_of_the_attention_else_the_coarsest():
    fine, coarse = torch.rand(1, 8, 8), torch.rand(1, 2, 2)
    trained = AttentionMap(torch.rand(1, 4, 4), torch.rand(1, 4, 4), None, None)
    assert comparison_grid({"fine": fine, "coarse": coarse}) == (2, 2)
    assert comparison_grid({"fine": fine, "coarse": coarse, "attention": trained}) == (4, 4)


def test_maps_of_another_grid_are_judged_on_it_as_well_and_shown_apart():
    images, labels, masks = planted()
    maps = {"coarse": torch.rand(4, 4, 4), "fine": torch.rand(4, 16, 16), "finest": torch.rand(4, 32, 32)}
    found = evaluate(quadrants(), images, maps, labels=labels, masks=masks)
    native = [row for row in found.rows if row["native"]]
    assert {(row["method"], row["grid"]) for row in native} == {("fine", "16 x 16")}
    direct = faithfulness(scorer(quadrants(), labels), images, maps["fine"], protocol=CurveProtocol(colour=(0, 0, 0)))
    assert [row["value"] for row in native if row["metric"] == "srg"] == pytest.approx(direct.srg.tolist(), abs=1e-6)
    assert {row["hash"] for row in native}.isdisjoint(row["hash"] for row in found.rows if not row["native"])
    table, own = found.table().split("do not compare across grids")
    assert "finest" in table
    assert "fine " in own
    assert "coarse" not in own


def test_the_area_of_a_random_order_stands_beside_the_numbers():
    images, labels, masks = planted()
    maps = {"m": masks[:, ::4, ::4].float()}
    for ties in ("expected", "group"):
        protocol = CurveProtocol(colour=(0, 0, 0), grid=(4, 4), ties=ties)
        found = evaluate(quadrants(), images, maps, labels=labels, protocol=protocol)
        direct = random_order_area(scorer(quadrants(), labels), images, (4, 4), protocol=protocol)
        rows = [row["random_order"] for row in found.rows if row["method"] == "m" and row["metric"] == "srg"]
        assert rows == pytest.approx(direct.tolist(), abs=1e-6)
        assert f"area of a random order {sum(rows) / 4:.3f}" in found.legend()


def test_the_class_and_the_score_are_those_of_the_protocol():
    images, _, _ = planted()
    protocol = CurveProtocol(colour=(0, 0, 0), grid=(4, 4), target="true", score="logit")
    wrong = torch.tensor([1, 0, 3, 2])
    found = evaluate(quadrants(), images, {"m": torch.rand(4, 4, 4)}, labels=wrong, protocol=protocol)
    assert [row["target"] for row in found.rows if row["method"] == "m" and row["metric"] == "srg"] == wrong.tolist()
    logits = quadrants()(images).gather(1, wrong[:, None]).squeeze(1)
    assert [row["f_image"] for row in found.rows[:4]] == pytest.approx(logits.tolist(), abs=1e-5)
    assert "logit of the true class" in found.legend()
    with pytest.raises(InputError, match="needs the label of every image"):
        evaluate(quadrants(), images, {"m": torch.rand(4, 4, 4)}, protocol=protocol)


@pytest.mark.parametrize("rule", ["true", "contrast"])
def test_named_classes_take_the_place_of_those_of_the_protocol_and_are_said_to_be_given(rule):
    images, _, _ = planted()
    named, maps = torch.tensor([2, 3, 0, 1]), {"m": torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(0))}
    protocol = CurveProtocol(colour=(0, 0, 0), grid=(4, 4), target=rule)
    found = evaluate(quadrants(), images, maps, targets=named, protocol=protocol)
    direct = faithfulness(scorer(quadrants(), named), images, maps["m"], protocol=protocol)
    rows = [row for row in found.rows if (row["method"], row["metric"]) == ("m", "srg")]
    assert [row["value"] for row in rows] == pytest.approx(direct.srg.tolist(), abs=1e-6)
    assert [row["target"] for row in rows] == named.tolist()
    assert found.protocol == protocol.model_copy(update={"target": "given"})
    assert "probability of the given class" in found.legend()


@pytest.mark.parametrize(("rule", "named"), [("predicted", True), ("true", False), ("runner_up", False)])
def test_right_is_what_the_network_says_whatever_it_is_judged_by(rule, named):
    images, labels, _ = planted()
    labels[1], maps = 3, {"m": torch.rand(4, 4, 4)}
    protocol = CurveProtocol(colour=(0, 0, 0), grid=(4, 4), target=rule)
    targets = labels if named else None
    rows = evaluate(quadrants(), images, maps, targets=targets, labels=labels, protocol=protocol).rows
    assert {row["image"]: row["correct"] for row in rows} == {0: True, 1: False, 2: True, 3: True}


def test_the_grid_of_a_comparison_is_for_cells_alone_in_suites_as_well():
    images, _, _ = planted()
    rise = preset("rise", (16, 16), (0.0, 0.0, 0.0))
    found = evaluate(quadrants(), images, {"m": torch.rand(4, 4, 4)}, protocol=rise)
    assert found.protocol == rise
    assert values(found.maps["random cells"]).shape[1:] == (4, 4)
    choices = {"rise": {}, "cells": {"unit": "cell"}, "own": {"unit": "cell", "grid": (2, 2)}}
    named = tuple(ProtocolConfig(preset="rise", label=label, **one) for label, one in choices.items())
    suite = SuiteConfig(protocols=(*named, ProtocolConfig()))
    protocols = protocols_of(suite, quadrants(), (4, 4))
    assert protocols.pop("rise") == rise
    assert {label: one.grid for label, one in protocols.items()} == {
        "cells": (4, 4),
        "own": (2, 2),
        "default": (4, 4),
    }


def judged(maps: dict[str, torch.Tensor], protocol: CurveProtocol, *metrics: str):
    images, labels, _ = planted()
    return judge(quadrants().eval(), Batch(images, Targets(labels), labels), maps, Rules({"p": protocol}, metrics))


def test_random_orders_are_of_the_grid_that_is_asked_for():
    images, labels, _ = planted()
    score, free = scorer(quadrants().eval(), labels), CurveProtocol(colour=(0, 0, 0), orders=2)
    [pixels, cells] = [random_order_area(score, images, grid, protocol=free) for grid in ((16, 16), (4, 4))]
    held = free.model_copy(update={"grid": (2, 2)})
    assert torch.equal(random_order_area(score, images, (4, 4), protocol=held), cells)
    maps = {"m": torch.rand(4, 4, 4), "uniform": torch.ones(4, 1, 1)}
    for protocol, wanted in ((free, pixels), (free.on((4, 4)), cells)):
        found = [one for one in judged(maps, protocol, "deletion") if not one.native]
        assert_close([one.random_order for one in found], [wanted] * 2)


def test_a_drop_is_of_the_probability_whatever_the_curves_are_of_and_is_looked_at_once(monkeypatch):
    images, labels, _ = planted()
    maps, asked = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(0)), []
    direct = average_drop(scorer(quadrants().eval(), labels), images, maps)
    monkeypatch.setattr(metric, "average_drop", lambda *args, **more: asked.append(1) or average_drop(*args, **more))
    for score in ("log_probability", "logit"):
        protocol = CurveProtocol(colour=(0, 0, 0), score=score)
        [found] = judged({"m": maps}, protocol, "average_drop", "confidence_increase")
        assert torch.equal(found.values["average_drop"][0], direct.drop)
        assert torch.equal(found.values["confidence_increase"][0], direct.increase)
    assert len(asked) == 2
    assert float(direct.drop.mean()) > 0


def test_passes_are_stated_before_they_are_made(monkeypatch):
    images, labels, _ = planted()
    stated = []
    monkeypatch.setattr(judging, "progress", lambda items, label, **_: stated.append(label) or items)
    found = evaluate(quadrants(), images, {"m": torch.rand(4, 4, 4), "fine": torch.rand(4, 8, 8)}, labels=labels)
    own = found.protocol.model_copy(update={"grid": None})
    assert found.forward_passes == planned_states(values(found.maps["fine"]), (16, 16), own) + sum(
        planned_states(values(one), (16, 16), found.protocol) for one in found.maps.values()
    )
    assert stated == [f"{found.forward_passes:,} forward passes"]


def test_curves_are_as_the_figure_takes_them(evaluation):
    deletion = faithfulness(
        scorer(quadrants().eval(), planted()[1]), planted()[0], evaluation.maps["exact"], protocol=evaluation.protocol
    ).deletion
    assert torch.equal(evaluation.curves["deletion"]["exact"].scores, deletion.scores)
    drawn = curves(evaluation.curves, controls=evaluation.controls)
    assert list(drawn.account["sides"]) == ["deletion", "insertion"]
    assert list(drawn.account["sides"]["insertion"]) == list(evaluation.maps)


def test_maps_of_other_images_and_names_of_controls_are_refused():
    images, _, masks = planted()
    with pytest.raises(InputError, match="'m' explains 3 images; expected 4"):
        evaluate(quadrants(), images, {"m": masks[:3].float()})
    with pytest.raises(InputError, match="'uniform' is the name of a control"):
        evaluate(quadrants(), images, {"uniform": masks.float()})
    with pytest.raises(InputError, match="nothing to judge"):
        evaluate(quadrants(), images, {})


def test_saved_tables_say_the_same(evaluation, tmp_path):
    evaluation.save(tmp_path)
    rows = read_rows(tmp_path / "rows.parquet")
    assert len(rows) == len(evaluation.rows) == 4 * 4 * 8
    assert rows == evaluation.rows
    assert evaluation.frame()["value"].tolist() == [row["value"] for row in rows]
    table = pd.read_csv(tmp_path / "table.csv").set_index(["stratum", "method", "metric"])
    exact = table.loc["all images", "exact", "pointing_game"]
    assert exact[["mean", "low", "high", "n", "excluded"]].tolist() == [1, 1, 1, 4, 0]
    assert "| *uniform* |" in (tmp_path / "table.md").read_text()
    assert "Protocol " + evaluation.card.hash in evaluation.table()
    assert evaluation.table().startswith(evaluation.table(short=True) + "\n\nMeans with 95 %")


def named(*names: str) -> ImageSet:
    labels = torch.tensor([0, 1, -1])
    return ImageSet(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), labels, names, ("x", "y", "z"))


def test_labels_are_brought_into_the_models_numbering_by_name():
    assert match_classes(named("c", "a"), quadrants()).labels.tolist() == [2, 0, -1]
    assert match_classes(named("a", "b", "c", "d"), quadrants()).labels.tolist() == [0, 1, -1]
    with pytest.raises(InputError, match=r"1 of the data's 5 classes \(e, .*which are 4; they do not belong together"):
        match_classes(named("a", "b", "c", "d", "e"), quadrants())
    with pytest.raises(InputError, match=r"classes \(cat, dog, ...\) are none of the model's \(a, b, c, ...\)"):
        match_classes(named("cat", "dog"), quadrants())


def test_objects_are_those_of_the_labels_of_the_data_not_of_the_model():
    boxes = [(0.0, 0.0, 4.0, 4.0), (8.0, 8.0, 16.0, 12.0), (1.0, 8.0, 3.0, 9.0)]
    objects = annotate(Image.new("RGB", (16, 16)), boxes, [0, 0, 2])
    batch = named("c", "a")._replace(objects=(objects, objects, objects))
    seen = batch_for(Network("m", quadrants(), ""), ReadImages(batch, 0, (), []), "predicted", annotated=True)
    assert seen.labels is not None
    assert seen.labels.tolist() == [2, 0, -1]
    assert seen.regions is not None
    assert seen.regions.flatten(1).sum(1).tolist() == [16 + 32, 0, 0]


def test_an_unknown_label_is_neither_right_nor_wrong():
    images, labels, masks = planted()
    labels[2] = -1
    rows = evaluate(quadrants(), images, {"m": masks[:, ::4, ::4].float()}, labels=labels, masks=masks).rows
    assert {row["image"]: row["correct"] for row in rows} == {0: True, 1: True, 2: None, 3: True}


def test_a_card_knows_its_weights_and_its_data():
    images, labels, _ = planted()
    protocol, judged = CurveProtocol(colour=(0, 0, 0)), Targets(labels)
    one, same, other = bottlenecked(), bottlenecked().to(memory_format=torch.channels_last), bottlenecked()
    with torch.no_grad():
        next(other.parameters())[0] += 1e-6
    first, again, third = (card_of(model, images, judged, protocol) for model in (one, same, other))
    assert first == again
    assert first.weights != third.weights
    assert first.data == third.data
    assert card_of(one, images, Targets(labels.flip(0)), protocol).data != first.data
