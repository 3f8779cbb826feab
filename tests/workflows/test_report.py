"""A folder of results becomes a page that says what the folder says, and no model is asked."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from results import CLASSES, CONTROLS, METHODS, SIDE, write_results

from ibviz.benchmark.results import read_results
from ibviz.benchmark.store import pack, write_shard
from ibviz.benchmark.tables import tabulate
from ibviz.errors import InputError
from ibviz.types import AttentionMap
from ibviz.workflows.figure import redraw_figure
from ibviz.workflows.presentation import presentation, write_presentation
from ibviz.workflows.report import report_of, write_report

IMAGES, PICTURES = 12, 6


def attention() -> AttentionMap:
    index = torch.randint(0, 3, (IMAGES, 4, 4), generator=torch.Generator().manual_seed(0))
    anchors = torch.tensor([0.1, 0.9, 0.4])
    return AttentionMap(anchors[index], torch.zeros(IMAGES, 4, 4), index, anchors)


def results_in(folder: Path) -> Path:
    """Results of two models, maps of which are kept in two shards; Grad-CAM has failed on image 5."""
    write_results(folder, images=IMAGES, models=("one", "two"), pictures=PICTURES)
    cam = torch.rand(IMAGES, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = attention()
    for model in ("one", "two"):
        for part in (slice(0, 4), slice(4, IMAGES)):
            index = whole.index[part]  # type: ignore[index]
            cut = AttentionMap(whole.mean[part], whole.deviation[part], index, whole.anchors)
            present = torch.arange(IMAGES)[part] != 5
            for method, shard in (("Attention", pack(cut)), ("Grad-CAM", pack(cam[part], present))):
                write_shard(folder, shard, start=part.start, of={"model": model, "method": method})
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return results_in(tmp_path / "results")


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """Results whose report and figures are written, for tests that leave them as they are."""
    folder = results_in(tmp_path_factory.mktemp("reported") / "results")
    assert write_report(folder) == folder / "report.html"
    return folder


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text())
    assert found is not None
    return json.loads(found[1])


def test_maps_and_predictions_are_those_of_the_folder(reported):
    data = data_of(reported / "report.html")
    predictions: Any = read_results(reported).predictions
    assert list(data["models"]) == ["one", "two"]
    assert [one["label"] for one in data["pictures"]] == [CLASSES[i % 3] for i in range(PICTURES)]
    for name, model in data["models"].items():
        attended, cam = model["maps"]
        assert [one["value"] for one in attended["anchors"]] == pytest.approx([0.1, 0.9, 0.4])
        cells = np.frombuffer(base64.b64decode(attended["cells"]), np.uint8).reshape(PICTURES, 4, 4)
        whole = attention().index
        assert whole is not None
        np.testing.assert_array_equal(cells, whole[:PICTURES].numpy())
        assert cam["missing"] == [5]
        said = predictions[predictions["model"] == name][:PICTURES]
        for shown, predicted, image in zip(model["predictions"], said["predicted"], said["image"], strict=True):
            assert shown["name"] == CLASSES[predicted]
            assert shown["correct"] == (predicted == image % 3)


def test_boxes_are_shares_of_the_sides(reported):
    data = data_of(reported / "report.html")
    for shown, box in zip(data["pictures"], read_results(reported).images["box"], strict=False):
        assert shown["box"] == pytest.approx([edge / SIDE for edge in box], abs=1e-5)


def test_table_and_curves_are_means_over_all_images_and_values_those_of_the_pictures(reported):
    report = report_of(read_results(reported))
    rows: Any = read_results(reported).rows
    assert [one.model for one in report.comparisons] == ["one", "two"]
    for one in report.comparisons:
        own = rows[(rows["model"] == one.model) & ~rows["native"]]
        assert [line.method for line in one.lines] == list(METHODS)
        assert {line.method for line in one.lines if line.control} == set(CONTROLS)
        for line in one.lines:
            srg = own[(own["method"] == line.method) & (own["metric"] == "srg")].sort_values("image")["value"]
            assert line.estimates["SRG ↑"].mean == pytest.approx(srg.mean())
            assert line.estimates["SRG ↑"].n == IMAGES
            assert one.values[line.method]["SRG ↑"] == pytest.approx(srg[:PICTURES].tolist())
            deletion = own[(own["method"] == line.method) & (own["metric"] == "deletion")]["value"]
            band = one.curves["deletion"][line.method]
            assert np.trapezoid(band.mean, band.fractions) == pytest.approx(deletion.mean(), abs=1e-6)
            assert (np.asarray(band.low) <= np.asarray(band.mean) + 1e-12).all()
    better = {line.method: line for line in report.comparisons[0].lines}["Attention"]
    assert better.rank == 1
    assert re.fullmatch(r"better than centre by 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\], p = 0\.\d{3}", better.words)


def test_fewer_images_are_shown_but_all_are_judged(reported, tmp_path):
    data = data_of(write_report(reported, tmp_path / "few.html", images=2))
    assert len(data["pictures"]) == 2
    assert len(data["comparisons"][0]["values"]["Attention"]["SRG ↑"]) == 2
    assert f"judged on {IMAGES} images" in (tmp_path / "few.html").read_text()


def test_what_failed_and_what_is_missing_is_named(folder):
    report = report_of(read_results(folder))
    assert report.failures == ["Rollout of one, 12 images: no attention block", "broken.png could not be read"]
    bare = write_results(folder.parent / "bare", boxes=False)
    write_shard(bare, pack(attention()), start=0, of={"model": "net", "method": "Attention"})
    assert report_of(read_results(bare)).left_out == [
        "pointing_game of net: pointing_game needs boxes or masks, which the data does not have"
    ]


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (0, r"keeps no pictures.*run the suite with pictures = 200"),
        (2, r"keeps no maps.*run the suite into another folder and report on that"),
    ],
)
def test_a_folder_with_nothing_to_show_is_one_clear_error_and_left_as_it_was(tmp_path, pictures, says):
    folder = write_results(tmp_path / "results", pictures=pictures)
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=says):
        write_report(folder)
    assert sorted(folder.iterdir()) == before


def test_figures_that_are_there_stay_and_those_that_lack_are_drawn(folder):
    kept = {name: f"the {name} that a suite drew" for name in ("table.md", "panel-one.png")}
    for name, text in kept.items():
        (folder / name).write_text(text)
    write_report(folder)
    assert {name: (folder / name).read_text() for name in kept} == kept
    assert not (folder / "panel-one.json").exists()
    assert {path.name for path in folder.glob("*.png")} == {
        "panel-one.png",
        "panel-two.png",
        "curves-one.png",
        "curves-two.png",
    }
    title = json.loads((folder / "curves-two.json").read_text())["arguments"]["title"]
    assert title == "two"


def test_the_axes_of_curves_are_named_by_the_score_of_the_protocol(folder):
    path = folder / "circumstances.json"
    path.write_text(path.read_text().replace('"score": "probability"', '"score": "log_probability"'))
    assert [one.score for one in report_of(read_results(folder)).comparisons] == ["log probability"] * 2
    shutil.rmtree(folder / "maps")  # without which there are curves, but no panel
    write_presentation(folder)
    assert json.loads((folder / "curves-one.json").read_text())["arguments"]["score"] == "log probability"
    assert (folder / "curves-two.png").exists()
    assert not list(folder.glob("panel*"))


def test_a_panel_says_the_class_its_share_and_the_truth(reported):
    captions = json.loads((reported / "panel-one.json").read_text())["arguments"]["captions"]
    said: Any = read_results(reported).predictions
    assert captions[1] == f"{CLASSES[1]} ({100 * said['probability'][1]:.0f}%)"
    assert captions[0] == f"{CLASSES[1]} ({100 * said['probability'][0]:.0f}%)\n(is {CLASSES[0]})"


def study(folder: Path, anchors: list[float]) -> Path:
    worth = [{"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3, "excluded": 0}, dict.fromkeys(("mean", "low", "high"))]
    worth[1] |= {"n": 0, "excluded": 3}
    found = {"images": 3, "usage": {"anchors": anchors}, "worth": {"effect": [*worth, worth[0]]}}
    folder.mkdir()
    (folder / "anchors.json").write_text(json.dumps(found))
    return folder


def test_effects_of_anchors_stand_beside_the_maps_that_have_them(reported, tmp_path):
    data = data_of(
        write_report(reported, tmp_path / "effects.html", anchors=study(tmp_path / "study", [0.1, 0.9, 0.4]))
    )
    attended, cam = data["models"]["one"]["maps"]
    assert attended["effect"]["estimates"] == [[0.5, 0.4, 0.6], None, [0.5, 0.4, 0.6]]
    assert "over 3 images" in attended["effect"]["what"]
    assert not cam.get("effect")


def test_effects_of_another_networks_anchors_are_refused(reported, tmp_path):
    with pytest.raises(InputError, match="another network"):
        write_report(reported, tmp_path / "a.html", anchors=study(tmp_path / "study", [0.1, 0.8, 0.4]))
    with pytest.raises(InputError, match=r"no study of anchors.*ibviz anchors"):
        write_report(reported, tmp_path / "a.html", anchors=tmp_path)


def test_trainings_of_a_recipe_are_drawn_as_points_beside_their_mean(tmp_path):
    folder = write_results(tmp_path / "results", images=IMAGES, models=("one", "two", "three"), pictures=0)
    path = folder / "circumstances.json"
    facts = json.loads(path.read_text())
    for model in facts["models"].values():
        model["recipe"] = "0123"
    path.write_text(json.dumps(facts))
    presentation(read_results(folder))["trainings.png"]()
    assert (folder / "trainings.png").exists()
    told = json.loads((folder / "trainings.json").read_text())
    assert told["trainings"] == {"Attention": 3, "Grad-CAM": 3}
    drawn = redraw_figure(folder / "trainings.json")
    results = read_results(folder)
    lines: Any = tabulate(results.rows, results.circumstances).summary.lines
    lines = lines[(lines["stratum"] == "all images") & ~lines["native"] & (lines["metric"] == "srg")]
    of_all = lines[lines["models"] == 3].set_index("method")
    single = lines[lines["models"] == 1]
    containers: Any = drawn.figure.axes[0].containers
    points = [container.lines[0].get_xdata() for container in containers]
    for place, method in enumerate(("Attention", "Grad-CAM")):
        np.testing.assert_allclose(points[2 * place], single[single["method"] == method]["mean"])
        np.testing.assert_allclose(points[2 * place + 1], [of_all["mean"][method]])
    bands = [patch for patch in drawn.figure.axes[0].patches if patch.get_alpha() is not None]
    assert len(bands) == len(CONTROLS)
    low, high = of_all.loc["centre", ["low", "high"]]
    edges = bands[0].get_extents().transformed(drawn.figure.axes[0].transData.inverted())
    assert (edges.x0, edges.x1) == pytest.approx((low, high))
