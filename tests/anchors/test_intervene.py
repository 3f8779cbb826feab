"""Interventions on networks whose answer to any attention is known by hand."""

import math

import numpy as np
import pytest
import torch
from networks import ANCHORS, CELL_SPEC, SHIFT, SLOPE, bottlenecked, cell_reader
from scipy.stats import spearmanr
from torch import nn

from ibviz.anchors import (
    Donors,
    Variant,
    anchor_effects,
    answer,
    decisions,
    edited,
    intervene,
    summarise_effects,
    variants,
)
from ibviz.anchors.effects import rank_correlation
from ibviz.data import ImageSet, digits
from ibviz.errors import InputError
from ibviz.models.attach import attach
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import ModelConfig
from ibviz.models.loading import wrap
from ibviz.models.reliance import derangement
from ibviz.types import AttentionMap

close = torch.testing.assert_close


@pytest.fixture(scope="module")
def scenes() -> ImageSet:
    pixels = torch.randint(256, (7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[:, :, 2, 3] = torch.tensor([0, 60, 110, 128, 150, 200, 255], dtype=torch.uint8)[:, None]
    pixels[0, :, :4], pixels[0, :, 4:] = 0, 255  # no cell at the anchor between
    labels = torch.tensor([1, 0, 1, 1, 0, 0, -1])
    return ImageSet(pixels.expand(-1, 3, -1, -1), labels, CELL_SPEC.class_names, tuple("abcdefg"))


def by_hand(scenes: ImageSet, name: str, anchor: int | None, partners: list[int]) -> list[tuple[float, float, bool]]:
    """Probability of the class predicted at first, before and after, and whether it is still predicted."""

    def attention(grey: float) -> float:
        return 1 / (1 + math.exp(-SLOPE * grey / 255 - SHIFT))

    def snapped(grey: float) -> float:
        return min(ANCHORS, key=lambda value: (value - attention(grey)) ** 2)

    def gate(image: int) -> float:
        level, mean = levels[image], means[image]
        value, cells = ANCHORS[anchor or 0], [snapped(grey) for row in greys[image] for grey in row]
        return {
            "mean": mean,
            "average": sum(levels) / len(levels),
            "reversed": max(cells) + min(cells) - level,
            "swap": levels[partners[image]],
            "unquantised": attention(greys[image][2][3]),
            "uniform": value,
            "keep": level if level >= value else min(ANCHORS),
            "erase": mean if level == value else level,
        }[name]

    def softmax(image: int, value: float) -> list[float]:
        weights = [math.exp(one) for one in (10 * greys[image][2][3] / 255 * value, 1, 0)]
        return [weight / sum(weights) for weight in weights]

    greys = scenes.images[:, 0].tolist()
    levels = [snapped(rows[2][3]) for rows in greys]
    means = [sum(snapped(grey) for row in rows for grey in row) / 64 for rows in greys]
    pairs = [(softmax(image, levels[image]), softmax(image, gate(image))) for image in range(len(greys))]
    best = [before.index(max(before)) for before, _ in pairs]
    return [
        (before[one], after[one], after.index(max(after)) == one)
        for one, (before, after) in zip(best, pairs, strict=True)
    ]


@pytest.mark.parametrize("variant", variants(len(ANCHORS)), ids=str)
def test_the_effect_of_every_intervention_is_the_one_by_hand(scenes, variant):
    found = intervene(cell_reader(), scenes, [variant], batch_size=3, seed=4)
    expected = by_hand(scenes, variant.name, variant.anchor, derangement(7, seed=4).tolist())
    close(found.probability.tolist(), [before for before, _, _ in expected], rtol=0, atol=1e-6)
    close(found.change[0].tolist(), [after - before for before, after, _ in expected], rtol=0, atol=1e-6)
    assert found.flipped[0].tolist() == [float(not same) for *_, same in expected]
    if variant.name in ("mean", "average", "swap", "reversed", "uniform"):
        assert found.change.abs().max() > 0.1


def test_correctness_counts_labelled_images_in_both_directions(scenes):
    found = intervene(cell_reader(), scenes, [Variant("uniform", 1), Variant("uniform", 2)])
    assert found.predicted.tolist() == [1, 1, 1, 0, 0, 0, 0]
    # at 0.2 the logit of class 0 passes 1 from a grey of 128 on, as it did before; at 1.0 from one of 26 on
    expected = torch.tensor([[0, 0, 0, 0, 0, 0, torch.nan], [0, 1, -1, 0, 0, 0, torch.nan]])
    close(found.correct, expected, equal_nan=True)


def test_attention_that_is_not_used_has_no_effect_and_is_called_decoration(scenes):
    model = cell_reader(blind=True)
    found = intervene(model, scenes)
    assert found.cells.max() > 0  # the maps did change
    close(found.change, torch.zeros_like(found.change), rtol=0, atol=1e-6)
    assert not found.flipped.any()
    assert answer(summarise_effects(found)).startswith("The attention is decoration")


def test_cells_that_no_class_reads_have_no_effect_and_the_one_that_is_read_has_all(scenes):
    model = cell_reader()
    images = scenes.images.float() / 255
    values = model.inspect(images).attention.values()
    elsewhere, there = values.clone(), values.clone()
    elsewhere[:, :2], elsewhere[:, 2, :3], elsewhere[:, 2, 4:], elsewhere[:, 3:] = 0.9, 0.1, 5.0, -3.0
    there[:, 2, 3] = 0.5
    with torch.no_grad():
        same, other = model.with_gate(images, torch.stack([elsewhere, there]))
        close(same, model(images), rtol=0, atol=1e-6)
        close(other[:, 0], 5 * images[:, 0, 2, 3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("gate", ["residual", "mul"])
def test_with_its_own_attention_a_model_says_what_it_always_says(gate):
    images = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for anchors in (5, None):
        torch.manual_seed(0)
        spec = bottlenecked().spec
        model = IBClassifier(ModelConfig(latent=8, anchors=anchors, gate=gate), spec).eval()
        with torch.no_grad():
            seen = model.inspect(images)
            own = model.with_gate(images, torch.stack([seen.attention.values(), 0 * seen.attention.mean]))
        close(own[0], seen.logits, rtol=0, atol=1e-6)
        assert (own[1] - own[0]).abs().max() > 1e-4


def test_attention_in_somebody_elses_network_is_replaced_as_well():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1), nn.Flatten(), nn.Linear(6 * 16 * 16, 4)
    )
    wrapped = wrap(network, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), class_names=[*"abcd"], size=32)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = wrapped(images)
        model = attach(wrapped, layer="0", gate="residual", anchors=5, bottleneck=8)
        close(model.with_gate(images, torch.zeros(2, 3, 16, 16)), before.expand(2, -1, -1), rtol=1e-4, atol=1e-5)
        close(model.with_gate(images, torch.ones(1, 3, 16, 16))[0], model(images), rtol=1e-4, atol=1e-5)
    pixels = (images * 255).byte()
    scenes = ImageSet(pixels, torch.tensor([0, 1, 2]), tuple("abcd"), tuple("xyz"))
    close(intervene(model, scenes, [Variant("mean"), Variant("swap")]).change, torch.zeros(2, 3), rtol=0, atol=1e-6)


def test_the_result_depends_neither_on_the_batch_nor_on_the_mode_the_model_was_in():
    scenes, model = digits("test", count=9, seed=0), bottlenecked()
    one = intervene(model, scenes, batch_size=9)
    other = intervene(model.train(), scenes, batch_size=2)
    assert model.training
    for part, same in zip(one[1:], other[1:], strict=True):
        close(part, same, rtol=0, atol=1e-6)


def test_every_image_gets_anothers_map_once():
    for count in (2, 3, 10, 101):
        partners = derangement(count, seed=count)
        assert sorted(partners.tolist()) == list(range(count))
        assert not (partners == torch.arange(count)).any()
    assert not torch.equal(derangement(50, seed=0), derangement(50, seed=1))


def test_the_worth_of_an_anchor_is_over_the_images_that_have_it(scenes):
    model = cell_reader()
    found = intervene(model, scenes)
    assert model.quantizer is not None
    worth = anchor_effects(found, model.quantizer.anchors.detach())
    index = model.inspect(scenes.images.float() / 255).attention.index
    assert index is not None
    for anchor in range(3):
        cells = (index == anchor).sum((1, 2)).tolist()
        hand = by_hand(scenes, "erase", anchor, [0] * 7)
        drops = [before - after for (before, after, _), count in zip(hand, cells, strict=True) if count]
        shares = [drop / count for drop, count in zip(drops, [c for c in cells if c], strict=True)]
        assert worth.effect[anchor].mean == pytest.approx(sum(drops) / len(drops), abs=1e-6)
        assert worth.by_cell[anchor].mean == pytest.approx(sum(shares) / len(shares), abs=1e-6)
        assert worth.effect[anchor].excluded == 7 - len(drops)
    assert worth.effect[0].excluded == 1


def test_rank_correlation_is_scipys_and_its_interval_comes_from_images():
    rng = np.random.default_rng(0)
    levels, effects = rng.random(8), rng.random((30, 8)) + np.linspace(0, 0.3, 8)
    effects[rng.random((30, 8)) < 0.6] = np.nan
    effects[:, 5] = np.nan  # a dead anchor
    alive = [place for place in range(8) if place != 5]
    found = rank_correlation(levels, effects)
    expected = spearmanr(levels[alive], np.nanmean(effects[:, alive], 0))[0]
    assert found.mean == pytest.approx(expected, abs=1e-12)
    again = []
    for drawn in np.random.default_rng(1).integers(30, size=(400, 30)):
        with_any = [place for place in alive if not np.isnan(effects[drawn, place]).all()]
        again.append(spearmanr(levels[with_any], np.nanmean(effects[drawn][:, with_any], 0))[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.nanquantile(again, [0.025, 0.975])), abs=0.08)
    for nothing in (np.zeros((4, 8)), np.full((4, 8), np.nan)):
        assert math.isnan(rank_correlation(levels, nothing).mean)


def test_the_answer_in_words_follows_the_intervals(scenes):
    found = intervene(cell_reader(), scenes)
    said = answer(summarise_effects(found))
    assert "With another image's map, the probability of the predicted class changes by" in said
    change = found.change.clone()

    def verdict(mean: float, swap: float, uniform: float, *, spread: float = 0.0) -> str:
        level = {"mean": mean, "swap": swap, "uniform": uniform}
        for place, variant in enumerate(found.variants):
            change[place] = level.get(variant.name, 0.0) + spread * torch.tensor([-1, 1, -1, 1, -1, 1, 0])
        return answer(summarise_effects(found._replace(change=change)))

    assert verdict(-0.2, -0.3, -0.1).startswith("The attention is used. With every cell at its map's mean")
    assert verdict(-0.2, -0.3, -0.001).startswith("The attention is used, but every cell at anchor 0 does nearly as")
    assert verdict(-0.2, -0.3, 0.0, spread=0.1).startswith("The attention is used, but every cell at anchor")
    assert verdict(0.0, 0.0, 0.0, spread=0.5).startswith("No use of the attention was found; it may be decoration.")


@pytest.mark.parametrize(("name", "given"), [("unquantised", "unquantised"), ("none", "nothing")])
def test_without_an_intervention_that_tells_there_is_no_answer(scenes, name, given):
    lines = summarise_effects(intervene(cell_reader(), scenes, [Variant("unquantised")]))
    with pytest.raises(InputError, match=f"told by mean, swap or uniform; got {given}"):
        answer([line for line in lines if line.variant.name == name])


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            Variant("shuffle"),
            "unknown intervention 'shuffle'; known: average, erase, keep, mean, reversed, swap, uniform",
        ),
        (Variant("keep"), "needs an anchor of the model, which has 0 to 1; got None"),
        (Variant("erase", 2), "has 0 to 1; got 2"),
        (Variant("mean", 1), "is about no anchor"),
    ],
)
def test_what_does_not_fit_is_refused(variant, message):
    values = torch.rand(1, 2, 2)
    seen = AttentionMap(values, values, torch.zeros(1, 2, 2).long(), torch.tensor([0.0, 1.0]))
    with pytest.raises(InputError, match=message):
        edited(seen, Donors(values, values), variant)


