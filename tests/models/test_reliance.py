"""Accuracy and cross-entropy with other maps, on a network whose answer to any attention is known by hand."""

import math

import pytest
import torch
from networks import ANCHORS, SHIFT, SLOPE, cell_reader

from ibviz.errors import InputError
from ibviz.models.reliance import REPLACEMENTS, derangement, reliance, reversed_values

GREYS = torch.rand(9, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 0, 1, 0, 1, 0, 2, -1])


def dealt(size: int):
    images = GREYS.unsqueeze(1).expand(-1, 3, -1, -1)
    return lambda: zip(images.split(size), LABELS.split(size), strict=True)


def by_hand(seed: int) -> dict[str, list[tuple[float, float]]]:
    """Right or not, and nats, of each image with each map: softmax of 10 times the gated grey of one cell, 1 and 0."""

    def snapped(grey: float) -> float:
        attention = 1 / (1 + math.exp(-SLOPE * grey - SHIFT))
        return min(ANCHORS, key=lambda value: abs(value - attention))

    levels = [[[snapped(grey) for grey in row] for row in image] for image in GREYS.tolist()]
    partners = derangement(9, seed).tolist()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in REPLACEMENTS}
    for image, own in enumerate(levels):
        cells = [level for row in own for level in row]
        gates = {
            "own": own[2][3],
            "mean": sum(cells) / 64,
            "average": sum(other[2][3] for other in levels) / 9,
            "other": levels[partners[image]][2][3],
            "reversed": max(cells) + min(cells) - own[2][3],
        }
        for name, gate in gates.items():
            logits = (10 * GREYS[image, 2, 3].item() * gate, 1.0, 0.0)
            label = int(LABELS[image])
            nats = math.log(sum(map(math.exp, logits))) - logits[label] if label >= 0 else math.nan
            right = float(logits.index(max(logits)) == label) if label >= 0 else math.nan
            found[name].append((right, nats))
    return found


@pytest.mark.parametrize("size", [1, 4, 9])
def test_every_replacement_decides_as_by_hand_whatever_the_batch(size):
    found, expected = reliance(cell_reader(), dealt(size), seed=5), by_hand(seed=5)
    for place, name in enumerate(REPLACEMENTS):
        correct, nats = (list(column) for column in zip(*expected[name], strict=True))
        assert found.correct[place].tolist() == pytest.approx(correct, nan_ok=True)
        assert found.cross_entropy[place].tolist() == pytest.approx(nats, rel=1e-5, abs=1e-6, nan_ok=True)  # float32
    assert found.cross_entropy[:, :8].mean(1).unique().numel() == len(REPLACEMENTS)  # they all differ


def test_a_network_that_does_not_use_its_attention_decides_the_same_with_all_maps():
    model = cell_reader(blind=True).train()
    found = reliance(model, dealt(4))
    torch.testing.assert_close(found.cross_entropy[1:], found.cross_entropy[:1].expand(4, -1), equal_nan=True)
    assert model.training


def test_a_reversed_map_keeps_its_range_and_turned_twice_it_is_itself():
    maps = GREYS[:3] * torch.tensor([1.0, 0.1, 0.01])[:, None, None]
    back = reversed_values(maps)
    torch.testing.assert_close(back.amin((1, 2)), maps.amin((1, 2)))
    assert torch.equal(back.flatten(1).argsort(1), maps.flatten(1).argsort(1, descending=True))
    torch.testing.assert_close(reversed_values(back), maps)


def test_one_image_has_no_other():
    with pytest.raises(InputError, match="at least 2 images; got 1"):
        reliance(cell_reader(), lambda: [(torch.rand(1, 3, 8, 8), torch.tensor([0]))])
