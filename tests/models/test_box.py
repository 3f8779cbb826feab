"""The network in the box came from the committed recipe, the embedded images and this code."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

import ibviz
from ibviz.anchors import drift
from ibviz.data.config import DataConfig
from ibviz.data.decode import decode, to_tensor
from ibviz.data.listing import Split
from ibviz.data.sources import load_images
from ibviz.data.synthetic import digits
from ibviz.errors import InputError
from ibviz.files import read_rows
from ibviz.models.checkpoint import read_tensors, save_model
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import BUNDLED
from ibviz.settings import read_toml
from ibviz.training.loaders import make_loader
from ibviz.training.loop import describe_input, validate
from ibviz.training.recipe import Recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ship():
    found = importlib.util.spec_from_file_location("ship_digits", ROOT / "evaluation/ship_digits.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model() -> IBClassifier:
    model = ibviz.load("digits")
    assert isinstance(model, IBClassifier)
    return model


def test_it_is_small_and_half_on_disk_and_single_in_memory(model):
    assert BUNDLED["digits"].stat().st_size < 1.5e6
    tensors, _ = read_tensors(BUNDLED["digits"], "model")
    assert {one.dtype for one in tensors.values()} == {torch.float16, torch.int64}
    assert {one.dtype for one in model.state_dict().values()} == {torch.float32, torch.int64}
    assert not model.training


def test_its_recipe_is_the_committed_one(model):
    recipe = read_toml(ROOT / "evaluation/recipes/digits.toml", Recipe)
    assert Recipe.model_validate(model.facts["recipe"]) == recipe  # keys that came later have their defaults
    assert model.config == recipe.model
    assert model.facts["epoch"] <= recipe.training.epochs


def test_its_images_are_the_ones_that_are_drawn_today(model):
    """The committed result keeps the pictures it was judged on; processors round a few bytes differently, by one."""
    rows = [row for row in read_rows(ROOT / "evaluation/results/digits/images.parquet") if row["picture"]]
    places = [int(row["name"].removeprefix("test-")) for row in rows]
    config = DataConfig(**model.facts["recipe"]["data"])
    drawn = digits("test", count=max(places) + 1, seed=config.seed)
    kept = torch.stack([to_tensor(decode(row["picture"], row["name"])) for row in rows])
    difference = (drawn.images[places].int() - kept.int()).abs()
    assert len(rows) == 60
    assert int(difference.max()) <= 1
    assert int((difference > 0).sum()) < kept.numel() * 1e-4
    assert drawn.labels[places].tolist() == [row["label"] for row in rows]


def test_it_is_as_accurate_as_its_file_says_and_as_its_training_said(model):
    """Three images in a thousand may lie so near the border that half precision or another machine turns them."""
    facts: dict[Split, dict[str, float]] = {name: model.facts[name] for name in ("test", "validation")}
    for split, logged in facts.items():
        images = load_images(DataConfig(**model.facts["recipe"]["data"]), split, None)
        found = validate(model, make_loader(images, torch.device("cpu")))
        assert len(images.labels) == 1000
        assert found["accuracy"] == pytest.approx(logged["accuracy"], abs=0.003)
        assert found["rate_bits"] == pytest.approx(logged["rate_bits"], rel=1e-3)
        assert found["cross_entropy_nats"] == pytest.approx(logged["cross_entropy_nats"], rel=0.01)


def test_its_anchors_are_where_its_log_ends(model):
    moved = drift(model)
    assert moved is not None
    assert model.quantizer is not None
    assert len(moved) == model.facts["epoch"] + 1
    torch.testing.assert_close(moved[-1], model.quantizer.anchors.detach(), rtol=1e-3, atol=1e-4)
    assert (moved[1:] - moved[:-1]).abs().amax(1).min() > 1e-5  # they learned in every epoch


def test_a_few_steps_of_the_recipe_leave_what_they_left_when_it_was_made(model, ship):
    recorded = model.facts["few_steps"]
    found = ship.few_steps(read_toml(ROOT / "evaluation/recipes/digits.toml", Recipe))
    assert found["images"] == recorded["images"]
    for name in ("train_total_nats", "train_rate_nats"):
        assert found[name] == pytest.approx(recorded[name], rel=1e-3)
    assert found["anchors"] == pytest.approx(recorded["anchors"], abs=1e-4)


def test_it_was_normalised_by_its_training_images(model):
    """The first thousand of its twelve thousand tell the mean well enough to know them from others."""
    few = load_images(DataConfig(limit=1000), "train", None)
    seen = describe_input(few)
    assert model.spec.class_names == seen.class_names
    assert model.spec.mean == pytest.approx(seen.mean, abs=0.01)
    assert model.spec.std == pytest.approx(seen.std, abs=0.01)


def test_a_run_of_another_recipe_is_not_shipped(ship, model, tmp_path):
    other = json.loads(json.dumps(dict(model.facts)))
    other["recipe"]["training"]["seed"] = 1
    save_model(tmp_path / "run/model.safetensors", model, other)
    with pytest.raises(InputError, match=r"is no run of digits.toml"):
        ship.main(tmp_path / "run", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_folder_of_that_name_is_reached_by_its_path(tmp_path, monkeypatch, model):
    torch.manual_seed(0)
    mine = IBClassifier(model.config.model_copy(update={"anchors": 3}), model.spec)
    save_model(tmp_path / "digits/model.safetensors", mine, {})
    monkeypatch.chdir(tmp_path)
    for name, anchors in (("digits", 20), ("./digits", 3), (Path("digits"), 3)):
        loaded = ibviz.load(name)
        assert isinstance(loaded, IBClassifier)
        assert loaded.config.anchors == anchors
