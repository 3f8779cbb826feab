import errno
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from ibviz.data.config import DataConfig
from ibviz.errors import InputError
from ibviz.models.checkpoint import load_model, save_model
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.models.loading import load
from ibviz.training.recipe import Recipe

SPEC = InputConfig(size=48, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), class_names=("a", "b"))


@pytest.fixture
def model() -> IBClassifier:
    return IBClassifier(ModelConfig(latent=4, anchors=3), SPEC).eval()


def test_a_saved_model_comes_back_to_the_bit(model, tmp_path):
    save_model(tmp_path / "model.safetensors", model, {"epoch": 1})
    back, images = load(tmp_path), torch.rand(2, 3, 48, 48)
    assert isinstance(back, IBClassifier)
    assert (back.config, back.spec) == (model.config, model.spec)
    assert torch.equal(back(images), model(images))


def test_saving_twice_gives_the_same_bytes(model, tmp_path):
    for name in ("one", "two"):
        save_model(tmp_path / name, model, {"epoch": 1, "accuracy": 0.5, "recipe": {"b": 1, "a": 2}})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_full_disk_keeps_the_previous_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, model, {"epoch": 1})
    before = path.read_bytes()

    def write_half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(InputError, match=r"No space left on device; the previous file"):
        save_model(path, model, {"epoch": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_another_kind_are_refused_with_what_they_are(tmp_path):
    (tmp_path / "note.safetensors").write_text("hello")
    save_file({"w": torch.zeros(1)}, tmp_path / "bare.safetensors")
    for name, reason in [("note", "is not a safetensors file"), ("bare", "without an ibviz header")]:
        with pytest.raises(InputError, match=reason):
            load_model(tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path)


def test_a_model_goes_through_the_hub_format_with_its_card(model, tmp_path):
    model.facts = {
        "recipe": Recipe(data=DataConfig(source="cifar10")).model_dump(),
        "validation": {"accuracy": 0.912345, "anchors_used": 3},
    }
    model.save_pretrained(tmp_path / "kept")
    back, images = IBClassifier.from_pretrained(tmp_path / "kept"), torch.rand(2, 3, 48, 48)
    assert torch.equal(back(images), model(images))
    assert back.facts["validation"] == model.facts["validation"]
    card = ModelCard.load(tmp_path / "kept/README.md")
    assert card.data.to_dict()["datasets"] == ["cifar10"]
    assert card.data.to_dict()["library_name"] == "ibviz"
    for line in ("| accuracy | 0.9123 |", "| anchors_used | 3 |", "| beta | 0.001 |", "0.0, 0.5, 1.0"):
        assert line in card.text
    assert torch.equal(load(tmp_path / "kept")(images), model(images))


def test_a_name_on_the_hub_is_downloaded_there(model, tmp_path, monkeypatch):
    import ibviz.models.classifier as place

    model.save_pretrained(tmp_path / "cache")
    asked = []

    def download(repository: str | None = None, file: str = "", **choices: object) -> str:
        if choices.get("filename") == "config.json":  # the mixin looks for one first
            return str(tmp_path / "cache/config.json")
        asked.append((repository, file, choices["revision"]))
        return str(tmp_path / "cache/model.safetensors")

    monkeypatch.setattr(place, "hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    images = torch.rand(1, 3, 48, 48)
    assert torch.equal(load("somebody/digits")(images), model(images))
    assert asked == [("somebody/digits", "model.safetensors", None)]


def test_a_hub_that_is_out_of_reach_is_one_clear_error(monkeypatch):
    def unreachable(**choices: object) -> str:
        raise ConnectionError(f"no route to {choices['repo_id']}")

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", unreachable)
    with pytest.raises(InputError, match=r"somebody/digits is no file here and could not be had from the Hub"):
        load("somebody/digits")


def test_an_unknown_name_says_what_would_do():
    with pytest.raises(
        InputError, match=r"torchvision has no classifier 'resnet5o'.*expected a name such as torchvision/resnet50"
    ):
        load("resnet5o")


def test_local_weights_of_another_network_are_refused(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"does not hold the weights of torchvision/squeezenet1_1"):
        load("squeezenet1_1", weights=tmp_path / "w.safetensors")
