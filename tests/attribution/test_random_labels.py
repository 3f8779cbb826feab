"""The script that compares a network that has learned with one that has memorised: `evaluation/random_labels.py`."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ibviz.attribution.randomisation import SIMILARITIES
from ibviz.data.synthetic import digits

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch) -> Any:
    found = importlib.util.spec_from_file_location("random_labels", ROOT / "evaluation/random_labels.py")
    assert found is not None
    assert found.loader is not None
    module: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "UNSEEN", 3)
    monkeypatch.setattr(module, "METHODS", ("attention_mean", "edges"))
    return module


def test_both_networks_see_the_same_images_under_other_labels_and_only_their_own_maps_differ(script, tmp_path):
    script.main(str(tmp_path), "20", "1")
    scenes = digits("train", count=20, seed=0)
    pictures, labels = {}, {}
    for kind in ("true", "random"):
        paths = sorted((tmp_path / f"{kind}-images/train").glob("*/*.png"), key=lambda path: path.name)
        pictures[kind] = np.stack([np.asarray(Image.open(path)) for path in paths]).transpose(0, 3, 1, 2)
        labels[kind] = [scenes.class_names.index(path.parent.name) for path in paths]
        np.testing.assert_array_equal(pictures[kind], scenes.images.numpy())
    assert labels["true"] == scenes.labels.tolist()
    assert sum(one == other for one, other in zip(*labels.values(), strict=True)) < 10
    found = json.loads((tmp_path / "similarity.json").read_text())
    assert set(found["accuracy"]) == {"true", "random"}
    for measure in SIMILARITIES:
        assert found["each"]["edges"][measure] == pytest.approx([1.0] * 3)  # they know nothing of the network
    assert max(found["each"]["attention_mean"]["spearman"]) < 0.999
    model = script.last_epoch(tmp_path / "true")
    for measure, similar in script.compare({"one": model, "itself": model})["attention_mean"].items():
        assert similar == pytest.approx([1.0] * 3), measure
