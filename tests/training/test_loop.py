import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from ibviz.data import sources
from ibviz.data.config import DataConfig
from ibviz.data.image_set import ImageSet
from ibviz.data.sources import load_split
from ibviz.errors import InputError
from ibviz.files import read_rows
from ibviz.models.checkpoint import read_tensors
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ObjectiveConfig
from ibviz.models.loading import load
from ibviz.settings import read_toml
from ibviz.training import loop
from ibviz.training.check import check_network
from ibviz.training.distributed import BatchShard
from ibviz.training.loaders import DeviceLoader
from ibviz.training.loop import train
from ibviz.training.recipe import Recipe, TrainingConfig
from ibviz.training.run import OPTIMIZERS, Run, parameter_groups
from ibviz.training.run import start as begin

SPEC = InputConfig(size=16, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), class_names=("a", "b"))
RECIPE = Recipe(data=DataConfig(limit=320), training=TrainingConfig(epochs=2, batch_size=32))  # 10 steps an epoch
TOML = "[data]\nlimit = 256\n[training]\nepochs = 3\nbatch_size = 64\n"


def silent(row: object) -> None:
    """No output in tests."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A finished run of `RECIPE`, and what its epochs reported."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(RECIPE, folder, report=silent)


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(trained[0], tmp_path / "run")


VALIDATED = 64  # images in each epoch of the command line
COMMAND = f"""
from ibviz.__main__ import main
from ibviz.data import sources
sources._DRAWN["validation"] = {VALIDATED}
main()
"""


def start(recipe: Path, out: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-c", COMMAND, "train", str(recipe), "--out", str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def read_log(run: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(run / "log.parquet")]


def kill_in_epoch_two(process: subprocess.Popen, out: Path) -> None:
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists():  # the end of epoch one
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_and_resumed_run_ends_with_the_same_bytes(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(TOML)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    kill_in_epoch_two(start(recipe, broken), broken)
    _, header = read_tensors(broken / "checkpoint.safetensors", "checkpoint")
    assert header["epoch"] < 3
    assert start(recipe, broken, "--resume").wait() == 0
    monkeypatch.setitem(sources._DRAWN, "validation", VALIDATED)
    train(read_toml(recipe, Recipe), whole, report=silent)
    for name in ("checkpoint.safetensors", "model.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert read_log(broken) == read_log(whole)
    assert {path.name for path in broken.iterdir()} == {
        "checkpoint.safetensors",
        "checkpoint-previous.safetensors",
        "model.safetensors",
        "log.parquet",
    }


def test_training_lowers_the_loss_and_reports_nats_and_bits(trained):
    folder, rows = trained
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["train_total_nats"] < rows[0]["train_total_nats"]
    for row in rows:
        assert row["train_cross_entropy_bits"] == pytest.approx(row["train_cross_entropy_nats"] / 0.6931471805599453)
    assert read_rows(folder / "log.parquet") == rows
    assert not any(module.training for module in load(folder).modules())


def test_the_authors_price_is_logged_as_part_of_the_loss_and_not_as_information(tmp_path, trained):
    once = RECIPE.training.model_copy(update={"epochs": 1})
    official = RECIPE.model_copy(update={"objective": ObjectiveConfig(beta=0.5, kl="official"), "training": once})
    row = train(official, tmp_path, report=silent)[-1]
    config, price = official.objective, row["train_official_price"]
    quantizer = config.codebook * row["train_codebook"] + config.commitment * row["train_commitment"]
    total = row["train_cross_entropy_nats"] + 0.5 * price + quantizer
    assert row["train_total_nats"] == pytest.approx(total, rel=1e-5)
    assert not {"train_rate_nats", "train_rate_bits"} & set(row)
    exact = {"train_rate_nats", "train_rate_bits", "validation_rate_bits"}
    assert exact <= set(trained[1][-1])


def test_a_run_is_not_overwritten_nor_resumed_by_another_recipe(run):
    before = (run / "checkpoint.safetensors").read_bytes()
    with pytest.raises(InputError, match="already holds a run; go on with --resume"):
        train(RECIPE, run, report=silent)
    longer = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"epochs": 3})})
    with pytest.raises(InputError, match="trained by another recipe"):
        train(longer, run, resume=True, report=silent)
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_epoch(tmp_path, monkeypatch):
    from ibviz.models.objective import Losses, Objective

    honest, calls = Objective.losses, []

    def poisoned(self, seen, labels, share) -> Losses:
        calls.append(1)
        losses = honest(self, seen, labels, share)
        return losses._replace(total=losses.total * (torch.nan if len(calls) == 13 else 1))

    monkeypatch.setattr(Objective, "losses", poisoned)
    with pytest.raises(InputError, match="not finite at step 3 of epoch 2"):
        train(RECIPE, tmp_path, report=silent)
    assert read_tensors(tmp_path / "checkpoint.safetensors", "checkpoint")[1]["epoch"] == 1
    assert torch.stack([p.isfinite().all() for p in load(tmp_path).parameters()]).all()


def test_random_state_outside_is_left_alone(tmp_path, monkeypatch):
    cards = {0: torch.tensor([1]), 1: torch.tensor([2])}  # two GPUs' generators, all of which torch.manual_seed reseeds
    before = dict(cards)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda card: cards[card])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, card: cards.update({card: state}))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: cards.update(dict.fromkeys(cards, torch.tensor([3]))))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    cards.update(before)
    train(
        Recipe(data=DataConfig(limit=128), training=TrainingConfig(epochs=1)),
        tmp_path,
        report=silent,
    )
    assert torch.equal(torch.rand(3), expected)
    assert cards == before


def test_order_noise_and_weights_follow_from_the_seed_of_a_recipe(tmp_path):
    def begun(seed: int) -> Run:
        recipe = Recipe(training=TrainingConfig(seed=seed, crop_padding=0))
        return begin(recipe, tmp_path, SPEC, Accelerator(cpu=True))

    first, again, other = map(begun, (0, 0, 1))
    ways = ((first, 1), (again, 1), (first, 2), (other, 1))
    orders = [torch.cat([rows for rows, _ in loop._plan(run, epoch, 100)]).tolist() for run, epoch in ways]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert orders[0] == orders[1]
    assert len(set(map(tuple, orders))) == 3
    weights = [run.model.get_parameter("decoder.0.weight") for run in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    first.objective.train()
    pixels, labels = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8), torch.arange(4) % 2
    seeds = [loop.stream_seed(seed, epoch, step) for seed, epoch, step in ((0, 1, 1), (0, 1, 1), (0, 1, 2), (1, 1, 1))]
    part = {"inputs": DeviceLoader(pixels, labels).inputs, "price": torch.zeros(())}
    losses = [loop._pass(first, pixels, labels, BatchShard(0, 1, 4), **part, seed=seed) for seed in seeds]
    assert torch.equal(losses[0], losses[1])
    assert len({loss[0].item() for loss in losses}) == 3


def test_weights_broken_by_the_last_step_do_not_replace_the_last_good_epoch(tmp_path, monkeypatch):
    honest, calls = loop._step, []

    def breaking(run, *rest):
        losses = honest(run, *rest)
        calls.append(1)
        if len(calls) == 20:  # the last step of epoch 2, after its loss was computed
            next(run.model.decoder.parameters()).data.fill_(torch.nan)
        return losses

    monkeypatch.setattr(loop, "_step", breaking)
    with pytest.raises(InputError, match="not finite on validation after epoch 2"):
        train(RECIPE, tmp_path, report=silent)
    assert read_tensors(tmp_path / "checkpoint.safetensors", "checkpoint")[1]["epoch"] == 1
    assert torch.stack([p.isfinite().all() for p in load(tmp_path).parameters()]).all()


def test_a_run_whose_log_is_lost_is_refused(run):
    (run / "log.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"cannot read .*log.parquet as Parquet"):
        train(RECIPE, run, resume=True, report=silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"crop_padding": 48}}, "crop_padding must be below the image's 48 pixels"),
        ({"training": {"batch_size": 1}}, "a batch needs two images a pass"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_training(changes, message, tmp_path):
    recipe = Recipe.model_validate({"data": {"limit": 20}} | changes)
    with pytest.raises(InputError, match=message):
        train(recipe, tmp_path, report=silent)
    assert list(tmp_path.iterdir()) == []


def test_images_without_a_label_are_refused_with_their_number(tmp_path, monkeypatch):
    def unlabelled(*arguments):
        images = load_split(*arguments)
        assert isinstance(images, ImageSet)
        return images._replace(labels=images.labels.where(images.labels != 3, -1))

    monkeypatch.setattr(loop, "load_split", unlabelled)
    with pytest.raises(InputError, match=r"22 training or validation images have no label"):
        train(Recipe(data=DataConfig(limit=20)), tmp_path, report=silent)


def test_a_backbone_that_cannot_take_the_images_is_refused():
    recipe = Recipe.model_validate({"model": {"backbone": "vgg32"}})
    with pytest.raises(InputError, match="backbone vgg32 cannot take images of 16 pixels"):
        check_network(recipe, IBClassifier(recipe.model, SPEC), SPEC)


def test_half_precision_trains_close_to_full_in_the_same_process(tmp_path):
    logs = {}
    for precision in ("no", "bf16"):
        recipe = Recipe.model_validate({"data": {"limit": 256}, "training": {"epochs": 1, "precision": precision}})
        logs[precision] = train(recipe, tmp_path / precision, report=silent)[0]["train_total_nats"]
    assert logs["bf16"] != logs["no"]
    assert logs["bf16"] == pytest.approx(logs["no"], rel=0.05)


def test_anchors_have_their_own_rate_and_no_decay():
    recipe = Recipe.model_validate({"training": {"lr": 0.1, "anchor_lr": 0.5, "weight_decay": 0.3, "momentum": 0}})
    spec = InputConfig(size=48, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), class_names=("a", "b"))
    model = IBClassifier(recipe.model, spec)
    optimizer = OPTIMIZERS["sgd"](parameter_groups(model, recipe.training), recipe.training)
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["share"]
    assert model.quantizer is not None
    before = [parameter.detach().clone() for parameter in (model.quantizer.anchors, model.bottleneck.project.weight)]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.quantizer.anchors.detach(), before[0] - 0.1 * 0.5)
    torch.testing.assert_close(model.bottleneck.project.weight.detach(), before[1] - 0.1 * (1 + 0.3 * before[1]))
