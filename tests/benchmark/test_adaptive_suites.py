"""Adaptive steps in evaluations and suites: the bound of each row, in words below the table, and what is refused."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from benchmark.small import image, run_small, suite
from networks import quadrants

import ibviz
from ibviz.benchmark import evaluation as evaluation_module
from ibviz.benchmark.config import ProtocolConfig
from ibviz.benchmark.results import read_results
from ibviz.benchmark.store import read_maps
from ibviz.benchmark.tables import tabulate, text
from ibviz.data.image_set import to_float
from ibviz.digests import digest_files, read_sealed, seal
from ibviz.errors import InputError
from ibviz.metrics import CurveProtocol, faithfulness, scorer

WORDS = "only steps where the score changes (each area within 0.03 if its curve is monotone)"


def adaptive(**choices) -> ProtocolConfig:
    return ProtocolConfig(grid=(8, 8), steps="adaptive", tolerance=0.03, orders=2, batch_size=32, **choices)


def test_a_suite_keeps_the_bound_of_each_image_and_says_what_was_done(tmp_path):
    assert run_small(tmp_path, asked=suite(protocols=(adaptive(),)))
    results = read_results(tmp_path)
    rows = results.rows[(results.rows["method"] == "centre") & (results.rows["metric"] == "srg")]
    model, images = quadrants(), to_float(torch.stack([image(number) for number in range(10)]))
    maps = read_maps(tmp_path, "quadrants", "centre")
    assert isinstance(maps, torch.Tensor)
    protocol = CurveProtocol(colour=(0, 0, 0), grid=(8, 8), steps="adaptive", tolerance=0.03, orders=2)
    direct = faithfulness(scorer(model, model(images).argmax(1)), images, maps, protocol=protocol)
    assert rows["value"].tolist() == pytest.approx(direct.srg.tolist(), abs=1e-6)
    assert rows["area_error"].tolist() == pytest.approx(direct.area_error.tolist(), abs=1e-6)
    assert 0 < float(direct.area_error.max()) <= 0.06
    assert WORDS in text(tabulate(results.rows, results.circumstances))


def test_even_steps_leave_nothing_out_and_older_results_are_read(tmp_path):
    assert run_small(tmp_path)
    now = read_results(tmp_path)
    assert set(now.rows["area_error"]) == {0.0}
    table = pq.read_table(tmp_path / "rows.parquet")
    pq.write_table(table.drop_columns("area_error"), tmp_path / "rows.parquet")
    facts = read_sealed(tmp_path / "circumstances.json", "")
    facts["files"] |= digest_files(tmp_path, ["rows.parquet"])
    (tmp_path / "circumstances.json").write_text(json.dumps(seal(facts)))
    older = read_results(tmp_path)
    assert "area_error" not in older.rows
    assert text(tabulate(older.rows, older.circumstances)) == text(tabulate(now.rows, now.circumstances))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"preset": "rise"}, r"protocol 'rise': steps = 'adaptive' goes with cuts = 'even', .*; got 'stride', 'even'"),
        (
            {"ties": "group"},
            r"protocol 'default': steps = 'adaptive' goes with .*; got 'even', 'fractions' and 'group'",
        ),
    ],
)
def test_a_suite_with_other_points_is_refused_before_it_runs(tmp_path, choices, message):
    with pytest.raises(InputError, match=message):
        run_small(tmp_path, asked=suite(protocols=(adaptive(**choices),)))


def test_an_evaluation_in_memory_takes_adaptive_steps(monkeypatch):
    stated, judge = [], evaluation_module.judge
    monkeypatch.setattr(
        evaluation_module,
        "judge",
        lambda *given, title, **more: stated.append(title) or judge(*given, title=title, **more),
    )
    images, model = to_float(torch.stack([image(number) for number in range(4)])), quadrants()
    maps = {"m": torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))}
    protocol = CurveProtocol(colour=(0, 0, 0), steps="adaptive", tolerance=0.03, orders=2)
    found = ibviz.evaluate(model, images, maps, protocol=protocol)
    [title] = stated
    most = int(title.removeprefix("at most ").removesuffix(" forward passes").replace(",", ""))
    assert 0 < found.forward_passes < most
    assert WORDS in found.legend()
    assert found.card.hash != ibviz.evaluate(model, images, maps).card.hash
