"""Several processes, and several passes, train what one pass of one process trains."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ibviz.data.image_set import ImageSet
from ibviz.data.image_stream import ImageStream
from ibviz.data.listing import Listing, Part, Sample
from ibviz.data.objects import View
from ibviz.errors import InputError
from ibviz.files import read_rows
from ibviz.models.checkpoint import read_tensors
from ibviz.models.config import InputConfig
from ibviz.settings import read_toml
from ibviz.training import loop
from ibviz.training.check import check_training_images
from ibviz.training.distributed import BatchShard, WholeBatchDropout, WholeBatchNorm, batch_shards
from ibviz.training.loaders import DeviceLoader, make_loader
from ibviz.training.recipe import Recipe, TrainingConfig
from ibviz.training.run import start

SPEC = InputConfig(size=16, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), class_names=("a", "b", "c"))

# 45 images in batches of 25, two passes each: shares of 7, 6, 6 and 6 images, then a batch of 20. With batch norm,
# dropout, noise, crops and averages. At a rate of 0.1 rounding would soon put a cell on the other side of an
# anchor's boundary, and from there on weights go apart.
TOML = """
[data]
source = "folder"
image_size = 16
stream = true
[model]
backbone = "wrn10_2"
anchors = 5
latent = 8
[training]
epochs = 1
batch_size = 25
accumulate = 2
lr = 0.02
ema = 0.9
"""


LAUNCHER = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}  # not the recipe's


def write_noise(folder: Path, count: int, broken: tuple[int, ...] = ()) -> None:
    """Images of noise in three classes, by turns; those that are broken hold no image."""
    draw = np.random.default_rng(0)
    for number in range(count):
        place = folder / "abc"[3 * number // count] / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place)
        if number in broken:
            place.write_bytes(b"no image")


def test_two_processes_end_with_the_weights_of_one_and_know_of_each_others_broken_images(tmp_path):
    recipe, data = tmp_path / "recipe.toml", tmp_path / "data"
    recipe.write_text(TOML)
    write_noise(data / "train", 45)
    write_noise(data / "validation", 200, broken=(4, 7))  # of the first process and of the second
    rows = loop.train(read_toml(recipe, Recipe), tmp_path / "alone", root=data, report=lambda _: None)
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--nproc-per-node", "2"]
    together = tmp_path / "together"
    command = [*torchrun, "-m", "ibviz", "train", str(recipe), "--out", str(together), "--data", str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | LAUNCHER
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    listed = [line.partition(":")[0] for line in (together / "skipped.txt").read_text().splitlines()]
    assert listed == ["a/004.png", "a/007.png"]
    assert done.stdout.count("epoch   1") == 1  # one process speaks
    shared, alone = (state(tmp_path / name) for name in ("together", "alone"))
    for name, tensor in alone.items():  # running variances are far above 1
        rtol = 1e-5 if "running" in name else 0
        torch.testing.assert_close(shared[name], tensor, rtol=rtol, atol=1e-5)
    for one, two in zip(rows, read_rows(tmp_path / "together/log.parquet"), strict=True):
        assert two.pop("anchors") == pytest.approx(one.pop("anchors"), abs=1e-5)
        words = {key for key, value in one.items() if value is None or isinstance(value, str)} | {"seconds"}
        assert {key: two[key] for key in words - {"seconds"}} == {key: one[key] for key in words - {"seconds"}}
        numbers = {key: value for key, value in one.items() if key not in words}
        assert {key: two[key] for key in numbers} == pytest.approx(numbers, rel=1e-4)
        assert two.keys() == one.keys()


def samples_of_readers(rows: torch.Tensor) -> Iterator[Sample]:
    """Images whose colour is the number of the process that started their reader."""
    return (Sample(partial(Image.new, "RGB", (8, 8), tuple(os.getppid().to_bytes(3, "big")))) for _ in rows)


def read_in_a_group(meeting: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    labels = torch.zeros(2, dtype=torch.long)
    listing = Listing(labels, ("a",), ("0.png", "1.png"), samples_of_readers)
    images = ImageStream(Part(listing, torch.arange(2)), View(8))
    ((pixels, _),) = make_loader(images, torch.device("cpu")).batches([torch.arange(2)])
    assert int.from_bytes(bytes(pixels[0, :, 0, 0].tolist()), "big") != os.getpid()
    torch.distributed.destroy_process_group()


def test_readers_are_not_forked_from_a_process_with_the_threads_of_a_group(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=read_in_a_group, args=(tmp_path / "meeting",))
    child.start()
    child.join(120)
    assert child.exitcode == 0


def state(run: Path) -> dict[str, torch.Tensor]:
    tensors, _ = read_tensors(run / "checkpoint.safetensors", "checkpoint")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}


def without_batch_norm(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())


@pytest.mark.parametrize("backbone", ["digits", "wrn10_2"])
def test_passes_add_up_to_the_step_of_the_whole_batch(backbone, tmp_path):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (7, 3, 16, 16), dtype=torch.uint8, generator=generator)
    resident, rows = DeviceLoader(pixels, torch.arange(7) % 3), torch.randperm(7, generator=generator)
    stepped, losses = [], []
    for passes in (1, 3):  # of 3, 2 and 2 images
        training = {"accumulate": passes, "flip": True, "lr": 0.01}
        recipe = Recipe.model_validate(
            {"data": {"source": "cifar10"}, "model": {"backbone": backbone, "latent": 8}, "training": training}
        )
        run = start(recipe, tmp_path, SPEC, Accelerator(cpu=True))
        without_batch_norm(run.model)
        run.objective.train()
        held = batch_shards(7, process=0, processes=1, passes=passes)
        one_pass = partial(loop._pass, run, inputs=resident.inputs, price=torch.zeros(()), seed=3)
        losses.append(loop._step(run, resident.batches([share.rows(rows) for share in held]), held, one_pass))
        stepped.append(run.model.state_dict())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stepped[1], stepped[0], rtol=0, atol=1e-5)


def test_what_is_frozen_stays_frozen_in_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    attached = TrainingConfig(trainable="attached")
    run = start(Recipe().model_copy(update={"training": attached}), tmp_path, SPEC, Accelerator(cpu=True))
    assert any(isinstance(module, WholeBatchNorm) for module in run.model.network.modules())
    assert not any(parameter.requires_grad for parameter in run.model.network.parameters())
    trained = {id(parameter) for group in run.optimizer.param_groups for parameter in group["params"]}
    assert trained
    assert trained.isdisjoint(map(id, run.model.network.parameters()))


def test_an_epoch_has_the_same_batches_for_any_number_of_processes_or_is_refused(tmp_path):
    recipe = Recipe(training=TrainingConfig(batch_size=10, accumulate=2))
    run, said = start(recipe, tmp_path, SPEC, Accelerator(cpu=True)), ""
    for count in range(4, 30):
        images = ImageSet(torch.zeros(count, 3, 16, 16, dtype=torch.uint8), torch.zeros(count).long(), ("a",), ())
        alone = [rows for rows, _ in loop._plan(run, 1, count)]
        assert sum(len(rows) for rows in alone) == count - (count % 10 if count % 10 < 4 else 0)
        for processes in (1, 2, 3, 4, 6):
            if min(len(rows) for rows in alone) < 2 * processes:  # an image a pass
                with pytest.raises(InputError, match=f"{processes} processes need {2 * processes} images") as refused:
                    check_training_images(recipe, (images,), processes=processes)
                said += str(refused.value)
                continue
            check_training_images(recipe, (images,), processes=processes)
            for process in range(processes):
                member = SimpleNamespace(num_processes=processes, process_index=process)
                plan = loop._plan(run._replace(accelerator=member), 1, count)  # pyright: ignore[reportArgumentType]
                torch.testing.assert_close([rows for rows, _ in plan], alone)
                assert all(len(share.rows(rows)) for rows, held in plan for share in held)
    assert "3 processes need 6 images a batch; of 14 images in batches of 10 one has 4: start fewer" in said


def test_shares_hold_each_row_once_and_weigh_as_many_as_they_hold():
    for whole, processes, passes in ((5, 2, 2), (12, 3, 2), (7, 1, 3)):
        dealt = [batch_shards(whole, process=one, processes=processes, passes=passes) for one in range(processes)]
        held = [share for one in dealt for share in one]
        assert sorted(int(row) for share in held for row in share.rows(torch.arange(whole))) == list(range(whole))
        for share in held:
            assert share.weight(processes) == pytest.approx(len(share.rows(torch.arange(whole))) / whole * processes)
        for number in range(passes):  # a pass of all processes is every so-manieth row, whatever their number
            rows = [int(row) for one in dealt for row in one[number].rows(torch.arange(whole))]
            assert sorted(rows) == list(range(number, whole, passes))


def test_noise_of_a_share_is_its_part_of_the_whole_batch_s():
    whole = torch.randn((2, 5, 3), generator=torch.Generator().manual_seed(1))
    drawn = BatchShard(1, 2, 5).randn((2, 2, 3), torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn, whole[:, 1::2], rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_of_a_share_is_its_part_of_the_whole_batch_s(layout):
    features = torch.rand(5, 4, 3, 3).contiguous(memory_format=layout)
    torch.manual_seed(2)
    whole = F.dropout(features, 0.3)
    dropout = WholeBatchDropout(0.3)
    dropout.shard = BatchShard(1, 2, 5)
    torch.manual_seed(2)
    torch.testing.assert_close(dropout(features[1::2].contiguous(memory_format=layout)), whole[1::2])
    assert torch.equal(dropout.eval()(features), features)
