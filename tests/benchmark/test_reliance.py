"""How much the attention is used, in suites and in memory: against one image after the other."""

import json
import math
from pathlib import Path

import pytest
import torch
from benchmark.small import choose, run_small, suite
from networks import quadrants
from torch import nn

from ibviz.attribution.methods import explain, values
from ibviz.benchmark.evaluation import evaluate
from ibviz.benchmark.results import read_results
from ibviz.benchmark.runner import loop
from ibviz.benchmark.runner.attention_reliance import measure_reliance
from ibviz.benchmark.runner.maps import Network
from ibviz.benchmark.runner.plan import read_plan
from ibviz.benchmark.runner.verify import verify
from ibviz.benchmark.store import read_maps
from ibviz.metrics.protocol import CurveProtocol
from ibviz.models.backbones import Parts, SplitNetwork
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.models.loading import Classifier
from ibviz.models.reliance import REPLACEMENTS, derangement


def trained() -> IBClassifier:
    """A network of 8 x 8 cells with random weights, whose attention follows the images and is multiplied on."""
    torch.manual_seed(0)
    spec = InputConfig(size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), class_names=tuple("abcd"))
    stem = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 1))
    rest = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 8))
    head = nn.Conv2d(4, 1, 1)
    model = IBClassifier(
        ModelConfig(anchors=4, latent=6, gate="mul"),
        spec,
        Parts(SplitNetwork(stem, rest), "stem", 4, head, 8, nn.Linear(6, 4)),
    ).eval()
    with torch.no_grad():
        head.weight.mul_(8)
        for parameter in model.decoder.parameters():
            parameter.mul_(20)
    return model


def one_by_one(model: IBClassifier, images: torch.Tensor, labels: torch.Tensor) -> dict[str, list[tuple[float, float]]]:
    """Right or not, and nats, of each image with each map, in a slow loop."""
    with torch.no_grad():
        maps = [model.inspect(image[None]).attention.values()[0] for image in images]
        average = sum(maps[1:], maps[0]) / len(maps)
        partners = derangement(len(maps), seed=0).tolist()
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in REPLACEMENTS}
        for place, own in enumerate(maps):
            chosen = {
                "own": own,
                "mean": torch.full_like(own, own.mean().item()),
                "average": average,
                "other": maps[partners[place]],
                "reversed": own.max() + own.min() - own,
            }
            for name, cells in chosen.items():
                shares = model.with_gate(images[place][None], cells[None, None])[0, 0].double().softmax(0)
                label = int(labels[place])
                found[name].append((float(shares.argmax() == label), -math.log(shares[label])))
    return found


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reliance")
    models: dict[str, Classifier] = {"trained": trained(), "quadrants": quadrants()}
    assert run_small(out, asked=suite("attention", "grad_cam", metrics=("srg",)), models=models)
    return out


def ten() -> tuple[torch.Tensor, torch.Tensor]:
    batch = choose(10).read(0, 10)
    return batch.images.float() / 255, batch.labels


def test_a_suite_says_how_much_attention_is_used_as_counted_one_by_one(result):
    said = read_results(result).circumstances["models"]["trained"]["reliance"]
    expected = one_by_one(trained(), *ten())
    assert len({round(sum(nats for _, nats in numbers), 4) for numbers in expected.values()}) == 5
    for name, numbers in expected.items():
        right, nats = (sum(column) / 10 for column in zip(*numbers, strict=True))
        assert said[name]["accuracy"]["mean"] == pytest.approx(right)
        assert said[name]["cross_entropy"]["mean"] == pytest.approx(nats, rel=1e-5)
        assert said[name]["accuracy"]["n"] == 10
    assert read_results(result).circumstances["models"]["quadrants"]["reliance"] == {}


