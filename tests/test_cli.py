"""The command line as a person meets it: what is written, and what a mistake looks like."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import bottlenecked
from PIL import Image
from safetensors.torch import load_file, save_file

from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.methods import explain
from ibviz.benchmark.config import SuiteConfig
from ibviz.errors import InputError
from ibviz.models.checkpoint import load_model, save_model
from ibviz.models.libraries import create
from ibviz.settings import read_toml
from ibviz.workflows import explain as explaining
from ibviz.workflows.evaluate import load_all


@pytest.fixture
def refused(run):
    """Run a command that must be refused with one line and exit code 2."""

    def refused(*arguments: object) -> str:
        code, _, error = run(*arguments)
        assert code == 2, error
        assert error.count("\n") == 1
        assert error.startswith("ibviz: ")
        return error

    return refused


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "run"
    save_model(folder / "model.safetensors", bottlenecked(), {})
    return folder


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (80, 60)) -> Path:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path) if mode == "L" else Image.fromarray(pixels).save(path)
    return path


def test_explain_writes_panels_maps_and_how_they_came_about(run, model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, mode in (("a.png", "RGB"), ("b.png", "L"), ("c.png", "RGBA")):
        picture(folder / name, mode)
    code, out, _ = run(
        "explain", folder, "--model", model, "--out", tmp_path / "out", "--methods", "attention,grad_cam,uniform"
    )
    assert code == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "panel-01.png",
        "panel-01.pdf",
        "panel-01.json",
        "panel-01.data.safetensors",
        "maps-01.safetensors",
    }
    assert "panel-01.png" in out
    record = json.loads((tmp_path / "out/panel-01.json").read_text())["record"]
    assert record["images"] == ["a.png", "b.png", "c.png"]
    assert record["methods"] == {"attention": {}, "grad_cam": {}, "uniform": {}}
    assert record["classes"] == ["predicted"]
    assert record["files"]["a.png"] == hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    weights = model / "model.safetensors"
    named = {key: record["model"][key] for key in ("name", "file", "sha256")}
    assert named == {
        "name": str(model),
        "file": str(weights),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    captions = json.loads((tmp_path / "out/panel-01.json").read_text())["arguments"]["captions"]
    assert [caption.splitlines()[0] for caption in captions] == ["a.png", "b.png", "c.png"]
    maps = load_file(tmp_path / "out/maps-01.safetensors")
    classifier = load_model(model / "model.safetensors")
    fitted = Image.open(folder / "a.png").resize((64, 48), Image.Resampling.BILINEAR).crop((8, 0, 56, 48))
    images = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        seen = classifier.inspect(images).attention
    assert seen.index is not None
    assert seen.anchors is not None
    assert torch.equal(maps["Attention/index"][0].long(), seen.index[0])
    assert torch.equal(maps["Attention/anchors"], seen.anchors)


SLOW = {"feature_ablation", "iba", "kernel_shap", "lime", "occlusion", "rise", "score_cam"}  # hundreds of passes each
CLASSES = ("--classes", "predicted,runner_up")
RULES = ("predicted", "runner-up")
UNFIT = [  # no such attention in it, or no rule for its gate, a product
    "module_attention",
    "raw_attention",
    "attention_rollout",
    "gradient_rollout",
    "deep_lift",
    "lrp",
]


def test_each_class_has_a_row_and_what_does_not_fit_is_named(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(explaining, "METHODS", {name: one for name, one in METHODS.items() if name not in SLOW})
    image = picture(tmp_path / "a.png", size=(48, 48))
    code, _, error = run("explain", image, "--model", model, "--out", tmp_path / "out", "--methods", "all", *CLASSES)
    assert code == 0
    assert re.findall(r"^ibviz: (\w+) left out: [a-z].{30,400}$", error, re.M) == UNFIT
    assert error.count("\n") == len(UNFIT)
    maps = load_file(tmp_path / "out/maps-a.safetensors")
    fit = {name for name, one in METHODS.items() if not one.control and name not in {*SLOW, *UNFIT, "attention"}}
    free = {METHODS[name].label for name in fit if METHODS[name].target_free}
    both = {f"{METHODS[name].label}: {rule}" for name in fit for rule in RULES if METHODS[name].label not in free}
    assert set(maps) == {"Attention/index", "Attention/anchors"} | free | both
    classifier = load_model(model / "model.safetensors")
    images = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        best = classifier(images).topk(2).indices[0]
    for rule, label in zip(RULES, best, strict=True):
        explained = explain(classifier, images, "grad_cam", targets=label[None])
        torch.testing.assert_close(maps[f"Grad-CAM: {rule}"], explained)
    assert len(maps["Attention/index"]) == 1
    sidecar = json.loads((tmp_path / "out/panel-a.json").read_text())
    groups = sidecar["arguments"]["groups"]["mapping"]
    assert groups["Grad-CAM: runner-up"] == "Class activation maps"
    assert "Class activation maps" in (tmp_path / "out/panel-a.json").read_text()


def test_evaluate_prints_and_saves_a_table(run, model, tmp_path):
    suite = tmp_path / "suite.toml"
    suite.write_text('images = 4\n[[methods]]\nmethod = "attention"\n[[protocols]]\nsteps = 4\nties = "group"\n')
    code, out, _ = run("evaluate", suite, "--model", model, "--out", tmp_path / "results")
    assert code == 0
    assert "Attention" in out
    assert "random cells" in out
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"rows.parquet", "table.csv", "table.md", "circumstances.json", "panel.png", "curves.pdf"} <= names


def test_compare_protocols_prints_presets_and_moves(run, model, tmp_path, monkeypatch):
    some = {"baseline: ROAD": {"baseline": "road"}, "score: logit": {"score": "logit"}}
    monkeypatch.setattr("ibviz.benchmark.comparison.CHANGES", some)
    image = picture(tmp_path / "a.png")
    folder = tmp_path / "compared"
    code, out, _ = run(
        "compare-protocols", image, "--model", model, "--method", "integrated_gradients", "--out", folder
    )
    assert code == 0
    assert "Means over 1 image." in out
    assert all(name in out for name in ("torchcam", "iba", "baseline: ROAD", "score: logit", "moved"))
    rows = list(csv.DictReader((folder / "protocols.csv").read_text().splitlines()))
    assert [row["name"] for row in rows[-2:]] == ["baseline: ROAD", "score: logit"]
    assert float(rows[-2]["moved"]) == pytest.approx(float(rows[-2]["srg"]) - float(rows[0]["srg"]))
    assert rows[-1]["moved"] == ""
    assert (folder / "protocols.tex").read_text().count(r"\begin{table*}") == 2
    drawn = json.loads((folder / "protocols.json").read_text())["arguments"]["values"]["mapping"]
    assert drawn == {"default": float(rows[0]["srg"]), "baseline: ROAD": float(rows[-2]["srg"]), "score: logit": None}


@pytest.mark.usefixtures("few_validation_images")
def test_a_sweep_prints_each_run_and_its_table(run, tmp_path):
    plan = tmp_path / "sweep.toml"
    plan.write_text('[data]\nlimit = 16\n[training]\nepochs = 1\n[sweep]\n"model.latent" = [4]\n')
    code, out, _ = run("train", "--sweep", plan, "--out", tmp_path / "runs")
    assert code == 0
    assert "latent=4  epoch   1" in out
    assert (tmp_path / "runs/table.md").read_text() in out
    assert (tmp_path / "runs/latent=4/model.safetensors").exists()


def test_a_sweep_is_given_the_weights_to_start_from(refused, tmp_path, monkeypatch):
    def train_all(*_: object, weights: Path, **__: object) -> None:
        raise InputError(f"asked to start from {weights}")

    monkeypatch.setattr("ibviz.training.sweep.train_all", train_all)
    plan = tmp_path / "sweep.toml"
    plan.write_text('[sweep]\n"training.seed" = [0]\n')
    command = ("train", "--sweep", plan, "--out", tmp_path / "runs", "--weights", "resnet50.safetensors")
    assert refused(*command) == "ibviz: asked to start from resnet50.safetensors\n"


@pytest.mark.usefixtures("few_validation_images")
def test_seeds_are_trained_resumed_tabled_and_judged_together(run, refused, tmp_path):
    recipe, suite, runs = tmp_path / "recipe.toml", tmp_path / "suite.toml", tmp_path / "runs"
    recipe.write_text("[data]\nlimit = 16\n[model]\nlatent = 4\n[training]\nepochs = 1\nseed = 9\n")
    assert run("train", recipe, "--out", runs / "seed-9")[0] == 0  # the first of the seeds is the recipe as it is
    kept = (runs / "seed-9/model.safetensors").read_bytes()
    command = ("train", recipe, "--out", runs, "--seeds", 2)
    assert "seed-9 already holds a run; go on with --resume" in refused(*command)
    code, out, _ = run(*command, "--resume")
    assert code == 0
    assert "seed-10  epoch   1" in out
    assert "seed-9  epoch" not in out
    assert (runs / "seed-9/model.safetensors").read_bytes() == kept
    table = (runs / "table.md").read_text()
    assert table in out
    assert [row.split(" | ")[0] for row in table.splitlines()[2:]] == ["| 9", "| 10", "| mean", "| standard deviation"]

    suite.write_text(
        'images = 4\nmetrics = ["pointing_game"]\n[[methods]]\nmethod = "attention"\n'
        f'[[models]]\nname = "{runs}"\n[[models]]\nname = "digits"\n'
    )
    assert run("evaluate", suite, "--out", tmp_path / "judged")[0] == 0
    models = json.loads((tmp_path / "judged/circumstances.json").read_text())["models"]
    names = {"runs/seed-9": str(runs / "seed-9"), "runs/seed-10": str(runs / "seed-10"), "digits": "digits"}
    assert [(label, one["name"]) for label, one in models.items()] == list(names.items())
    assert len({one["weights"] for one in models.values()}) == 3
    assert f"{runs} holds 2 runs; give one of them, such as {runs}/seed-9" in refused("anchors", runs)


def test_each_network_of_a_suite_has_weights_of_its_own(tmp_path):
    states = []
    for number in (0, 1):
        torch.manual_seed(number)
        states.append(create("torchvision/squeezenet1_1").state_dict())
        save_file(states[-1], tmp_path / f"{number}.safetensors")
    (tmp_path / "suite.toml").write_text(
        "".join(
            f'[[models]]\nname = "torchvision/squeezenet1_1"\nlabel = "{number}"\n'
            f'weights = "{tmp_path / str(number)}.safetensors"\n'
            for number in (0, 1)
        )
    )
    models = load_all(read_toml(tmp_path / "suite.toml", SuiteConfig), "cpu")
    assert list(models) == ["0", "1"]
    for model, state in zip(models.values(), states, strict=True):
        torch.testing.assert_close(dict(model.network.state_dict()), dict(state))


def test_seeds_that_make_no_sense(refused, model, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("")
    command = ("train", recipe, "--out", tmp_path / "runs", "--seeds")
    for count in (-1, 0, 1):
        assert f"at least 2, of which to see a spread; got {count}" in refused(*command, count)
    assert '"training.seed" = [0, 1, 2] under [sweep]' in refused(*command, 2, "--sweep")
    (model / "checkpoint.safetensors").touch()
    assert "holds a single run" in refused("train", recipe, "--out", model, "--seeds", 2)
    assert not (tmp_path / "runs").exists()


def test_images_that_cannot_be_read(refused, model, tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    whole = picture(tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    for name, reason in {
        "missing.jpg": "No such file",
        "text.jpg": "not an image",
        "half.jpg": "truncated",
        "empty": "holds no images",
    }.items():
        assert reason in refused("explain", tmp_path / name, "--model", model, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_known_come_with_those_that_are(refused, model, tmp_path):
    image = picture(tmp_path / "a.png")
    out = ("--out", tmp_path / "out")
    assert "known: ablation_cam, attention, attention_mean" in refused(
        "explain", image, "--model", model, "--methods", "cam", *out
    )
    assert "stem (12x12)" in refused(
        "explain", image, "--model", model, "--methods", "grad_cam", "--layer", "conv9", *out
    )
    assert "torchvision has no classifier" in refused("explain", image, "--model", "resnet5o", *out)
    assert "device 'gpu' cannot be used" in refused("explain", image, "--model", model, "--device", "gpu", *out)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[data]\nsource = "cifar11"\n')
    assert "data.source: unknown source 'cifar11'; known: cifar10, cifar100, coco," in refused("train", recipe, *out)


def test_toml_that_says_something_else(refused, tmp_path):
    recipe = tmp_path / "recipe.toml"
    out = ("--out", tmp_path / "out")
    recipe.write_text("[training]\nepoch = 3\n")
    error = refused("train", recipe, *out)
    assert "unknown key training.epoch; known here: accumulate, anchor_lr, batch_size" in error
    assert "epochs" in error
    recipe.write_text("[training]\nepochs = 0\n")
    assert "training.epochs: Input should be greater than or equal to 1" in refused("train", recipe, *out)
    recipe.write_text("epochs = = 3\n")
    assert "is not TOML" in refused("train", recipe, *out)
    assert "No such file" in refused("train", tmp_path / "none.toml", *out)
    recipe.write_text("[training]\nepochs = 3\n")
    assert "sweep: Field required" in refused("train", "--sweep", recipe, *out)
    recipe.write_text('[sweep]\n"training.epoch" = [1]\n')
    assert "unknown key sweep" in refused("train", recipe, *out)
    assert "run epoch=1 of the sweep: unknown key training.epoch" in refused("train", "--sweep", recipe, *out)
    recipe.write_text("images = 4\n")
    assert "names no model" in refused("evaluate", recipe, *out)


def test_checkpoints_of_another_format(refused, tmp_path):
    image = picture(tmp_path / "a.png")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pickled.pth")
    save_file({"w": torch.zeros(1)}, tmp_path / "bare.safetensors")
    assert "are of none of the authors' networks" in refused("explain", image, "--model", tmp_path / "pickled.pth")
    assert "without an ibviz header" in refused("explain", image, "--model", tmp_path / "bare.safetensors")


def test_data_that_does_not_fit_the_model(refused, model, tmp_path):
    for index, label in enumerate("ab"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(6):
            picture(tmp_path / "data" / label / f"{index}{number}.png")
    suite = tmp_path / "suite.toml"
    suite.write_text('images = 4\n[data]\nsource = "folder"\nimage_size = 32\n')
    command = ("evaluate", suite, "--model", model, "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert "set image_size = 48" in refused(*command)
    assert "needs the path of its files (--data)" in refused(
        "evaluate", suite, "--model", model, "--out", tmp_path / "out"
    )


def test_import_and_help_are_quick():
    """Seconds of the processor, beyond those of torch's own import: the machine may be busy."""

    def seconds(code: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    code = "import torch, time; t = time.process_time(); import ibviz; print(time.process_time() - t)"
    costs = (subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout for _ in range(3))
    assert any(float(cost) < 0.1 for cost in costs)
    script = "import sys; sys.argv = ['ibviz', '--help']; from ibviz.cli import run; run()"
    assert any(seconds(script) < 0.5 for _ in range(3))
    loaded = "import sys, ibviz.cli; assert not {'torch', 'captum', 'matplotlib', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)


def test_public_names_come_on_first_use():
    import ibviz

    assert set(dir(ibviz)) >= {"load", "explain", "evaluate", "wrap", "figures", "metrics", "attribution"}
    assert callable(ibviz.evaluate)
    with pytest.raises(AttributeError, match="no attribute 'evalute'; it has AttentionMap, InputError, anchors"):
        ibviz.evalute  # noqa: B018


def test_an_output_folder_that_cannot_be_is_refused_before_the_work(refused, model, tmp_path):
    taken = picture(tmp_path / "a.png")
    suite, recipe = tmp_path / "suite.toml", tmp_path / "recipe.toml"
    suite.write_text("images = 4\n")
    recipe.write_text("")
    for command in (["explain", taken, "--model", model], ["evaluate", suite, "--model", model], ["train", recipe]):
        assert "cannot write" in refused(*command, "--out", taken)


def test_an_interrupt_is_told_in_one_line_after_what_was_finished(run, monkeypatch, tmp_path):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ibviz.workflows.figure.redraw_files", interrupted)
    assert run("figure", tmp_path / "a.json") == (130, "", "ibviz: stopped; what was finished is kept\n")


def test_the_version_is_that_of_the_package(run):
    import ibviz

    assert run("--version") == (0, f"ibviz {ibviz.__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "idle"),
    [
        (("train", "--sweep", "sweep.toml", "--out", "runs"), {"--resume": ()}),
        (
            ("evaluate", "--merge", "a", "b", "--out", "c"),
            {
                "--model": ("digits",),
                "--data": ("d",),
                "--limit": ("4",),
                "--resume": (),
                "--verify": ("rows.parquet",),
            },
        ),
        (("evaluate", "suite.toml", "--verify", "rows.parquet"), {"--out": ("c",), "--resume": ()}),
    ],
)
def test_flags_that_would_do_nothing_are_refused(refused, tmp_path, monkeypatch, command, idle):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.toml").write_text("images = 4\n")
    for flag, values in idle.items():
        assert f"nothing for {flag} to do; leave that out" in refused(*command, flag, *values)
