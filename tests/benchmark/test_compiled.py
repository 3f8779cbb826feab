"""Compiled forward passes: the same numbers, and a sentence where they cannot be had.

Those of a network with attention are in `training/compiled.py`, in a process without type checks.
"""

import pytest
import torch
from torch import Tensor, nn

import ibviz
from ibviz.benchmark.compiled import CompiledForward, compiled
from ibviz.benchmark.config import MethodConfig, ProtocolConfig, SuiteConfig
from ibviz.benchmark.results import read_results
from ibviz.benchmark.runner.loop import run_suite
from ibviz.metrics import CurveProtocol
from ibviz.models.loading import WrappedClassifier


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    """Trace and cut graphs as the compiler does, and run them without C++, which takes a minute."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, *, dynamic, options: whole(network, backend="aot_eager"))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small(names: str, size: int, stride: int = 1) -> WrappedClassifier:
    torch.manual_seed(0)
    cells = ((size - 3) // stride + 1) ** 2
    end = nn.Linear(4 * cells, len(names))
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), end)
    return ibviz.wrap(layers, mean=(0.5,) * 3, std=(0.5,) * 3, class_names=list(names), size=size).eval()


@pytest.fixture
def network():
    return small("abc", 16)


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_passes_are_filled_up_or_split_and_images_do_not_see_the_filling(network, images, count):
    passes = list[int]()
    network.register_forward_hook(lambda module, given, output: passes.append(len(output)))
    with torch.inference_mode(), compiled(network, images, 4) as forward:
        assert forward is not None
        torch.testing.assert_close(forward(images[:count]), network(images[:count]))


@pytest.mark.parametrize("choices", [{"steps": 8, "grid": (4, 4)}, {"steps": "adaptive", "grid": (8, 8)}])
def test_an_evaluation_has_the_same_numbers_compiled(network, images, choices):
    maps = {"saliency": ibviz.explain(network, images, "saliency", targets=0)}
    protocol = CurveProtocol(colour=(0.5,) * 3, batch_size=16, **choices)
    plain, fast = (ibviz.evaluate(network, images, maps, protocol=protocol, compile=on) for on in (False, True))
    assert [row["hash"] for row in plain.rows] == [row["hash"] for row in fast.rows]
    values = [torch.tensor([row["value"] for row in result.rows]) for result in (plain, fast)]
    torch.testing.assert_close(*values, equal_nan=True)


def test_a_suite_scores_masked_images_by_compiled_code_alone(tmp_path, monkeypatch):
    calls = list[int]()
    plain = CompiledForward.__call__
    monkeypatch.setattr(CompiledForward, "__call__", lambda own, given: calls.append(len(given)) or plain(own, given))
    shared = {
        "images": 4,
        "methods": (MethodConfig(method="saliency"),),
        "protocols": (ProtocolConfig(steps=4, grid=(4, 4), batch_size=8),),
        "metrics": ("srg",),
        "native": False,
    }
    results, network = [], small("0123456789", 48, stride=4)
    for on in (False, True):
        assert run_suite(SuiteConfig(**shared, compile=on), {"small": network}, tmp_path / str(on))
        results.append(read_results(tmp_path / str(on)))
        assert bool(calls) is on
    values = [torch.tensor(result.rows["value"].to_numpy()) for result in results]
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert sum(calls) - 1 == results[1].circumstances["forward_passes"]  # an image is compared before


def test_a_network_that_cannot_be_compiled_runs_as_it_is_and_a_sentence_says_so(network, images, monkeypatch, capsys):
    def no_compiler(graph, example):
        raise FileNotFoundError("no working C++ compiler")

    monkeypatch.setattr(
        torch, "compile", lambda network, *, dynamic, options: torch._dynamo.optimize(no_compiler)(network)
    )
    with compiled(network, images, 4) as forward:
        assert forward is None
    told = capsys.readouterr().err
    assert told.startswith("ibviz: WrappedClassifier cannot be compiled, and runs as it is: ")
    assert "no working C++ compiler" in told
    assert told.count("\n") == 1


class Different(nn.Module):
    """Computes something else under the compiler."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * (2 if torch.compiler.is_compiling() else 1)


def test_code_that_gives_other_logits_is_not_used(images, capsys):
    with compiled(Different().eval(), images, 4) as forward:
        assert forward is None
    assert "Different gives other logits when compiled (100.0% off), and runs as it is" in capsys.readouterr().err
