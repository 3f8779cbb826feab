"""Messages that once misled: each now names the mistake, what is known, and a way that exists."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ibviz import figures
from ibviz.attribution import METHODS, load_maps, save_maps
from ibviz.benchmark import SuiteConfig, read_maps, read_results, read_toml, rebuild, run_suite
from ibviz.data import DataConfig, load_images, load_split, read_image
from ibviz.data.sources import find_part
from ibviz.digests import seal
from ibviz.errors import InputError
from ibviz.files import ensure_folder
from ibviz.models.loading import load
from ibviz.training.recipe import Recipe
from ibviz.workflows import explain as explaining
from ibviz.workflows.figure import redraw_figure


@pytest.fixture
def said(run):
    """Run a command that must be refused; the one line that it says."""

    def said(*arguments: object) -> str:
        code, _, error = run(*arguments)
        assert (code, error.count("\n")) == (2, 1), error
        return error

    return said


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def unreachable(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were asked for before a mistake was told")

    monkeypatch.setattr("ibviz.workflows.model.load", refuse)


def test_a_name_that_is_nearly_right_is_asked_after(said, picture):
    assert "did you mean 'grad_cam'?" in said("explain", picture, "--model", "digits", "--methods", "gradcam")
    assert "did you mean 'digits'?" in said("explain", picture, "--model", "digitz")


def test_an_unknown_method_and_a_network_without_anchors_cost_no_download(said, picture, unreachable, tmp_path):
    assert "unknown method 'beauty'" in said(
        "explain", picture, "--model", "torchvision/resnet18", "--methods", "beauty"
    )
    assert "unknown method" in said(
        "compare-protocols", picture, "--model", "torchvision/resnet18", "--method", "beauty"
    )
    message = said("anchors", "torchvision/resnet18", "--out", tmp_path / "out")
    assert "torchvision/resnet18 has no trained attention; expected a run folder" in message
    assert "--weights" not in message


@pytest.mark.parametrize(
    ("suite", "flags", "says"),
    [
        ('methods = [{ method = "gradcam" }]', (), "unknown method 'gradcam'; known: .*did you mean 'grad_cam'"),
        (
            '[[methods]]\nmethod = "rise"\noptions = { maskz = 4 }',
            (),
            "unknown option of RISE 'maskz'.*did you mean 'mask",
        ),
        ('metrics = ["srgg"]', (), "unknown metric 'srgg'.*did you mean 'srg'"),
        ('[data]\nsource = "folder"', (), "source folder needs the path of its files"),
        ('[data]\nsource = "parquet"', ("--data", "nowhere"), "no folder nowhere for source parquet"),
        ('[data]\nsource = "cifar10"\nmasks = true', (), "source cifar10 has no masks to read; those that have: cub"),
        ("", ("--device", "gpu"), "device 'gpu' cannot be used"),
    ],
)
def test_a_mistake_in_a_suite_costs_no_download_of_a_network(said, unreachable, tmp_path, suite, flags, says):
    (tmp_path / "suite.toml").write_text(suite)
    arguments = ("evaluate", tmp_path / "suite.toml", "--model", "torchvision/resnet18", "--out", tmp_path / "out")
    assert re.search(says, said(*arguments, *flags))


@pytest.mark.parametrize(
    ("recipe", "flags", "says"),
    [
        ('backbone = "torchvision/resnet19"', (), "did you mean 'resnet18'|did you mean 'resnet1"),
        ('backbone = "timm/resnet5O"', (), "did you mean 'resnet50'"),
        ('backbone = "torchvision/resnet18"\npretrained = true', ("--weights", "none.pt"), "no such file: none.pt"),
        ("pretrained = true", (), "no published weights for digits; pretrained is for vgg16"),
    ],
)
def test_a_mistake_in_a_recipe_is_told_before_images_are_loaded(said, monkeypatch, tmp_path, recipe, flags, says):
    monkeypatch.setattr("ibviz.training.loop.load_split", None)
    (tmp_path / "recipe.toml").write_text(f"[model]\n{recipe}\n")
    assert re.search(says, said("train", tmp_path / "recipe.toml", "--out", tmp_path / "run", *flags))


def test_a_method_that_is_left_out_is_named_once(run, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(explaining, "METHODS", {name: METHODS[name] for name in ("saliency", "lrp", "deep_lift")})
    code, _, error = run("explain", picture, "--model", "digits", "--methods", "all", "--out", tmp_path / "out")
    assert code == 0
    left = [line for line in error.splitlines() if " left out: " in line]
    assert any(line.startswith("ibviz: lrp left out: does not fit this network") for line in left)
    assert all(line.count(line.split()[1]) == 1 for line in left)


def test_a_wrong_entry_of_a_list_is_the_only_fault_that_is_told(tmp_path):
    (tmp_path / "suite.toml").write_text('protocols = [{ preset = "rize" }]\n')
    with pytest.raises(InputError, match=r"protocols\.0\.preset: .*rise") as refusal:
        read_toml(tmp_path / "suite.toml", SuiteConfig)
    assert "at least 1 item" not in str(refusal.value)


def test_a_misspelt_key_is_asked_after(tmp_path):
    (tmp_path / "recipe.toml").write_text("[training]\nepoch = 3\n")
    with pytest.raises(InputError, match=r"unknown key training.epoch; known here: .*; did you mean 'epochs'\?"):
        read_toml(tmp_path / "recipe.toml", Recipe)


def test_a_path_may_be_text(tmp_path, picture):
    maps = {"Grad-CAM": torch.ones(2, 7, 7)}
    save_maps(str(tmp_path / "maps.safetensors"), maps)
    torch.testing.assert_close(load_maps(str(tmp_path / "maps.safetensors")).maps["Grad-CAM"], maps["Grad-CAM"])
    assert read_image(str(picture)).size == (60, 60)
    (tmp_path / "suite.toml").write_text("images = 3")
    suite = read_toml(str(tmp_path / "suite.toml"), SuiteConfig)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (48, 48)).save(tmp_path / "pets" / name / f"{number}.png")
    data = DataConfig(source="folder")
    assert len(load_images(data, "train", str(tmp_path / "pets")).names) == 4
    assert (
        len(
            load_split(
                data.model_copy(update={"stream": True, "image_size": 48}), "train", str(tmp_path / "pets")
            ).labels
        )
        == 4
    )
    short = suite.model_copy(update={"methods": suite.methods[:1], "metrics": ("sparseness",)})
    out = str(tmp_path / "out")
    assert run_suite(short, {"digits": load("digits")}, out)
    assert len(read_results(out).images) == 3
    assert len(read_maps(out, "digits", "Attention")) == 3
    rebuild(out)


def test_a_folder_that_cannot_be_written_is_named_with_the_reason(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write into .*/file/out: Not a directory; give another folder"):
        ensure_folder(tmp_path / "file" / "out")


def test_an_unknown_key_of_a_sidecar_is_named_with_the_known_ones(tmp_path):
    figures.anchor_usage(torch.tensor([3, 1]), torch.tensor([0.1, 0.9])).save(tmp_path / "a.png", dpi=20)
    held = json.loads((tmp_path / "a.json").read_text())
    held["arguments"]["colour"] = "red"
    held.pop("sha256")
    (tmp_path / "a.json").write_text(json.dumps(seal(held)))
    with pytest.raises(InputError, match=r"unknown argument of anchor_usage in .*a\.json.* 'colour'; known: anchors, "):
        redraw_figure(tmp_path / "a.json")


def test_weights_of_another_network_are_told_in_counts_and_three_names(tmp_path):
    save_file({f"layer{number}.weight": torch.zeros(2) for number in range(60)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError) as refusal:
        load("torchvision/squeezenet1_0", weights=tmp_path / "a.safetensors")
    assert "it lacks 52 of 52 tensors (features.0.weight, features.0.bias, features.3." in str(refusal.value)
    assert "60 of its tensors belong to another network (" in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_the_help_of_train_shows_the_table_of_a_sweep(run):
    code, out, _ = run("train", "--help")
    assert code == 0
    assert "under [sweep]" in " ".join(out.split())


def test_a_network_that_takes_no_bottleneck_is_refused_with_ones_that_do(said, tmp_path):
    (tmp_path / "a.toml").write_text('[data]\nlimit = 16\n[model]\nbackbone = "torchvision/squeezenet1_0"\n')
    assert "such as torchvision/resnet18" in said("train", tmp_path / "a.toml", "--out", tmp_path / "run")


def test_boxes_of_another_form_are_told_with_the_right_one(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"image": {"bytes": (tmp_path / "a.png").read_bytes()}, "label": 0, "objects": [[1.0, 2.0, 3.0, 4.0]]}] * 4
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    with pytest.raises(
        InputError, match=r"its column objects holds list<.*such as \{'bbox': \[\[x, y, width, height\]\]"
    ):
        find_part(DataConfig(source="parquet", image_size=8), "test", tmp_path)


def test_a_training_that_learned_nothing_says_so(run, tmp_path):
    recipe = tmp_path / "a.toml"
    recipe.write_text("[data]\nlimit = 16\n[model]\nlatent = 4\n[training]\nepochs = 1\n")
    code, out, error = run("train", recipe, "--out", tmp_path / "run")
    assert code == 0
    assert "best weights: " in out
    assert "these weights are no better than chance: validation accuracy 10.0%, of 10 classes 10.0%" in error
