"""Trained attention read off modules of other people's kinds, and behind Captum's face."""

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from networks import bottlenecked
from torch import Tensor, nn

from ibviz.attribution.ib_attention import IBAttention, _warn_of_target
from ibviz.attribution.methods import explain
from ibviz.errors import InputError
from ibviz.types import AttentionMap

close = torch.testing.assert_close


class SpatialGate(nn.Module):
    """CBAM's: what channels hold at most and on average, through one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.sigmoid = nn.Conv2d(2, 1, 3, padding=1), nn.Sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        pooled = torch.stack([features.amax(1), features.mean(1)], 1)
        return features * self.sigmoid(self.conv(pooled))


class Branch(nn.Module):
    """That of an Attention Branch Network: class evidence, then one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.evidence, self.one, self.sigmoid = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 1, 3, padding=1), nn.Sigmoid()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        evidence = self.evidence(features).relu()
        return self.sigmoid(self.one(evidence)), evidence.mean((2, 3))


class Estimator(nn.Module):
    """Learn to Pay Attention's: cells against the whole; logits beside the attended features."""

    def __init__(self) -> None:
        super().__init__()
        self.op = nn.Conv2d(4, 1, 1, bias=False)

    def forward(self, local: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.op(local + whole)
        weights = logits.flatten(2).softmax(2)
        return logits, (local.flatten(2) * weights).sum(2)


class Attentive(nn.Module):
    """One attention of each kind, one after the other; `seen` is what they did."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.branch, self.pay = nn.Conv2d(3, 4, 4, 4), SpatialGate(), Branch(), Estimator()
        self.flat, self.tokens = nn.Flatten(), nn.Linear(4, 5)
        self.seen: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        gated = self.gate(features)
        attention, logits = self.branch(gated)
        whole = gated.mean((2, 3), keepdim=True)
        self.tokens(features.flatten(2).mT)
        self.seen = {"gate": (gated / features)[:, 0], "branch": attention[:, 0]}
        self.seen["pay"] = self.pay.op(gated + whole).flatten(1).softmax(1).unflatten(1, attention.shape[2:])
        return logits + self.pay(gated, whole)[1].sum(1, keepdim=True) + self.flat(attention).sum(1, keepdim=True)


@pytest.fixture
def network() -> Attentive:
    torch.manual_seed(0)
    return Attentive()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gate", {"module": "gate.sigmoid"}),
        ("gate", {"module": "gate.conv", "reading": "sigmoid"}),
        ("branch", {"module": "branch"}),
        ("branch", {"module": "branch.sigmoid"}),
        ("branch", {"module": "flat", "grid": (6, 8)}),
        ("pay", {"module": "pay", "reading": "softmax", "grid": (6, 8)}),
    ],
)
def test_maps_are_what_the_network_multiplied_by(kind, options, network, images):
    calls: list[int] = []
    network.pay.register_forward_hook(lambda *_: calls.append(1))
    maps = explain(network, images, "module_attention", **options, batch_size=2)
    with torch.no_grad():
        network(images)
    close(maps, network.seen[kind])
    assert not any(module._forward_hooks for module in network.modules() if module is not network.pay)


def test_modules_that_do_not_fit_say_what_they_give(network, images):
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            explain(network, images, "module_attention", **options)

    refused(r"needs the option module.*: branch\.one, branch\.sigmoid, gate\.conv, gate\.sigmoid")
    refused("unknown module 'attention'", module="attention")
    refused(r"gives \[\(3, 4, 6, 8\)\], expected one tensor", module="gate")
    refused(r"gives \[\(3, 48, 5\)\], expected one tensor .* in the images' proportion", module="tokens")
    refused(r"expected one tensor \(b, \.\.\) of 6x9", module="flat", grid=(6, 9))
    refused("runs 2 times", module="pay.op", reading="softmax")
    refused("options of Module attention", module="pay", reading="tanh")


@pytest.mark.parametrize("anchors", [5, None])
def test_autocast_rounds_the_logits_of_the_attention_and_nothing_after_them(anchors):
    model, images, logits = bottlenecked(anchors), torch.rand(2, 3, 48, 48), []
    explain(model, images, "attention")  # of a network's first pass, a trial
    model.attention.head.register_forward_hook(lambda *passed: logits.append(passed[2].detach().squeeze(1)))
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(model, images, "attention")
        mean = explain(model, images, "attention_mean")
        read = {
            reading: explain(model, images, "module_attention", module="attention.head", reading=reading)
            for reading in ("map", "sigmoid", "softmax")
        }
    assert logits[0].dtype == torch.bfloat16
    exact = logits[0].double()
    expected = {"map": exact, "sigmoid": exact.sigmoid(), "softmax": exact.flatten(1).softmax(1).view_as(exact)}
    assert isinstance(found, AttentionMap)
    for one in (mean, found.mean, read["sigmoid"]) if anchors else (mean, found.mean, found.values(), read["sigmoid"]):
        close(one, expected["sigmoid"].float(), rtol=1e-6, atol=0)
    for reading, maps in read.items():
        close(maps, expected[reading].float(), rtol=1e-5, atol=0)
    assert model.double().inspect(images.double()).attention.mean.dtype == torch.float64


def test_captum_sees_the_attention_on_its_grid_or_enlarged():
    model, images = bottlenecked(), torch.rand(2, 3, 48, 48)
    model.train()
    method = IBAttention(model)
    maps = method.attribute(images)
    assert model.training
    close(maps.squeeze(1), model.eval().inspect(images).attention.values().detach())
    close(method.attribute(images, upsample="nearest"), maps.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert method.attribute(images, upsample="bilinear").shape == (2, 1, 48, 48)


def test_a_noise_tunnel_averages_the_attention_of_noisy_copies():
    model, images = bottlenecked(), torch.rand(2, 3, 48, 48)
    torch.manual_seed(3)
    tunnelled = NoiseTunnel(IBAttention(model)).attribute(images, nt_type="smoothgrad", nt_samples=4, stdevs=0.2)
    torch.manual_seed(3)
    noise = torch.normal(0.0, torch.full((8, *images.shape[1:]), 0.2))
    copies = images.repeat_interleave(4, 0) + noise
    close(tunnelled, IBAttention(model).attribute(copies).unflatten(0, (2, 4)).mean(1))


def test_a_target_changes_nothing_and_a_process_hears_of_it_once():
    method, images = IBAttention(bottlenecked()), torch.rand(1, 3, 48, 48)
    _warn_of_target.cache_clear()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        maps = [method.attribute(images, target=target) for target in (None, 1, torch.tensor([2]))]
    assert [str(one.message) for one in heard] == [
        "trained attention is made before any class is considered; `target` changes nothing"
    ]
    assert all(torch.equal(one, maps[0]) for one in maps)


def test_captum_is_imported_only_when_it_is_needed():
    lines = "import sys, ibviz.attribution as a; print('captum' in sys.modules, a.IBAttention, 'captum' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True).stdout.split() == [
        "False",
        "<class",
        "'ibviz.attribution.ib_attention.IBAttention'>",
        "True",
    ]