def test_the_average_map_over_all_images_is_a_control_of_the_trained_network_alone(result):
    maps = read_maps(result, "trained", "average map")
    assert isinstance(maps, torch.Tensor)
    own = torch.cat([values(explain(trained(), image[None], "attention")) for image in ten()[0]])
    torch.testing.assert_close(maps, own.mean(0).expand(10, -1, -1), rtol=2**-10, atol=0)  # stored as float16
    rows = read_results(result).rows
    assert set(rows[rows["method"] == "average map"]["model"]) == {"trained"}
    assert set(rows[rows["method"] == "average map"]["control"]) == {True}
    assert read_results(result).circumstances["left_out"] == [
        {"model": "quadrants", "method": "Attention", "metric": None, "reason": one["reason"]}
        for one in read_results(result).circumstances["left_out"]
    ]


def test_neither_the_average_nor_the_numbers_depend_on_the_batch(result, tmp_path):
    models: dict[str, Classifier] = {"trained": trained()}
    assert run_small(tmp_path, asked=suite("attention", metrics=("srg",), batch=3), models=models)
    ours, theirs = (json.loads((one / "plan.json").read_text())["models"]["trained"] for one in (tmp_path, result))
    assert ours["average"] == theirs["average"]
    assert ours["reliance"] == theirs["reliance"]


def test_both_are_decided_once_and_taken_from_the_plan_by_a_resumption(result, tmp_path, monkeypatch):
    models: dict[str, Classifier] = {"trained": trained(), "quadrants": quadrants()}
    asked = suite("attention", "grad_cam", metrics=("srg",))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "judge_batch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_small(tmp_path, asked=asked, models=models)
    monkeypatch.setattr("ibviz.benchmark.runner.plan.measure_reliance", lambda *_: pytest.fail("measured again"))
    assert run_small(tmp_path, asked=asked, models=models, resume=True)
    assert (tmp_path / "rows.parquet").read_bytes() == (result / "rows.parquet").read_bytes()
    assert read_plan(tmp_path) == read_plan(result)
    verdict = verify(asked, models, choose(10), result, seed=0)
    assert verdict.rows == verdict.equal > 0


def test_images_that_cannot_be_read_are_no_part_of_the_average():
    network = Network("trained", trained(), "")
    found = measure_reliance(network, choose(10, broken=(2, 7)))
    images, labels = ten()
    kept = torch.tensor([0, 1, 3, 4, 5, 6, 8, 9])
    expected = one_by_one(trained(), images[kept], labels[kept])
    assert found is not None
    for place, numbers in enumerate(expected.values()):
        assert found.cross_entropy[place].tolist() == pytest.approx([nats for _, nats in numbers], rel=1e-4)
    own = torch.cat([values(explain(trained(), image[None], "attention")) for image in images[kept]])
    torch.testing.assert_close(found.average, own.mean(0))


def test_in_memory_the_same_stands_below_the_table_and_among_the_controls():
    model, (images, labels) = trained(), ten()
    few = CurveProtocol(colour=(0.5, 0.5, 0.5), steps=2, orders=2, batch_size=32)
    own = model.inspect(images).attention
    seen = evaluate(model, images, {"attention": own}, labels=labels, protocol=few)
    expected = one_by_one(model, images, labels)
    table = seen.table()
    assert "How much the attention is used" in table
    for name, numbers in expected.items():
        [line] = [one for one in table.splitlines() if one.startswith(f"{REPLACEMENTS[name]}  ")]
        right, nats = (sum(column) / 10 for column in zip(*numbers, strict=True))
        assert f"  {right:.3f} [" in line
        assert f"  {nats:.3f} [" in line
    torch.testing.assert_close(values(seen.maps["average map"]), own.values().mean(0).expand(10, -1, -1))
    for unlabelled in (None, torch.full((10,), -1)):
        seen = evaluate(model, images, {"attention": own}, labels=unlabelled, protocol=few)
        assert "How much the attention is used" not in seen.table()
    assert "average map" not in evaluate(quadrants(), images, {"flat": own.mean}, labels=labels, protocol=few).table()
