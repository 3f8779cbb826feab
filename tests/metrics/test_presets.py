"""Every preset against its peer's rule as a plain loop, and against the peer itself where it is installed."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ibviz.metrics import CurveProtocol, faithfulness, preset, scorer, trapezoid
from ibviz.models.loading import wrap
from tests.metrics import peers

MEAN, STD = (0.45, 0.4, 0.5), (0.2, 0.25, 0.3)
SIZE = (16, 24)


class Small(nn.Module):
    """A fixed random network, neither linear nor blind to places."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(4))
        self.layers(torch.zeros(1, 3, *SIZE))

    def forward(self, images):
        return 6 * self.layers(images)


def network(seed: int = 0):
    return wrap(Small(seed), mean=MEAN, std=STD, class_names=list("abcd"), size=16).eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def maps(levels: int | None, count: int = 2) -> torch.Tensor:
    """On the image's own pixels; dyadic levels, so that means of tiles tie alike in any precision."""
    generator = torch.Generator().manual_seed(2)
    if levels is None:
        return torch.rand(count, *SIZE, generator=generator)
    return torch.randint(levels, (count, *SIZE), generator=generator) / 32


TARGETS = torch.tensor([1, 2])


def literal(name, model, image, values, target):
    def f(state):
        batch = torch.from_numpy(np.ascontiguousarray(state)).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            return float(model(batch).softmax(1)[0, target])

    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    return peers.RULES[name](f, image.permute(1, 2, 0).numpy(), values.numpy(), mean, std)


@pytest.mark.parametrize("name", peers.RULES)
@pytest.mark.parametrize("levels", [None, 2, 4, 20])
def test_preset_is_the_peers_rule_step_by_step(name, levels):
    model, x, values = network(), images(), maps(levels)
    found = faithfulness(scorer(model, TARGETS), x, values, protocol=preset(name, SIZE, MEAN))
    areas = torch.stack([found.deletion_auc, found.insertion_auc], dim=1)
    for row in range(2):
        expected = torch.tensor(literal(name, model, x[row], values[row], int(TARGETS[row])), dtype=torch.float32)
        scale = max(1.0, float(expected[0]))  # the sum of Quantus is no mean
        assert_close(areas[row, : len(expected)] / scale, expected / scale, atol=1e-6, rtol=0)


def test_tie_rules_of_the_peers_differ_on_few_levels_and_agree_without_ties():
    model, x, rise = network(), images(), preset("rise", SIZE, MEAN)
    other = rise.model_copy(update={"ties": "index"})
    for levels, differ in ((2, True), (None, False)):
        one, two = (
            faithfulness(scorer(model, TARGETS), x, maps(levels), protocol=rule).deletion_auc for rule in (rise, other)
        )
        assert (float((one - two).abs().max()) > 1e-3) == differ


# The peers themselves


class Extractor:
    """What TorchCAM asks of a CAM: maps that are there already."""

    def __init__(self, model, cams):
        self.model, self.cams = model, cams

    def __call__(self, *_, **__):
        return [self.cams]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return nullcontext()


@pytest.mark.parametrize("levels", [None, 2, 4, 20])
@pytest.mark.parametrize("grid", [SIZE, (4, 6)])
def test_torchcam_itself(levels, grid):
    metrics = pytest.importorskip("torchcam.metrics")
    model, x = network(), images()
    values = maps(levels)[:, : grid[0], : grid[1]].contiguous()
    theirs = metrics.DeletionInsertionMetric(Extractor(model.network, values), lambda logits: logits.softmax(1))
    theirs.update(model.normalize(x), TARGETS.tolist())
    ours = faithfulness(scorer(model, TARGETS), x, values, protocol=preset("torchcam", SIZE, MEAN))
    expected = theirs.summary()
    assert_close(float(ours.deletion_auc.mean()), expected["deletion_auc"], atol=1e-6, rtol=0)
    assert_close(float(ours.insertion_auc.mean()), expected["insertion_auc"], atol=1e-6, rtol=0)


