import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ibviz.config import DataConfig, Recipe, TrainingConfig
from ibviz.errors import InputError
from ibviz.files import read_rows
from ibviz.models.checkpoint import read_tensors
from ibviz.models.loading import load
from ibviz.training.loop import train

RECIPE = Recipe(data=DataConfig(limit=640), training=TrainingConfig(epochs=2, batch_size=64))
TOML = "[data]\nlimit = 640\n[training]\nepochs = 3\nbatch_size = 64\n"


def silent(row: object) -> None:
    """No output in tests."""


def start(recipe: Path, out: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ibviz", "train", str(recipe), "--out", str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def read_log(run: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(run / "log.parquet")]


def kill_in_epoch_two(process: subprocess.Popen, out: Path) -> None:
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists():  # the end of epoch one
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_and_resumed_run_ends_with_the_same_bytes(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(TOML)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    kill_in_epoch_two(start(recipe, broken), broken)
    _, header = read_tensors(broken / "checkpoint.safetensors", "checkpoint")
    assert header["epoch"] < 3
    assert start(recipe, broken, "--resume").wait() == 0
    assert start(recipe, whole).wait() == 0
    for name in ("checkpoint.safetensors", "model.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert read_log(broken) == read_log(whole)
    assert {path.name for path in broken.iterdir()} == {"checkpoint.safetensors", "model.safetensors", "log.parquet"}


def test_training_lowers_the_loss_and_reports_nats_and_bits(tmp_path):
    rows = train(RECIPE, tmp_path, report=silent)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["train_total_nats"] < rows[0]["train_total_nats"]
    for row in rows:
        assert row["train_cross_entropy_bits"] == pytest.approx(row["train_cross_entropy_nats"] / 0.6931471805599453)
    assert read_rows(tmp_path / "log.parquet") == rows
    assert not any(module.training for module in load(tmp_path).modules())


def test_a_run_is_not_overwritten_nor_resumed_by_another_recipe(tmp_path):
    short = RECIPE.model_copy(update={"training": TrainingConfig(epochs=1)})
    train(short, tmp_path, report=silent)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(InputError, match="already holds a run; go on with --resume"):
        train(short, tmp_path, report=silent)
    with pytest.raises(InputError, match="trained by another recipe"):
        train(RECIPE, tmp_path, resume=True, report=silent)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_epoch(tmp_path, monkeypatch):
    from ibviz.models.objective import Losses, Objective  # noqa: PLC0415

    honest, calls = Objective.losses, []

    def poisoned(self, seen, labels) -> Losses:
        calls.append(1)
        losses = honest(self, seen, labels)
        return losses._replace(total=losses.total * (torch.nan if len(calls) == 13 else 1))

    monkeypatch.setattr(Objective, "losses", poisoned)
    with pytest.raises(InputError, match="not finite at step 3 of epoch 2"):
        train(RECIPE, tmp_path, report=silent)
    assert read_tensors(tmp_path / "checkpoint.safetensors", "checkpoint")[1]["epoch"] == 1
    assert torch.stack([p.isfinite().all() for p in load(tmp_path).parameters()]).all()


def test_random_state_outside_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(
        Recipe(data=DataConfig(limit=128), training=TrainingConfig(epochs=1)),
        tmp_path,
        report=silent,
    )
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_of_a_recipe_changes_order_noise_and_weights(tmp_path):
    logs = []
    for seed in (0, 1):
        recipe = Recipe(data=DataConfig(limit=128), training=TrainingConfig(epochs=1, seed=seed))
        logs.append(train(recipe, tmp_path / str(seed), report=silent)[0]["train_total_nats"])
    assert logs[0] != logs[1]
