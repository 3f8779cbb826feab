"""`ibviz anchors` from a checkpoint to its files."""

import json
from pathlib import Path

import numpy as np
import pytest
from networks import bottlenecked, quadrants
from PIL import Image

from ibviz.anchors import Variant, intervene, usage
from ibviz.data.sources import load_images
from ibviz.files import read_rows
from ibviz.models.checkpoint import save_model
from ibviz.statistics import estimate
from ibviz.workflows.anchors import data_of


@pytest.fixture
def photographs(tmp_path) -> Path:
    rng, root = np.random.default_rng(0), tmp_path / "photographs"
    for name in "0123456789":
        for number in range(2):
            path = root / "test" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    (root / "train").symlink_to(root / "test")
    return root


def test_the_files_hold_what_the_functions_give(run, photographs, tmp_path):
    model = bottlenecked()
    save_model(tmp_path / "run/model.safetensors", model, {})
    code, printed, error = run(
        "anchors", tmp_path / "run", "--data", photographs, "--limit", 6, "--out", tmp_path / "a"
    )
    assert code == 0, error
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "anchors.json",
        "effects.parquet",
        "consistency.parquet",
        "usage.png",
        "usage.pdf",
        "usage.json",
        "usage.data.safetensors",
    }
    found = json.loads((tmp_path / "a/anchors.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    images = load_images(data_of(model, photographs), "test", photographs, count=6)
    used = usage(model, images)
    assert found["usage"]["counts"] == used.counts.tolist()
    assert np.shape(found["usage"]["occupancy"]) == (10, 5)
    assert found["usage"]["anchors"] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert found["usage"]["dead"] == used.dead
    assert found["drift"] is None
    effects = intervene(model, images, [Variant("swap"), Variant("keep", 3)])
    for place, variant in enumerate(effects.variants):
        [entry] = [
            one for one in found["interventions"] if (one["name"], one["anchor"]) == (variant.name, variant.anchor)
        ]
        expected = estimate(effects.change[place].tolist())
        assert entry["change"]["mean"] == pytest.approx(expected.mean, abs=1e-6)
        assert entry["change"]["n"] == 6
        rows = [
            row
            for row in read_rows(tmp_path / "a/effects.parquet")
            if (row["intervention"], row["anchor"]) == (variant.name, variant.anchor)
        ]
        assert [row["name"] for row in rows] == list(images.names)
        assert [row["change"] for row in rows] == pytest.approx(effects.change[place].tolist(), abs=1e-6)
    assert len(read_rows(tmp_path / "a/consistency.parquet")) == 12 * 6
    assert found["answer"] in printed
    assert "another image altogether" in printed


def test_a_continuous_model_has_no_table_of_anchors_but_interventions(run, photographs, tmp_path):
    save_model(tmp_path / "run/model.safetensors", bottlenecked(None), {})
    code, printed, error = run(
        "anchors", tmp_path / "run", "--data", photographs, "--limit", 4, "--out", tmp_path / "a"
    )
    assert code == 0, error
    found = json.loads((tmp_path / "a/anchors.json").read_text())
    assert found["usage"] is None
    assert found["worth"] is None
    assert [one["name"] for one in found["interventions"]] == ["mean", "average", "swap", "reversed", "unquantised"]
    assert printed.startswith("decided with")
    assert list(found["reliance"]) == ["own", "mean", "average", "other", "reversed"]
    own = found["reliance"]["own"]
    assert f"{own['accuracy']['mean']:.3f} [" in printed
    assert f"{own['cross_entropy']['mean']:.3f} [" in printed


def test_the_network_in_the_box_is_studied_on_the_images_it_was_made_for(run, tmp_path):
    code, printed, error = run("anchors", "digits", "--limit", 8, "--out", tmp_path / "a")
    assert code == 0, error
    found = json.loads((tmp_path / "a/anchors.json").read_text())
    assert found["data"]["source"] == "digits"
    assert len(found["drift"]) == found["model"]["epoch"] + 1
    assert sum(found["usage"]["counts"]) == 8 * 144
    assert "drift since the start: at most 0.0" in printed


def test_what_cannot_be_studied_is_refused_in_one_line(run, tmp_path, monkeypatch):
    save_model(tmp_path / "run/model.safetensors", bottlenecked(), {})
    code, _, error = run("anchors", tmp_path / "run", "--out", tmp_path / "a")
    assert code == 2
    assert "needs the path of its files (--data)" in error
    assert error.count("\n") == 1
    monkeypatch.setattr("ibviz.workflows.model.load", lambda *_, **__: quadrants())
    code, _, error = run("anchors", "resnet50", "--out", tmp_path / "a")
    assert code == 2
    assert "WrappedClassifier has no trained attention; expected a run of `ibviz train`" in error


def test_the_images_of_a_model_without_data_lie_in_class_folders_or_parquet_files(tmp_path, photographs):
    assert data_of(bottlenecked(), photographs).source == "folder"
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/test.parquet").touch()
    assert data_of(bottlenecked(), tmp_path / "packed").source == "parquet"