def flipped(features: int, values: np.ndarray, model=None):
    quantus = pytest.importorskip("quantus")
    metric = quantus.PixelFlipping(features_in_step=features, perturb_baseline="black", disable_warnings=True)
    model = model or network()
    return torch.tensor(metric(model, images().numpy(), TARGETS.numpy(), values, batch_size=2, softmax=True))


@pytest.mark.filterwarnings("ignore")
def test_quantus_itself_where_its_steps_end_between_pixels():
    """Three times as many features, since it counts channels; any order inside a pixel is then the same."""
    values = maps(None)
    protocol = preset("quantus", SIZE, MEAN).model_copy(update={"steps": 32})
    ours = faithfulness(scorer(network(), TARGETS), images(), values, protocol=protocol)
    theirs = flipped(3 * 32, values[:, None].numpy())
    assert_close(ours.deletion.scores, theirs.float(), atol=1e-6, rtol=0)
    assert_close(ours.deletion_auc, torch.trapezoid(theirs.float(), dx=1.0), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_quantus_changes_channels_apart_and_its_area_grows_with_its_steps():
    """With us all channels of a pixel change together, and more steps only sharpen the curve."""
    values = maps(None)

    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.batches = []

        def forward(self, batch):
            self.batches.append(batch.clone())
            return network()(batch)

    seen = Seen().eval()
    apart = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(4))  # Quantus takes one value a channel
    flipped(32, apart.numpy(), seen)
    changed = (seen.batches[0] != images()).sum(1)
    assert int(((changed > 0) & (changed < 3)).sum()) > 32
    coarse, fine = (flipped(step, values[:, None].numpy()).float() for step in (96, 48))
    assert float((torch.trapezoid(fine) / torch.trapezoid(coarse)).min()) > 1.8
    ours = [
        faithfulness(
            scorer(network(), TARGETS), images(), values, protocol=CurveProtocol(colour=MEAN, steps=steps, unit="pixel")
        ).deletion_auc
        for steps in (12, 24)
    ]
    assert_close(*ours, atol=0.02, rtol=0)


# Defects of the rules, shown as differences from ours


def test_latec_scores_neither_end_and_shrinks_with_its_last_step():
    """With the ends in, over true fractions, the number is another; a constant score of 1 is not even 1."""
    protocol = preset("latec", SIZE, MEAN)
    one = faithfulness(lambda s, _: torch.ones(len(s)), images(), maps(None), protocol=protocol)
    ours = faithfulness(lambda s, _: torch.ones(len(s)), images(), maps(None), protocol=CurveProtocol(colour=MEAN))
    assert_close(one.deletion_auc, torch.full((2,), 6 / 7))
    assert_close(ours.deletion_auc, torch.ones(2))
    assert one.deletion.fractions.shape[1] == 7
    assert 0 < float(one.deletion.fractions.min()) < float(one.deletion.fractions.max()) < 1


def test_the_pair_of_rise_gives_a_random_order_more_than_nothing():
    """Two baselines: SRG of a constant map is no longer 0, which is why ours has one."""
    constant = torch.zeros(2, *SIZE)
    rise = preset("rise", SIZE, MEAN).model_copy(update={"ties": "expected"})
    assert float(faithfulness(scorer(network(), TARGETS), images(), constant, protocol=rise).srg.abs().min()) > 1e-3
    one = rise.model_copy(update={"insertion_baseline": None})
    assert_close(
        faithfulness(scorer(network(), TARGETS), images(), constant, protocol=one).srg,
        torch.zeros(2),
        atol=1e-6,
        rtol=0,
    )


def test_the_area_of_iba_and_ours_agree_in_the_limit_of_many_even_steps():
    found = faithfulness(
        scorer(network(), TARGETS),
        images(),
        maps(None),
        protocol=CurveProtocol(colour=MEAN, unit="pixel", steps=384, area="mean", ties="index"),
    )
    assert_close(found.deletion_auc, trapezoid(found.deletion), atol=2e-3, rtol=0)
