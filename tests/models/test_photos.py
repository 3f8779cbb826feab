"""The bundled network for photographs came from the committed recipe and is as good as its file says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ibviz
from ibviz.data.config import DataConfig
from ibviz.data.image_set import regions, select, to_float
from ibviz.data.sources import load_images
from ibviz.metrics import pointing_game
from ibviz.models.checkpoint import model_card, read_tensors
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import BUNDLED
from ibviz.settings import read_toml
from ibviz.training.recipe import Recipe
from ibviz.workflows.model import describe

ROOT = Path(__file__).parents[2]
COUNT = 200


@pytest.fixture(scope="module")
def model() -> IBClassifier:
    model = ibviz.load("photos")
    assert isinstance(model, IBClassifier)
    return model


def test_it_is_small_and_half_on_disk_and_single_in_memory(model):
    assert BUNDLED["photos"].stat().st_size < 8e6
    tensors, _ = read_tensors(BUNDLED["photos"], "model")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int64}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}


def test_its_recipe_is_the_committed_one(model):
    recipe = read_toml(ROOT / "evaluation/attention/mobilenet.toml", Recipe)
    assert Recipe.model_validate(model.facts["recipe"]) == recipe
    assert len(model.spec.class_names) == 200


def test_its_card_names_source_and_licence_use_and_limits(model):
    card = str(model_card(model))
    for said in ("Apache License 2.0", "Tiny ImageNet", "Fails:", "accuracy_other_map", "pointing_game"):
        assert said in card


def test_it_is_as_accurate_and_points_as_well_as_its_file_says(model, shared, tmp_path):
    """Within three standard errors of a share over so many images."""
    subprocess.run(
        [sys.executable, shared / "data/unpack.py", "tiny_imagenet", tmp_path], check=True, capture_output=True
    )
    recipe = DataConfig(source="parquet", image_size=model.spec.side)
    images = load_images(recipe, "test", tmp_path, count=COUNT, seed=1)
    assert images.class_names == model.spec.class_names
    masks = regions(images)
    assert masks is not None
    with torch.inference_mode():
        seen = model.inspect(to_float(images.images))
    right = (seen.logits.argmax(1) == images.labels).float().mean().item()
    boxed = ~masks.flatten(1).all(1)
    hits = pointing_game(seen.attention.mean[boxed], masks[boxed]).hit.mean().item()
    for share, name in ((right, "accuracy_own_map"), (hits, "pointing_game")):
        stated = model.facts["test"][name]
        assert abs(share - stated) < 3 * (stated * (1 - stated) / COUNT) ** 0.5, name
    few = select(images, torch.arange(50))
    with torch.inference_mode():
        closed = model.with_gate(to_float(few.images), torch.zeros(1, 50, 8, 8)).argmax(-1)
    assert (closed == closed[0, 0]).all()  # nothing but the attention lets features through


def test_explain_takes_it_where_no_network_is_named_and_says_so(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    code, out, _ = run("explain", tmp_path / "photo.png", "--out", tmp_path / "out", "--methods", "attention")
    assert code == 0
    assert "--model was not given: photos" in out
    record = json.loads((tmp_path / "out/panel-photo.json").read_text())["record"]
    assert record["model"].items() >= describe(ibviz.load("photos")).items()
    assert record["model"]["file"] == "photos.safetensors"
