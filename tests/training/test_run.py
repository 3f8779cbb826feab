"""What recipes switch on, against closed forms; runs that are cut off and go on."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from networks import bottlenecked
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from training.streams import on_disk

from ibviz.data import sources
from ibviz.data.config import DataConfig
from ibviz.data.image_set import ImageSet, select
from ibviz.data.sources import load_split
from ibviz.errors import InputError
from ibviz.files import locked, read_rows, write_rows
from ibviz.models.checkpoint import load_model, read_header, read_tensors
from ibviz.models.config import ObjectiveConfig
from ibviz.models.objective import Objective
from ibviz.training import loop, sweep, tracking
from ibviz.training.loaders import make_loader, synchronise_faults, worker_count
from ibviz.training.loop import train
from ibviz.training.recipe import Recipe, Sweep, TrainingConfig
from ibviz.training.run import OPTIMIZERS, best_row, is_saved_epoch, update_average
from ibviz.training.sweep import grid, over_seeds, spread, train_all


def silent(*facts: object) -> None:
    """No output in tests."""


def small(**training: object) -> Recipe:
    given = {"epochs": 3, "lr": 0.02} | training
    return Recipe.model_validate({"data": {"limit": 96}, "model": {"latent": 8}, "training": given})


def test_the_average_of_weights_is_its_closed_form_and_counts_are_copied():
    model = nn.BatchNorm2d(2)
    average, decay, history = copy.deepcopy(model), 0.8, []
    for step in range(5):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([step**2, -step]))
            model.get_buffer("running_mean").fill_(step + 1)
        model.get_buffer("num_batches_tracked").fill_(step + 7)
        history.append(model.weight.detach().clone())
        update_average(average, model, decay)
    expected = decay**5 * torch.ones(2) + sum((1 - decay) * decay ** (4 - i) * one for i, one in enumerate(history))
    torch.testing.assert_close(average.weight.detach(), expected)
    means = sum((1 - decay) * decay ** (4 - i) * (i + 1) for i in range(5))
    torch.testing.assert_close(average.get_buffer("running_mean"), torch.full((2,), means))
    assert average.num_batches_tracked == 11


def test_label_smoothing_spreads_a_share_over_all_classes():
    images, labels = torch.rand(4, 3, 48, 48), torch.tensor([0, 1, 2, 9])
    model, smoothing = bottlenecked(), 0.3
    seen = model.inspect(images)
    logs = seen.logits.log_softmax(1)
    expected = -(1 - smoothing) * logs[torch.arange(4), labels].mean() - smoothing * logs.mean()
    losses = Objective(model, ObjectiveConfig(label_smoothing=smoothing)).losses(seen, labels)
    torch.testing.assert_close(losses.cross_entropy, expected)


def test_adam_is_the_authors():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    config = TrainingConfig(optimizer="adam", lr=1e-4, momentum=0.5, weight_decay=0.0)
    optimizer = OPTIMIZERS["adam"]([{"params": [weight]}], config)
    first, second, expected = torch.zeros(2), torch.zeros(2), weight.detach().clone()
    for step in range(1, 4):
        weight.grad = torch.tensor([0.3 * step, -2.0])
        first, second = 0.5 * first + 0.5 * weight.grad, 0.999 * second + 0.001 * weight.grad**2
        expected = expected - 1e-4 * (first / (1 - 0.5**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


def cut_off(recipe: Recipe, folder: Path, after: int) -> None:
    def stop(row: dict) -> None:
        if row["epoch"] == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, report=stop)


@pytest.mark.parametrize(
    ("training", "after"),
    [
        (
            {"epochs": 2, "optimizer": "adam", "lr": 1e-3, "momentum": 0.5, "ema": 0.9, "schedule": {"kind": "cosine"}},
            1,
        ),
        ({"save_every": 2, "accumulate": 2, "warmup": [0.01]}, 2),
    ],
)
def test_a_cut_off_run_ends_with_the_same_bytes(training, after, tmp_path):
    recipe = small(**training)
    train(recipe, tmp_path / "whole", report=silent)
    cut_off(recipe, tmp_path / "broken", after)
    left = tmp_path / "broken/.checkpoint.safetensors.12345.part.safetensors"  # of a run that was killed as it saved
    left.write_bytes(b"half")
    with locked(tmp_path / "broken"), pytest.raises(InputError, match=r"broken is in use by process \d+ on"):
        train(recipe, tmp_path / "broken", resume=True, log="tensorboard", report=silent)
    assert left.exists()  # it may be the other's
    train(recipe, tmp_path / "broken", resume=True, report=silent)
    files = {path.name for path in (tmp_path / "broken").iterdir()}
    assert files == {"checkpoint.safetensors", "checkpoint-previous.safetensors", "model.safetensors", "log.parquet"}
    for name in ("checkpoint.safetensors", "model.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole, broken = (read_rows(tmp_path / name / "log.parquet") for name in ("whole", "broken"))
    assert [row | {"seconds": 0} for row in broken] == [row | {"seconds": 0} for row in whole]
    measured = [epoch for epoch in range(1, recipe.training.epochs + 1) if is_saved_epoch(epoch, recipe.training)]
    assert [row["epoch"] for row in whole if row["validation_accuracy_average_map"] is not None] == measured


def test_a_log_of_an_older_ibviz_goes_on_with_the_columns_of_today(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "warning_of", lambda mean, deviation: f"{mean} {deviation}")
    recipe = small(epochs=3)
    cut_off(recipe, tmp_path, 1)
    [first] = read_rows(tmp_path / "log.parquet")
    assert first["warning"] == f"{first['validation_attention_mean']} {first['validation_attention_deviation']}"
    known = {key: value for key, value in first.items() if "_map" not in key and key != "warning"}
    write_rows(tmp_path / "log.parquet", [known])
    rows = train(recipe, tmp_path, resume=True, report=silent)
    logged = read_rows(tmp_path / "log.parquet")
    assert logged[0] == dict.fromkeys(first) | known
    assert logged[1:] == rows[1:]
    assert [row["warning"] is None for row in logged] == [True, False, False]  # as soon as seen, and after the last
    assert all(0 <= row["validation_accuracy_other_map"] <= 1 for row in rows[1:])


def test_data_of_another_number_of_classes_does_not_resume(tmp_path, monkeypatch):
    train(small(epochs=2, save_every=1), tmp_path, report=silent)
    more = small(epochs=2, save_every=1)

    def relabelled(*given: Any) -> ImageSet:
        return split_in_memory(*given)._replace(class_names=tuple("0123456789AB"))

    monkeypatch.setattr(loop, "load_split", relabelled)
    with pytest.raises(InputError, match="was trained on 10 classes, the data has 12"):
        train(more, tmp_path, resume=True, report=silent)


def test_the_averaged_weights_are_judged_and_kept(tmp_path):
    rows = train(small(epochs=1, ema=0.5), tmp_path, report=silent)
    tensors, _ = read_tensors(tmp_path / "checkpoint.safetensors", "checkpoint")
    model = load_model(tmp_path / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[f"average.{name}"])
    assert not torch.equal(model.decoder.state_dict()["0.weight"], tensors["model.decoder.0.weight"])
    validation = make_loader(split_in_memory(small().data, "validation", None), torch.device("cpu"))
    assert loop.validate(model, validation)["accuracy"] == rows[0]["validation_accuracy"]


def test_checkpoints_come_every_few_epochs_and_the_best_of_those_is_kept():
    config = TrainingConfig(epochs=7, save_every=3)
    assert [epoch for epoch in range(1, 8) if is_saved_epoch(epoch, config)] == [3, 6, 7]
    accuracies = [0.1, 0.9, 0.4, 0.9, 0.9, 0.5, 0.5]
    rows = [{"epoch": n, "validation_accuracy": value} for n, value in enumerate(accuracies, 1)]
    assert best_row(rows, Recipe(training=config))["epoch"] == 7
    assert best_row(rows[:3], Recipe(training=config))["epoch"] == 3


def split_in_memory(*given: Any) -> ImageSet:
    images = load_split(*given)
    assert isinstance(images, ImageSet)
    return images


def test_a_streamed_set_trains_to_the_same_bytes_as_a_resident_one(tmp_path, monkeypatch):
    recipe = small(epochs=1, accumulate=2)
    train(recipe, tmp_path / "resident", report=silent)
    monkeypatch.setattr(loop, "load_split", lambda *given: on_disk(split_in_memory(*given)))
    train(recipe, tmp_path / "streamed", report=silent)
    for name in ("checkpoint.safetensors", "model.safetensors"):
        assert (tmp_path / "streamed" / name).read_bytes() == (tmp_path / "resident" / name).read_bytes()


def test_broken_images_of_a_streamed_set_are_left_out_and_listed(tmp_path, monkeypatch):
    images = split_in_memory(small().data, "validation", None)
    judged = loop.validate(bottlenecked(), make_loader(on_disk(images, (3, 100)), torch.device("cpu")))
    kept = torch.isin(torch.arange(200), torch.tensor([3, 100]), invert=True)
    whole = images._replace(images=images.images[kept], labels=images.labels[kept])
    assert judged == pytest.approx(loop.validate(bottlenecked(), make_loader(whole, torch.device("cpu"))))
    monkeypatch.setattr(loop, "load_split", lambda *given: on_disk(split_in_memory(*given), (3,)))
    recipe = small(epochs=1).model_copy(update={"data": DataConfig(limit=128)})
    train(recipe, tmp_path, report=silent)
    listed = (tmp_path / "skipped.txt").read_text()
    assert listed == "train-00003: train-00003 is broken\nvalidation-00003: validation-00003 is broken\n"
    monkeypatch.setattr(loop, "load_split", lambda *given: on_disk(split_in_memory(*given), tuple(range(9))))
    with pytest.raises(InputError, match=r"^\d of 128 images cannot be read, more than 1%: train-00000 is broken"):
        train(recipe, tmp_path / "none", report=silent)
    batches = make_loader(on_disk(images, tuple(range(20))), torch.device("cpu")).batches([torch.arange(64)])
    with pytest.raises(InputError, match=r"^20 of 200 images cannot be read") as told:
        list(batches)
    assert "Traceback" not in str(told.value)  # of the worker that met them


def test_corrupt_images_are_counted_over_all_processes(monkeypatch):
    monkeypatch.setitem(sources._DRAWN, "validation", 1000)
    mine = on_disk(split_in_memory(small().data, "validation", None), (3, 7, *range(10, 18), 500))
    mine.read(torch.tensor([3, 4, 500]))
    others = torch.zeros(1000, dtype=torch.int32)
    others[[3, 7]] = 1
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(Accelerator, "reduce", lambda _, own, reduction: own + others if reduction == "sum" else own)
    synchronise_faults(mine, Accelerator(cpu=True))
    assert [fault.name for fault in mine.faults] == ["validation-00003", "validation-00007", "validation-00500"]
    others[10:18] = 1
    with pytest.raises(InputError, match=r"^11 of 1000 images cannot be read, more than 1%"):
        synchronise_faults(mine, Accelerator(cpu=True))


def test_workers_share_the_cores_of_a_machine_where_the_system_has_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    for cores, processes, expected in ((6, 1, 6), (6, 2, 3), (6, 4, 1), (2, 4, 1), (64, 2, 8), (None, 1, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert worker_count() == expected


def test_a_frozen_network_keeps_its_weights_and_statistics(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "load_split", lambda *given: select(split_in_memory(*given), torch.arange(24)))
    torch.manual_seed(1)
    network = models.resnet18()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    chosen = {"backbone": "torchvision/resnet18", "layer": "layer1", "pretrained": True, "latent": 8}
    common = {"data": {"limit": 24}, "model": chosen}
    recipe = Recipe.model_validate(common | {"training": {"epochs": 1, "batch_size": 12, "trainable": "attached"}})
    train(recipe, tmp_path / "run", weights=tmp_path / "w.safetensors", report=silent)
    model = load_model(tmp_path / "run/model.safetensors")
    own = model.get_submodule("network.body").state_dict()
    assert all(torch.equal(own[name], value) for name, value in network.state_dict().items() if name in own)
    assert len(own) == len(network.state_dict()) - 2  # the last layer is in the decoder
    assert model.get_parameter("attention.head.0.weight").any()  # it starts at 0
    everything = recipe.model_copy(update={"training": recipe.training.model_copy(update={"trainable": "all"})})
    train(everything, tmp_path / "all", weights=tmp_path / "w.safetensors", report=silent)
    moved = load_model(tmp_path / "all/model.safetensors").get_parameter("network.body.conv1.weight")
    assert not torch.equal(moved, network.conv1.weight)
    with pytest.raises(ValidationError, match=r"it needs model\.pretrained = true"):
        Recipe.model_validate({"training": {"trainable": "attached"}})


def test_rows_go_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = train(small(epochs=2), tmp_path, log="tensorboard", report=silent)
    [folder] = {path.parent for path in (tmp_path / "logs/ibviz").glob("events*")}
    written = EventAccumulator(str(folder))
    written.Reload()
    logged = [(event.step, event.value) for event in written.Scalars("validation_accuracy")]
    assert logged == [(row["epoch"], pytest.approx(row["validation_accuracy"])) for row in rows]


def test_a_tracker_that_is_missing_or_unknown_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"--log wandb needs the package wandb: pip install 'ibviz\[tracking\]'"):
        train(small(), tmp_path, log="wandb", report=silent)
    with pytest.raises(InputError, match="unknown tracker 'mlflow'; known: tensorboard, wandb"):
        train(small(), tmp_path, log="mlflow", report=silent)


GRID = {"model.anchors": (3, "none"), "training.seed": (0,)}


def test_a_sweep_goes_on_where_it_stopped_and_ends_with_a_table(tmp_path, monkeypatch):
    plan = Sweep.model_validate(small(epochs=1).model_dump(exclude_unset=True) | {"sweep": GRID})
    trained: list[str] = []

    def recording(recipe, folder, *, weights, **options):
        trained.append(folder.name)
        assert weights == tmp_path / "own.safetensors"
        return train(recipe, folder, **options)

    def stop(name: str, _: dict) -> None:
        if name == "anchors=none,seed=0":
            raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "train", recording)
    with pytest.raises(KeyboardInterrupt):
        train_all(grid(plan), tmp_path, weights=tmp_path / "own.safetensors", report=stop)
    assert not (tmp_path / "table.md").exists()
    begun = (tmp_path / "anchors=3,seed=0/model.safetensors").stat().st_mtime_ns
    table = train_all(grid(plan), tmp_path, weights=tmp_path / "own.safetensors", report=silent)
    assert trained == ["anchors=3,seed=0", "anchors=none,seed=0"]  # both were finished: nothing is trained again
    assert (tmp_path / "anchors=3,seed=0/model.safetensors").stat().st_mtime_ns == begun
    assert [(row["model.anchors"], row["training.seed"]) for row in table] == [(3, 0), (None, 0)]
    assert read_rows(tmp_path / "table.parquet") == table
    for row, folder in zip(table, trained, strict=True):
        facts = read_header(tmp_path / folder / "model.safetensors", "model")
        assert facts["model"]["anchors"] == row["model.anchors"]
        assert facts["facts"]["validation"]["accuracy"] == row["validation_accuracy"]
    assert "| none | 0 | 1 |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"objective.betta": [1.0]},
            r"run betta=1.0 of the sweep: unknown key objective.betta; known here: attention_price,",
        ),
        ({"model.anchors": [1]}, "run anchors=1 of the sweep: model.anchors: Input should be greater"),
        ({"training.lr.x": [1]}, "the sweep names lr.x, but lr holds 0.02 and no keys of its own"),
    ],
)
def test_a_sweep_over_keys_that_are_not_there_is_refused(values, message, tmp_path):
    plan = Sweep.model_validate(small().model_dump(exclude_unset=True) | {"sweep": values})
    with pytest.raises(InputError, match=message):
        train_all(grid(plan), tmp_path, report=silent)
    assert list(tmp_path.iterdir()) == []


def test_repeated_trainings_differ_in_their_seed_alone():
    recipe = Recipe.model_validate({"data": {"seed": 7}, "training": {"seed": 3, "epochs": 2}})
    runs = over_seeds(recipe, 3)
    expected = {f"seed-{seed}": {"data": {"seed": 7}, "training": {"seed": seed, "epochs": 2}} for seed in (3, 4, 5)}
    assert runs.recipes == {name: Recipe.model_validate(given) for name, given in expected.items()}
    assert runs.keys == ("training.seed",)


def test_the_spread_over_trainings_is_the_sample_deviation():
    table = [{"training.seed": seed, "accuracy": value} for seed, value in enumerate((0.5, 0.7, 0.9))]
    mean, deviation = spread(table)
    assert mean == {"training.seed": "mean", "accuracy": pytest.approx(0.7)}
    assert deviation == {"training.seed": "standard deviation", "accuracy": pytest.approx(0.2)}  # √(0.08 / 2)
