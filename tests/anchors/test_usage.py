"""Counts, rates and drift of anchors against loops, closed forms and draws of the noise itself."""

import math
from collections import Counter
from typing import cast

import pytest
import torch
from networks import bottlenecked
from torch import nn

from ibviz.anchors import drift, usage
from ibviz.anchors.usage import Usage, moved_by_noise
from ibviz.data import ImageSet, digits
from ibviz.errors import InputError
from ibviz.models.checkpoint import load_model, save_model
from ibviz.models.classifier import IBClassifier
from ibviz.training import loop
from ibviz.training.recipe import Recipe
from ibviz.types import AttentionMap

close = torch.testing.assert_close


@pytest.fixture(scope="module")
def scenes() -> ImageSet:
    images = digits("test", count=12, seed=0)
    return images._replace(labels=images.labels.where(torch.arange(12) < 9, -1))


@pytest.fixture(scope="module")
def model() -> IBClassifier:
    """A head that tells cells apart, with three of five anchors where its attention lies, one of them twice."""
    model = bottlenecked()
    assert model.quantizer is not None
    with torch.no_grad():
        model.quantizer.anchors.copy_(torch.tensor([0.52, -9.0, 0.48, 0.5, 0.5]))
        cast(nn.Conv2d, cast(nn.Sequential, model.attention.head)[-1]).weight.mul_(10)
    return model


def test_cells_are_those_counted_one_by_one(model, scenes):
    found = usage(model, scenes, batch_size=5)
    with torch.no_grad():
        seen = model.inspect(scenes.images.float() / 255)
    assert seen.attention.index is not None
    counted: Counter[tuple[int, int]] = Counter()
    for index, label, logits in zip(seen.attention.index, scenes.labels.tolist(), seen.logits, strict=True):
        known = label if label >= 0 else int(logits.argmax())
        counted.update((known, anchor) for anchor in index.flatten().tolist())
    assert {place: n for place, n in enumerate(found.cells.flatten().tolist()) if n} == {
        known * 5 + anchor: n for (known, anchor), n in counted.items()
    }
    assert len({anchor for _, anchor in counted}) >= 3
    assert found.counts.sum() == 12 * 144
    assert found.dead == [anchor for anchor in range(5) if anchor not in {one for _, one in counted}]
    assert {1, 4} <= set(found.dead)  # far away, and the second of two equal ones
    rows = found.occupancy
    close(rows.sum(1).nan_to_num(1.0), torch.ones(10))
    assert torch.equal(rows.isnan().all(1), found.cells.sum(1) == 0)
    close(found.rate_bits, seen.rate / math.log(2))


def test_entropy_perplexity_and_bits_are_those_of_known_shares():
    cells = torch.tensor([[4, 0, 0, 2], [0, 2, 0, 0]])
    found = Usage(torch.linspace(0, 1, 4), cells, torch.zeros(2), torch.zeros(2))  # two images of four cells
    assert found.bits_per_cell == pytest.approx(1.5)
    assert found.bits_per_image == pytest.approx(6.0)
    assert found.perplexity == pytest.approx(2**1.5)
    assert found.dead == [2]
    close(found.occupancy, torch.tensor([[4 / 6, 0, 0, 2 / 6], [0, 1, 0, 0]]))
    alone = found._replace(cells=torch.tensor([[0, 8, 0, 0], [0, 0, 0, 0]]))
    assert (alone.bits_per_cell, alone.perplexity) == (0.0, 1.0)
    even = found._replace(cells=torch.tensor([[5, 5, 5, 5], [0, 0, 0, 0]]))
    assert even.perplexity == pytest.approx(4.0)


def test_the_share_that_noise_moves_is_that_of_many_draws(model, scenes):
    with torch.no_grad():
        seen = model.inspect(scenes.images[:1].float() / 255)
        assert seen.attention.index is not None
        generator = torch.Generator().manual_seed(0)
        moved = torch.stack(
            [
                model.inspect(scenes.images[:1].float() / 255, samples=(100, 1), generator=generator).gate.index
                != seen.attention.index
                for _ in range(20)
            ]
        ).float()
    expected = moved.mean((0, 1))
    found = moved_by_noise(seen.attention)
    close(found, expected, rtol=0, atol=6 * 0.5 / 2000**0.5)
    assert 0.05 < expected.mean() < 0.95
    assert usage(model, scenes).unstable[0].item() == pytest.approx(found.mean().item(), abs=1e-6)


def test_noise_beyond_the_last_anchor_moves_nothing():
    anchors = torch.tensor([1.0, 0.0])
    mean = torch.tensor([[[-1.0, 0.5 + 1e-6, 3.0]]])
    seen = AttentionMap(mean, torch.full_like(mean, 0.1), torch.tensor([[[1, 0, 0]]]), anchors)
    close(moved_by_noise(seen), torch.tensor([[[0.0, 0.5, 0.0]]]), rtol=0, atol=1e-5)


def test_the_drift_is_what_every_epoch_left(tmp_path, monkeypatch, scenes):
    labelled = scenes._replace(labels=torch.arange(12) % 10)
    monkeypatch.setattr(loop, "load_split", lambda *_: labelled)
    recipe = Recipe.model_validate(
        {"model": {"latent": 4, "anchors": 3}, "training": {"epochs": 2, "batch_size": 4, "lr": 0.05}}
    )
    rows = loop.train(recipe, tmp_path, report=lambda _: None)
    model = load_model(tmp_path / "model.safetensors")
    found = drift(model)
    assert found is not None
    assert model.quantizer is not None
    close(found[0], torch.tensor([0.0, 0.5, 1.0]))
    assert [[round(one, 6) for one in row] for row in found[1:].tolist()] == [
        [round(one, 6) for one in row["anchors"]] for row in rows[: len(found) - 1]
    ]
    close(found[-1], model.quantizer.anchors.detach(), rtol=0, atol=1e-6)
    assert (found[1] - found[0]).abs().max() > 1e-4
    save_model(tmp_path / "older.safetensors", model, {})
    assert drift(load_model(tmp_path / "older.safetensors")) is None


def test_continuous_attention_is_refused(scenes):
    with pytest.raises(InputError, match="continuous and has no anchors"):
        usage(bottlenecked(None), scenes)