def test_models_and_values_that_do_not_fit_are_refused(scenes):
    plain = wrap(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
        mean=CELL_SPEC.mean,
        std=CELL_SPEC.std,
        class_names="abc",
        size=8,
    )
    with pytest.raises(InputError, match="WrappedClassifier has no trained attention"):
        intervene(plain, scenes)
    with pytest.raises(InputError, match=r"here \(any, 2, 8, 8\); got \(1, 2, 4, 4\)"):
        cell_reader().with_gate(torch.rand(2, 3, 8, 8), torch.rand(1, 2, 4, 4))
    one = ImageSet(scenes.images[:1], scenes.labels[:1], scenes.class_names, ("a",))
    with pytest.raises(InputError, match="at least 2 images"):
        intervene(cell_reader(), one)


def test_accuracy_and_cross_entropy_with_each_map_are_those_of_its_decisions(scenes):
    found = decisions(intervene(cell_reader(), scenes, seed=4))
    alone = decisions(intervene(cell_reader(), scenes, [Variant("reversed")], seed=4))
    assert list(found) == ["own", "mean", "average", "other", "reversed"]
    assert alone == {name: found[name] for name in ("own", "reversed")}
    partners, labels = derangement(7, seed=4).tolist(), scenes.labels.tolist()
    for name, variant in (("own", "own"), ("mean", "mean"), ("average", "average"), ("other", "swap")):
        gates = gates_by_hand(scenes, variant, partners)
        logits = [(10 * int(scenes.images[i, 0, 2, 3]) / 255 * gate, 1.0, 0.0) for i, gate in enumerate(gates)]
        right = [one.index(max(one)) == label for one, label in zip(logits, labels, strict=True) if label >= 0]
        nats = [
            math.log(sum(map(math.exp, one))) - one[label]
            for one, label in zip(logits, labels, strict=True)
            if label >= 0
        ]
        assert found[name].accuracy.mean == pytest.approx(sum(right) / 6)
        assert found[name].cross_entropy.mean == pytest.approx(sum(nats) / 6, rel=1e-5)
        assert found[name].accuracy.excluded == 1


def gates_by_hand(scenes: ImageSet, name: str, partners: list[int]) -> list[float]:
    """What multiplies the grey of the cell that is read."""
    greys = scenes.images[:, 0].double() / 255
    attention = 1 / (1 + (-SLOPE * greys - SHIFT).exp())
    anchors = torch.tensor(ANCHORS, dtype=torch.float64)
    levels = anchors[(attention.unsqueeze(-1) - anchors).abs().argmin(-1)]
    return {
        "own": levels[:, 2, 3],
        "mean": levels.mean((1, 2)),
        "average": levels[:, 2, 3].mean().expand(7),
        "swap": levels[partners, 2, 3],
    }[name].tolist()
