"""Training on the features of a frozen stem: as training on images, from a file of one network and data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from ibviz.data import sources
from ibviz.data.image_set import ImageSet
from ibviz.errors import InputError
from ibviz.models.after_gate import below_gate
from ibviz.models.checkpoint import load_model
from ibviz.models.config import ObjectiveConfig
from ibviz.training import features, loop
from ibviz.training.loop import train
from ibviz.training.recipe import Recipe, TrainingConfig
from ibviz.training.run import best_row
from ibviz.training.schedule import price_share

close = torch.testing.assert_close
MODEL = {
    "backbone": "torchvision/resnet18",
    "layer": "layer2",
    "pretrained": True,
    "latent": 8,
    "gate": "mul",
    "head_depth": 1,
    "head_width": 8,
}
TRAINING = {"epochs": 2, "batch_size": 12, "lr": 0.01, "trainable": "attached", "crop_padding": 0}


def silent(*facts: object) -> None:
    """No output in tests."""


def recipe(*, limit: int = 24, **training: object) -> Recipe:
    price = {"attention_price": 0.5, "attention_warmup": 0}
    return Recipe.model_validate(
        {"data": {"limit": limit}, "model": MODEL, "objective": price, "training": TRAINING | training}
    )


@pytest.fixture(autouse=True)
def still_fewer_validation_images(monkeypatch) -> None:
    """Validate on the first 24 images."""
    monkeypatch.setitem(sources._DRAWN, "validation", 24)


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.manual_seed(0)
    network = models.resnet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:  # features can be seen by it
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("trainable", ["attached", "tail"])
def test_training_on_stored_features_is_training_on_images(tmp_path, weights, trainable):
    plain = train(recipe(trainable=trainable), tmp_path / "plain", weights=weights, report=silent)
    rows = train(recipe(trainable=trainable, cache_features=True), tmp_path / "cached", weights=weights, report=silent)
    for name in ("train_cross_entropy_nats", "train_attention", "validation_cross_entropy_nats"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in plain], rel=2e-3)  # float16
    own, cached = (load_model(tmp_path / run / "model.safetensors").state_dict() for run in ("plain", "cached"))
    published = {f"network.body.{name}": value for name, value in _state(weights).items()}
    for name, value in own.items():
        frozen = name in published and not (trainable == "tail" and name.split(".")[2] in ("layer3", "layer4"))
        if frozen:
            assert torch.equal(cached[name], value), name
            assert torch.equal(value, published[name]), name
    moved = "network.body.layer4.1.conv2.weight"
    assert torch.equal(cached[moved], published[moved]) == (trainable == "attached")


def _state(weights: Path) -> dict[str, torch.Tensor]:
    network = models.resnet18()
    network.load_state_dict(load_file(weights))
    return network.state_dict()


def test_mirrored_views_are_those_of_mirrored_images(tmp_path, weights, monkeypatch):
    kept = []
    stored = features.cached_features
    monkeypatch.setattr(loop, "cached_features", lambda *args, **named: kept.append(stored(*args, **named)) or kept[-1])
    given = Recipe.model_validate(
        {"data": {"source": "folder", "image_size": 32}, "model": MODEL, "training": TRAINING}
        | {"training": TRAINING | {"epochs": 1, "cache_features": True, "flip": True}}
    )
    root = _folder(tmp_path / "data")
    train(given, tmp_path / "run", root=root, weights=weights, report=silent)
    training = kept[0]
    model = load_model(tmp_path / "run/model.safetensors")
    images = loop.load_split(given.data, "train", root)
    assert isinstance(images, ImageSet)
    with torch.no_grad():
        mirrored = below_gate(model, images.images[:3].flip(3).float() / 255)
    [(outputs, _)] = training.batches([torch.arange(3)])
    crops = loop.Crops(torch.zeros(3).int(), torch.zeros(3).int(), torch.tensor([True, True, True]))
    close(training.inputs(outputs, crops), mirrored, rtol=1e-2, atol=1e-3)
    assert not torch.equal(training.inputs(outputs), training.inputs(outputs, crops))


def _folder(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for split in ("train", "validation"):
        for name in "abc":
            (root / split / name).mkdir(parents=True)
            for number in range(8):
                pixels = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_features_are_computed_once_and_refused_for_another_network_or_data(tmp_path, weights, monkeypatch):
    given, shared = recipe(cache_features=True, epochs=1), tmp_path / "shared"
    train(given, tmp_path / "first", weights=weights, features=shared, report=silent)
    monkeypatch.setattr(features, "below_gate", None)  # from here on nothing may be computed
    train(given, tmp_path / "second", weights=weights, features=shared, report=silent)
    more = recipe(cache_features=True, epochs=1, limit=36)
    with pytest.raises(InputError, match=r"train.npy holds features of another data: expected 36 images"):
        train(more, tmp_path / "third", weights=weights, features=shared, report=silent)
    torch.manual_seed(1)
    save_file(models.resnet18().state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"features of another network: .* give another folder with --features"):
        train(given, tmp_path / "fourth", weights=tmp_path / "other.safetensors", features=shared, report=silent)
    note = shared / "train.json"
    note.write_text(note.read_text()[:20])
    with pytest.raises(InputError, match=r"cannot read .*train.json"):
        train(given, tmp_path / "fifth", weights=weights, features=shared, report=silent)


def test_features_that_a_killed_run_left_half_written_are_computed_anew(tmp_path, weights, monkeypatch):
    given, below = recipe(cache_features=True, epochs=1, batch_size=12), features.below_gate

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "below_gate", stop)
    with pytest.raises(KeyboardInterrupt):
        train(given, tmp_path / "run", weights=weights, report=silent)
    assert not list((tmp_path / "run/features").glob("*.npy"))
    monkeypatch.setattr(features, "below_gate", below)
    train(given, tmp_path / "run", resume=True, weights=weights, report=silent)
    assert json.loads((tmp_path / "run/features/train.json").read_text())["layer"] == "layer2"


def test_a_stopped_run_whose_tail_trains_goes_on_with_its_features(tmp_path, weights):
    """The layers behind the gate have moved by then: the features do not depend on them."""
    given = recipe(trainable="tail", cache_features=True)
    train(given, tmp_path / "whole", weights=weights, report=silent)

    def stop(row: dict[str, object]) -> None:
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(given, tmp_path / "stopped", weights=weights, report=stop)
    train(given, tmp_path / "stopped", weights=weights, resume=True, report=silent)
    whole, stopped = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "stopped"))
    assert all(torch.equal(stopped[name], value) for name, value in whole.items())


def test_the_price_waits_until_something_is_learned_and_then_rises_evenly():
    chance = float(np.log(10))
    losses = [chance, 0.95 * chance, 0.5 * chance, 0.4 * chance]
    shares = [price_share(p, losses, 10, warmup=0.25, epochs=16) for p in (0.0, 2.9, 3.0, 5.0, 7.0, 16.0)]
    assert shares == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert price_share(9.0, [chance] * 9, 10, warmup=0.25, epochs=16) == 0
    assert price_share(0.0, [], 10, warmup=0.0, epochs=16) == 1


def test_the_log_shows_the_attention_that_a_price_closes(tmp_path, weights):
    free = Recipe.model_validate(recipe().model_dump() | {"objective": {"attention_price": 0.0}})
    dear = Recipe.model_validate(
        recipe().model_dump() | {"objective": {"attention_price": 20.0, "attention_warmup": 0.0}}
    )
    means = []
    for name, chosen in (("free", free), ("dear", dear)):
        rows = train(chosen, tmp_path / name, weights=weights, report=silent)
        means.append(rows[-1]["train_attention"])
    assert means[1] < means[0] - 0.02


def test_the_model_that_is_kept_has_paid_the_whole_price_and_pays_least_in_all():
    """Open attention is always the more accurate: the best epochs of all would be those before the price."""
    priced = Recipe.model_validate({"objective": {"attention_price": 2.0}, "training": {"epochs": 5}})
    columns = ["epoch", "price_share"]
    columns += [f"validation_{name}" for name in ("accuracy", "cross_entropy_nats", "attention_mean")]
    numbers = [
        (1, 0.0, 0.9, 0.2, 0.1),
        (2, 0.5, 0.8, 0.3, 0.1),
        (3, 1.0, 0.7, 1.0, 0.8),  # 2.6 nats
        (4, 1.0, 0.6, 1.4, 0.5),  # 2.4 nats
        (5, 1.0, 0.5, 1.6, 0.5),
    ]
    rows = [dict(zip(columns, row, strict=True)) | {"validation_capacity_nats": 0.0} for row in numbers]
    assert best_row(rows, priced)["epoch"] == 4
    charged = priced.model_copy(update={"objective": ObjectiveConfig(capacity=1.0)})
    by_capacity = [row | {"validation_capacity_nats": 5.0 - row["epoch"]} for row in rows]
    assert best_row(by_capacity, charged)["epoch"] == 5  # 1.6 nats; 3.0 and 2.4 of those before
    free = [row | {"price_share": 1.0} for row in rows]
    assert best_row(free, Recipe(training=TrainingConfig(epochs=5)))["epoch"] == 1


def test_a_price_on_the_published_gate_is_warned_of(tmp_path, weights):
    priced = Recipe.model_validate(recipe().model_dump() | {"model": MODEL | {"gate": "residual"}})
    rows = train(priced, tmp_path / "run", weights=weights, report=silent)
    assert 'with gate = "residual" can only close the attention' in rows[0]["warning"]
    assert "can only close" not in (rows[1]["warning"] or "")
