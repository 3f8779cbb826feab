"""Every method on small networks by `evaluation/networks.py`: right by another way, or refused in words."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sweep() -> Any:
    found = importlib.util.spec_from_file_location("networks_sweep", ROOT / "evaluation/networks.py")
    assert found is not None
    assert found.loader is not None
    module: Any = importlib.util.module_from_spec(found)
    sys.modules["networks_sweep"] = module
    found.loader.exec_module(module)
    return module


class Functional(nn.Module):
    """All but the convolutions is functions; a ReLU writes over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.first(images), inplace=True)
        return self.second(functional.max_pool2d(features, 2)).relu().mean((2, 3))


class Excited(nn.Module):
    """Channels are weighed by what they hold, as in squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.gate, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.silu(self.norm(self.stem(images)))
        features = features * self.gate(features.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(features.mean((2, 3)))


class Tokens(nn.Module):
    """One layer of attention over patches and a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0, "gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.patches(images).flatten(2).mT
        return self.head(self.layer(torch.cat([self.token.expand(len(cells), -1, -1), cells], 1))[:, 0])


class Mixed(nn.Module):
    """Densely connected, with its normalisation before the activation, as DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 + 4 * place, 4, 3, 1, 1) for place in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * place) for place in range(3))
        self.head = nn.Linear(15, 5)

    def forward(self, images: Tensor) -> Tensor:
        for convolution, norm in zip(self.convs, self.norms, strict=True):
            images = torch.cat([images, convolution(norm(images).relu())], 1)
        return self.head(functional.adaptive_avg_pool2d(functional.hardswish(images), 1).flatten(1))


NETWORKS = {  # with the methods that refuse it
    Functional: {"attention_rollout", "gradient_rollout", "raw_attention"},
    Excited: {
        "attention_rollout",
        "gradient_rollout",
        "raw_attention",
        "deep_lift",
        "lrp",
        "guided_backprop",
        "guided_grad_cam",
    },
    Tokens: {"deep_lift", "lrp", "guided_backprop", "guided_grad_cam"},
    Mixed: {"attention_rollout", "gradient_rollout", "raw_attention"},
}


@pytest.fixture(params=NETWORKS, ids=lambda kind: kind.__name__)
def case(request, sweep) -> Any:
    torch.manual_seed(0)
    network, images = request.param(), torch.rand(2, 3, 16, 16)
    sweep.settled(network, images)
    return sweep.Case(network.eval(), images, *sweep.plain_layer(network, images))


def test_every_method_is_right_or_refuses(case, sweep):
    found = {method: sweep.judged(case, method) for method in sweep.SWEPT}
    assert not {name: row for name, row in found.items() if row["status"] not in ("right", "ran", "refused")}
    assert {name for name, row in found.items() if row["status"] == "refused"} == NETWORKS[type(case.network)]
    others = set(sweep.ORACLES) - NETWORKS[type(case.network)]
    assert {name for name, row in found.items() if row["status"] == "right"} == others


def test_a_map_that_is_a_little_off_is_wrong(sweep, monkeypatch):
    torch.manual_seed(0)
    network, images = Functional().eval(), torch.rand(2, 3, 16, 16)
    case = sweep.Case(network, images, *sweep.plain_layer(network, images))
    explain = sweep.explain
    monkeypatch.setattr(sweep, "explain", lambda *given, **more: explain(*given, **more) * 1.01 + 1e-3)
    for method in set(sweep.ORACLES) - {"deep_lift"}:
        assert sweep.judged(case, method)["status"] == "wrong", method


def test_the_page_is_that_of_the_committed_rows(sweep):
    rows = sweep.read(ROOT / "evaluation/results/networks/rows.jsonl")
    assert (ROOT / "docs/networks.md").read_text() == sweep.page(rows)
    assert not [row for row in rows if row["status"] in ("wrong", "error")]
    assert max(Counter((row["network"], row["method"]) for row in rows).values()) == 1
