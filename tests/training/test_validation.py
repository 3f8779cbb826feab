"""Attention replaced on validation: against the numbers by hand, over processes, with images that cannot be read."""

import copy
import math
import threading
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from networks import CELL_SPEC, bottlenecked, cell_reader
from torch import Tensor
from training.streams import on_disk

from ibviz.data.image_set import ImageSet
from ibviz.models.classifier import IBClassifier
from ibviz.models.reliance import derangement
from ibviz.training import validation
from ibviz.training.loaders import DeviceLoader, make_loader
from ibviz.training.recipe import TrainingConfig
from ibviz.training.validation import REPLACEMENT_COLUMNS, is_replacement_epoch, validate, warning_of

PIXELS = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 0, 1, 0, 1, 0, 2, 0])


def few() -> DeviceLoader:
    return DeviceLoader(PIXELS.expand(-1, 3, -1, -1), LABELS)


def by_hand(model: IBClassifier, kept: list[int]) -> dict[str, float]:
    """Of a network whose logits are 10 times the gated grey of cell (2, 3), 1 and 0."""
    with torch.inference_mode():
        maps = model.inspect(PIXELS.expand(-1, 3, -1, -1) / 255).attention.values().double()
    partners = {image: kept[other] for image, other in zip(kept, derangement(len(kept), seed=0).tolist(), strict=True)}
    gates: dict[str, Callable[[int], float]] = {
        "mean": lambda image: float(maps[image].mean()),
        "average": lambda image: sum(float(maps[one, 2, 3]) for one in kept) / len(kept),
        "other": lambda image: float(maps[partners[image], 2, 3]),
        "reversed": lambda image: float(maps[image].max() + maps[image].min() - maps[image, 2, 3]),
    }
    found = {
        "attention_mean": sum(float(maps[one].mean()) for one in kept) / len(kept),
        "attention_deviation": sum(
            math.sqrt(sum((float(cell) - float(maps[one].mean())) ** 2 for cell in maps[one].flatten()) / 64)
            for one in kept
        )
        / len(kept),
        "capacity_nats": sum(
            ((1 - a) ** 2 + a**2 - 1) / 2 - math.log(1 - a)
            for image in kept
            for a in maps[image].clamp(max=0.999).flatten().tolist()
        )
        / (64 * len(kept)),
    }
    for name, gate in gates.items():
        right = nats = 0.0
        for image in kept:
            logits = (10 * PIXELS[image, 0, 2, 3].item() / 255 * gate(image), 1.0, 0.0)
            label = int(LABELS[image])
            right += logits.index(max(logits)) == label
            nats += math.log(sum(map(math.exp, logits))) - logits[label]
        found[f"accuracy_{name}_map"] = right / len(kept)
        found[f"cross_entropy_nats_{name}_map"] = nats / len(kept)
    return found


@pytest.mark.parametrize("size", [2, 256])
def test_numbers_with_other_maps_are_those_by_hand_in_batches_of_any_size(size, monkeypatch):
    monkeypatch.setattr(validation, "_BATCH_SIZE", size)
    model = cell_reader()
    judged, expected = validate(model, few(), replaced=True), by_hand(model, list(range(9)))
    assert set(REPLACEMENT_COLUMNS) < set(expected)
    assert {name: judged[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    plain = validate(model, few())
    assert plain == {name: value for name, value in judged.items() if name not in REPLACEMENT_COLUMNS}


class Member(Accelerator):
    """One of two processes, played by threads that add up what they hold."""

    def __init__(self, index: int, meeting: threading.Barrier, held: dict[int, Tensor]) -> None:
        self.index, self.meeting, self.held = index, meeting, held

    @property
    def num_processes(self) -> int:  # pyright: ignore
        return 2

    @property
    def process_index(self) -> int:  # pyright: ignore
        return self.index

    def reduce(self, tensor: Tensor, reduction: str = "sum", scale: float = 1.0) -> Tensor:
        assert (reduction, scale) == ("sum", 1.0)
        self.held[self.process_index] = tensor
        self.meeting.wait(60)
        found = torch.stack([self.held[index] for index in range(2)]).sum(0)
        self.meeting.wait(60)
        return found


def test_several_processes_find_what_one_does(monkeypatch):
    """Threads stand for processes; those of one process would take turns with a network."""
    monkeypatch.setattr("ibviz.training.validation.evaluating", nullcontext)
    model, found = cell_reader().eval(), {}
    meeting, held = threading.Barrier(2), {}

    def work(index: int) -> None:
        member = Member(index, meeting, held)
        found[index] = validate(copy.deepcopy(model), few(), member, replaced=True)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = validate(model, few(), replaced=True)
    assert found[0] == found[1] == pytest.approx(alone, rel=1e-6)


def test_images_that_cannot_be_read_give_and_take_no_map(monkeypatch):
    monkeypatch.setattr("ibviz.data.image_stream.TOLERATED_SHARE", 0.3)
    images = ImageSet(PIXELS.expand(-1, 3, -1, -1), LABELS, CELL_SPEC.class_names, tuple("abcdefghi"))
    stream = make_loader(on_disk(images, (1, 4), size=8), torch.device("cpu"))
    judged, expected = validate(cell_reader(), stream, replaced=True), by_hand(cell_reader(), [0, 2, 3, 5, 6, 7, 8])
    assert {name: judged[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_a_single_image_has_no_other_map():
    judged = validate(
        bottlenecked(), DeviceLoader(torch.zeros(1, 3, 48, 48, dtype=torch.uint8), LABELS[:1]), replaced=True
    )
    assert [judged[name] for name in REPLACEMENT_COLUMNS] == [None] * 8


@pytest.mark.parametrize("epochs", [1, 7, 10, 11, 100])
@pytest.mark.parametrize("save_every", [1, 3])
def test_attention_is_replaced_at_ten_checkpoints_at_most_and_at_the_last(epochs, save_every):
    config = TrainingConfig(epochs=epochs, save_every=save_every)
    chosen = [epoch for epoch in range(1, epochs + 1) if is_replacement_epoch(epoch, config)]
    assert 1 <= len(chosen) <= 10
    assert chosen[-1] == epochs
    assert all(epoch % save_every == 0 for epoch in chosen[:-1])
    if epochs <= 10 and save_every == 1:
        assert chosen == list(range(1, epochs + 1))


@pytest.mark.parametrize(
    ("mean", "deviation", "said"),
    [
        (0.0009, 0.0, "shut, its mean 0.0009: lower attention_price"),
        (0.995, 0.001, "open everywhere, its mean 0.9950: give it a price"),
        (0.63, 0.004, "flat, its deviation within images 0.0040: use a gate"),
        (0.02, 0.02, None),
        (0.98, 0.02, None),
    ],
)
def test_saturated_and_flat_attention_are_told_with_the_way_out(mean, deviation, said):
    told = warning_of(mean, deviation)
    assert told is said or (said is not None and said in (told or ""))
