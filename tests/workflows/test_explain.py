"""What `ibviz explain` takes of a folder, beside what lies there that is no picture."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ibviz import cli
from ibviz.attribution import explain, load_maps, recorded_errors
from ibviz.data.decode import fit, read_image
from ibviz.errors import InputError
from ibviz.models.config import InputConfig
from ibviz.models.loading import load
from ibviz.workflows.explain import Request, explain_files, repeating_command
from ibviz.workflows.image_source import cropped_share, read_source
from ibviz.workflows.model import ModelSource


@pytest.fixture
def folder(tmp_path):
    """Two photographs among a broken one, a pipe, a folder and a photograph of a kind that is not read."""
    generator = np.random.default_rng(0)
    for name in ("a.png", "c.jpg"):
        Image.fromarray(generator.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    (tmp_path / "d.tif").touch()
    (tmp_path / "e.jpg").mkdir()
    os.mkfifo(tmp_path / "f.jpg")
    return tmp_path


def test_what_is_broken_in_a_folder_is_left_out_and_listed(folder):
    model = load("digits")
    with (
        pytest.warns(UserWarning, match=r"1 image skipped, unreadable: b\.png"),
        pytest.warns(UserWarning, match=r"3 with the name of an image .*: d\.tif, e\.jpg, f\.jpg"),
    ):
        given = read_source(folder, model, None).images
    assert given.names == ("a.png", "c.jpg")
    assert [fault.name for fault in given.faults] == ["b.png"]
    assert given.images.equal(torch.stack([fit(read_image(folder / name), 48) for name in given.names]))


@pytest.mark.filterwarnings("ignore:. with the name")
def test_a_folder_of_broken_pictures_and_a_broken_picture_are_errors(folder):
    for name in ("a.png", "c.jpg"):
        (folder / name).write_bytes(b"hello")
    with pytest.raises(InputError, match=r"cannot decode .*a\.png.*2 others cannot be read either"):
        read_source(folder, load("digits"), None)
    with pytest.raises(InputError, match=r"cannot decode .*b\.png.* replace or remove it$"):
        read_source(folder / "b.png", load("digits"), None)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nowhere.jpg"])
def test_a_name_that_is_nowhere_is_one_error(tmp_path, name):
    with pytest.raises(InputError, match="cannot read image"):
        read_source(tmp_path / name, load("digits"), None)


def test_what_a_killed_explain_left_half_written_goes(tmp_path):
    Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    dead = tmp_path / "out" / f".panel-01.pdf.{'3' * 18}.part.pdf"
    dead.parent.mkdir()
    dead.write_text("half")
    explain_files(Request(tmp_path / "a.png", {"attention": {}}), load("digits"), tmp_path / "out")
    written = {"panel-a.png", "panel-a.pdf", "panel-a.json", "panel-a.data.safetensors", "maps-a.safetensors"}
    assert {path.name for path in dead.parent.iterdir()} == written


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ibviz", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.run()
    return int(stopped.value.code or 0)


def test_the_command_in_a_sidecar_makes_the_same_maps(photo, monkeypatch, tmp_path):
    flags = ["--model", "digits", "--classes", "7,runner_up", "--methods", "grad_cam,gradient_shap,attention"]
    assert run(monkeypatch, "explain", photo, *flags, "--out", tmp_path / "one") == 0
    record = json.loads((tmp_path / "one" / "panel-photo.json").read_text())["record"]
    program, *words = shlex.split(record["command"])
    assert program == "ibviz"
    assert run(monkeypatch, *words, "--out", tmp_path / "two") == 0
    first, second = ((tmp_path / name / "maps-photo.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second
    saved = load_maps(tmp_path / "one" / "maps-photo.safetensors")
    assert saved.record == record
    assert list(saved.maps) == [
        "Grad-CAM: 7",
        "Grad-CAM: runner-up",
        *(f"GradientSHAP: {name}" for name in (7, "runner-up")),
        "Attention",
    ]


def test_the_layer_in_a_sidecar_is_the_one_that_was_taken(photo, monkeypatch, tmp_path):
    flags = ["--model", "digits", "--methods", "grad_cam"]
    run(monkeypatch, "explain", photo, *flags, "--out", tmp_path / "chosen")
    record = json.loads((tmp_path / "chosen" / "panel-photo.json").read_text())["record"]
    model, image = load("digits"), fit(read_image(photo), 48)[None].float() / 255
    chosen = load_maps(tmp_path / "chosen" / "maps-photo.safetensors").maps["Grad-CAM"]
    assert record["layers"]["grad_cam"] in dict(model.named_modules())
    named = explain(model, image, "grad_cam", layer=record["layers"]["grad_cam"])
    torch.testing.assert_close(chosen, named)  # up to the memory format, which the command line changes
    assert run(monkeypatch, "explain", photo, *flags, "--layer", "attention.head", "--out", tmp_path / "other") == 0
    other = json.loads((tmp_path / "other" / "panel-photo.json").read_text())["record"]
    assert other["layers"] == {"grad_cam": "attention.head"}
    assert "--layer attention.head" in other["command"]


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (
            "zebra",
            "no class is called 'zebra'; expected one of the 10 names .*, a number from 0 to 9, or predicted",
        ),
        ("runnerup", "did you mean 'runner_up'"),
        ("7,07", "named twice|no class"),
        ("7,7", "the class '7' is named twice"),
        ("true", "needs the label of every image"),
        (",", "no class is named"),
    ],
)
def test_a_wrong_class_is_one_line(photo, monkeypatch, tmp_path, capsys, classes, says):
    assert run(monkeypatch, "explain", photo, "--model", "digits", "--classes", classes, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert error.count("\n") == 1


@pytest.mark.parametrize(("size", "resize"), [((48, 64), None), ((100, 50), 56), ((64, 64), 60)])
def test_the_share_that_the_crop_leaves_out_is_that_of_the_pixels(size, resize):
    spec = InputConfig(size=48, resize=resize, mean=(0.5,), std=(0.5,), class_names=("a", "b"))
    rows, columns = np.indices(size)
    marks = Image.fromarray(np.stack([rows, columns, rows], 2).astype(np.uint8))
    seen = fit(marks, 48, resize).float()
    high, wide = (float(seen[channel].max() - seen[channel].min()) for channel in (0, 1))
    assert cropped_share(size, spec) == pytest.approx(1 - high * wide / (size[0] * size[1]), abs=0.06)


def sidecar(folder, name="photo"):
    return json.loads((folder / f"panel-{name}.json").read_text())


def test_options_reach_the_methods_and_the_command_that_makes_the_maps_again(photo, monkeypatch, tmp_path):
    flags = ["--model", "digits", "--methods", "rise,grad_cam"]
    options = ["--set", "rise.masks=60", "--set", "rise.sampling=plain", "--set", "grad_cam.layer=attention.head"]
    assert run(monkeypatch, "explain", photo, *flags, *options, "--out", tmp_path / "one") == 0
    record = sidecar(tmp_path / "one")["record"]
    assert record["methods"] == {
        "rise": {"masks": 60, "sampling": "plain"},
        "grad_cam": {"layer": "attention.head"},
    }
    _, *words = shlex.split(record["command"])
    assert run(monkeypatch, *words, "--out", tmp_path / "two") == 0
    first, second = ((tmp_path / name / "maps-photo.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second
    model, image = load("digits"), fit(read_image(photo), 48)[None].float() / 255
    rise = explain(model, image, "rise", masks=60, sampling="plain")
    torch.testing.assert_close(load_maps(tmp_path / "one" / "maps-photo.safetensors").maps["RISE"], rise)


def test_layers_that_differ_are_written_method_by_method():
    methods = {"grad_cam": {"layer": "a"}, "layer_cam": {}}
    command = repeating_command(Request(Path("a.png"), methods), methods, ModelSource("digits"), "cpu")
    assert "--layer" not in command
    assert command.endswith("""--set 'grad_cam.layer="a"'""")


def test_errors_of_drawn_maps_are_kept_and_told_below_the_panel(photo, monkeypatch, tmp_path):
    model, image = load("digits"), fit(read_image(photo), 48)[None].float() / 255
    flags = ["--model", "digits", "--methods", "rise,smooth_grad,grad_cam", "--classes", "7,predicted"]
    options = ["--set", "rise.error=2.5", "--set", "smooth_grad.samples=8"]
    assert run(monkeypatch, "explain", photo, *flags, *options, "--out", tmp_path) == 0
    expected = {}
    drawn: list[tuple[str, str, dict[str, Any]]] = [
        ("rise", "RISE", {"error": 2.5}),
        ("smooth_grad", "SmoothGrad", {"samples": 8}),
    ]
    for name, label, own in drawn:
        for chosen in ("7", "predicted"):
            with recorded_errors() as errors:
                explain(model, image, name, targets=7 if chosen == "7" else "predicted", **own)
            expected[f"{label}: {chosen}"] = errors
    written = sidecar(tmp_path)
    assert list(written["record"]["errors"]) == list(expected)
    for label, errors in expected.items():
        assert written["record"]["errors"][label] == pytest.approx(errors, rel=1e-3)
    assert written["record"]["errors"]["RISE: 7"][0] <= 2.5
    told = ", ".join(f"{label} {errors[0]:.2g}" for label, errors in written["record"]["errors"].items())
    assert f"Standard error of maps drawn at random, as a share of their size: {told}." in written["arguments"]["note"]
    assert load_maps(tmp_path / "maps-photo.safetensors").record["errors"] == written["record"]["errors"]


@pytest.mark.filterwarnings("ignore")
def test_a_page_of_several_images_has_the_error_of_each(folder, tmp_path):
    out = tmp_path / "out"
    explain_files(Request(folder, {"smooth_grad": {"samples": 4}, "saliency": {}}), load("digits"), out)
    [errors] = sidecar(out, "01")["record"]["errors"].values()
    model = load("digits")
    images = [fit(read_image(folder / name), 48)[None].float() / 255 for name in ("a.png", "c.jpg")]
    for image, error in zip(images, errors, strict=True):
        with recorded_errors() as alone:
            explain(model, image, "smooth_grad", samples=4)
        assert error == pytest.approx(alone[0], rel=1e-3)
    low, high = sorted(errors)
    assert f"SmoothGrad {low:.2g} to {high:.2g}." in sidecar(out, "01")["arguments"]["note"]


def test_methods_that_draw_nothing_have_no_errors(photo, tmp_path):
    explain_files(Request(photo, {"saliency": {}}), load("digits"), tmp_path / "out")
    written = sidecar(tmp_path / "out")
    assert "errors" not in written["record"]
    assert "random" not in written["arguments"]["note"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rise=0.2", "--set takes METHOD.OPTION=VALUE, such as rise.error=0.2; got 'rise=0.2'"),
        ("rise.error", "--set takes METHOD.OPTION=VALUE, such as rise.error=0.2; got 'rise.error'"),
        ("rise.errors=0.2", "unknown option of RISE 'errors'"),
        ("rise.error=-1", "options of RISE, {'error': -1}: Input should be greater than 0"),
        ("rise.error=low", "options of RISE, {'error': 'low'}: Input should be a valid number"),
        ("ries.error=1", "unknown method 'ries'"),
        ("lime.error=0.2", "--set names 'lime', which is not among the methods rise; add it there"),
    ],
)
def test_a_wrong_option_is_one_line(photo, monkeypatch, capsys, tmp_path, setting, message):
    words = ["explain", photo, "--model", "digits", "--methods", "rise", "--set", setting, "--out", tmp_path / "out"]
    assert run(monkeypatch, *words) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line
