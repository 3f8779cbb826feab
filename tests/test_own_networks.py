"""Networks of a user's own code, named as `file.py:name`, on the command line and in a suite."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ibviz
from ibviz.attribution.map_files import load_maps
from ibviz.errors import InputError

OWN = """
import torch
from torch import nn

import ibviz


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


def small():
    return ibviz.wrap(Small(), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("left", "right"), size=32)


ready = small()


def attached():
    return ibviz.attach(small(), layer="features.2", anchors=5, bottleneck=4)


def sized(side):
    return small()


def text():
    return "a network"


def broken():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(OWN)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 60, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        path = tmp_path / "photos/test" / ("left", "right")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (tmp_path / "photos/train").symlink_to(tmp_path / "photos/test")
    return tmp_path


def raised(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return other weights of a model, by name."""
    return {
        name: (tensor + 0.1 if tensor.is_floating_point() else tensor) for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("name", ["small", "ready", "attached"])
def test_a_name_gives_the_network_of_the_code_with_its_weights_or_those_of_a_file(own, name):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = ibviz.load(f"nets.py:{name}")
    assert model.spec.class_names == ("left", "right")
    assert not model.training
    held = model if name == "attached" else model.network
    weights = raised(held)
    save_file(weights, own / "other.safetensors")
    before = model(images)
    other = ibviz.load(f"nets.py:{name}", weights="other.safetensors")
    torch.testing.assert_close(dict((other if name == "attached" else other.network).state_dict()), weights)
    assert not torch.equal(other(images), before)


def test_one_command_draws_an_own_network_and_records_its_code(run, own):
    classes = ("--classes", "left,right", "--methods", "grad_cam,saliency", "--template", "cvpr column")
    code, printed, error = run("explain", "photos/test/left/0.png", "--model", "nets.py:small", *classes, "--out", "a")
    assert code == 0, error
    assert printed.strip() == "a/panel-0.png"
    record = json.loads((own / "a/panel-0.json").read_text())["record"]
    assert record["model"]["name"] == "nets.py:small"
    assert record["model"]["code"] == hashlib.sha256(OWN.encode()).hexdigest()[:16]
    assert "--model nets.py:small" in record["command"]
    maps, _ = load_maps(own / "a/maps-0.safetensors")
    assert list(maps) == [f"{method}: {name}" for method in ("Grad-CAM", "Saliency") for name in ("left", "right")]


def test_a_suite_judges_an_own_network_and_does_not_go_on_with_changed_code(run, own):
    (own / "suite.toml").write_text(
        'images = 4\nmetrics = ["srg"]\n[data]\nsource = "folder"\nimage_size = 32\n[[methods]]\nmethod = "grad_cam"\n'
    )
    command = ("evaluate", "suite.toml", "--model", "nets.py:small", "--data", "photos", "--out", "r")
    code, _, error = run(*command)
    assert code == 0, error
    plan = json.loads((own / "r/plan.json").read_text())
    assert list(plan["models"]) == ["small"]
    (own / "nets.py").write_text(OWN + "\n# changed\n")
    code, _, error = run(*command, "--resume")
    assert code == 2
    assert "nets.py:small" in error


def test_the_anchors_of_an_own_network_are_studied_with_weights_of_a_file(run, own):
    save_file(raised(ibviz.load("nets.py:attached")), own / "w.safetensors")
    seen = []
    for weights in ((), ("--weights", "w.safetensors")):
        command = ("anchors", "nets.py:attached", "--data", "photos", "--limit", 4, "--out", "a")
        code, _, error = run(*command, *weights)
        assert code == 0, error
        seen.append(json.loads((own / "a/anchors.json").read_text())["usage"]["anchors"])
    assert seen[1] == pytest.approx([anchor + 0.1 for anchor in seen[0]])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "nets.py:Small",
            "nets.py:Small gives Small, which does not say how its images are normalised; return ibviz.wrap",
        ),
        ("nets.py:sized", "nets.py:sized takes 1 arguments by position; expected 0"),
        ("nets.py:text", "nets.py:text gives str; expected a network"),
        ("nets.py:broken", "nets.py:broken fails: RuntimeError: no weights here"),
        ("nets.py:smal", "nets.py has no 'smal'; it has"),
        ("net.py:small", "cannot read net.py"),
        ("runs/a:b", "names no code: give FILE.py:NAME"),
    ],
)
def test_what_is_no_network_is_one_clear_line(own, name, says):
    with pytest.raises(InputError, match=says):
        ibviz.load(name)


def test_weights_of_another_network_and_of_one_that_brings_its_own_are_refused(own):
    save_file({"a": torch.ones(1)}, own / "a.safetensors")
    with pytest.raises(InputError, match=r"a.safetensors does not hold the weights of nets.py:small: it lacks 6 of 6"):
        ibviz.load("nets.py:small", weights="a.safetensors")
    with pytest.raises(InputError, match=r"digits has its own weights; a.safetensors is for .* FILE.py:NAME"):
        ibviz.load("digits", weights="a.safetensors")


def test_anchors_of_a_named_network_are_refused_with_the_way_out_whatever_its_weights(run, own):
    save_file({"a": torch.ones(1)}, own / "a.safetensors")
    code, _, error = run("anchors", "torchvision/mobilenet_v2", "--weights", "a.safetensors")
    assert (code, error.count("\n")) == (2, 1)
    assert "torchvision/mobilenet_v2 has no trained attention; expected a run folder of `ibviz train`" in error
    assert "FILE.py:NAME of a network that `ibviz.attach` gave one" in error
