"""Standard errors of maps that were drawn at random: kept with the maps, told below the tables of a suite."""

import json
from pathlib import Path

import pytest
import torch
from benchmark.small import image, run_small, suite
from networks import quadrants
from torch import nn

from ibviz.attribution import explain, recorded_errors
from ibviz.attribution.catalogue import METHODS, Method
from ibviz.attribution.perturbation import rise
from ibviz.benchmark.config import MethodConfig
from ibviz.benchmark.results import read_results
from ibviz.benchmark.runner.result import spread_of
from ibviz.benchmark.store import read_shard, shards
from ibviz.benchmark.table_notes import map_errors
from ibviz.benchmark.tables import tabulate, text
from ibviz.data.image_set import to_float

ASKED = suite(methods=(MethodConfig(method="rise", options={"masks": 100}), MethodConfig(method="saliency")))


def stated(number: int) -> float:
    with recorded_errors() as errors:
        explain(quadrants(), to_float(image(number)[None]), "rise", masks=100)
    return errors[0]


def kept(folder: Path) -> list[float]:
    headers = [read_shard(path)[1] for paths in shards(folder).values() for path in paths]
    return [error for header in headers for error in header["errors"]]


def test_a_suite_keeps_the_error_of_each_map_and_tells_median_and_largest(tmp_path):
    assert run_small(tmp_path, asked=ASKED)
    expected = [stated(number) for number in range(10)]
    assert kept(tmp_path) == pytest.approx(expected, rel=1e-3)
    results = read_results(tmp_path)
    [said] = results.circumstances["map_errors"]
    assert said["method"] == "RISE"
    assert said["maps"] == 10
    assert said["median"] == pytest.approx(sorted(expected)[5], rel=1e-3)
    assert said["largest"] == pytest.approx(max(expected), rel=1e-3)
    words = f"median and largest: RISE {said['median']:.2g} and {said['largest']:.2g}."
    assert words in text(tabulate(results.rows, results.circumstances))


def test_a_resumed_run_tells_the_errors_of_the_maps_in_its_store(tmp_path, monkeypatch):
    assert run_small(tmp_path / "whole", asked=ASKED)
    monkeypatch.setattr("ibviz.benchmark.runner.loop.finish", lambda *_: None)
    run_small(tmp_path / "parts", asked=ASKED)
    for part in (tmp_path / "parts" / "parts").iterdir():
        for file in part.iterdir():
            file.unlink()
        part.rmdir()
    monkeypatch.undo()
    monkeypatch.setattr("ibviz.attribution.perturbation.mask_scores", None)  # nothing is drawn again
    assert run_small(tmp_path / "parts", asked=ASKED, resume=True)
    whole, resumed = (json.loads((tmp_path / name / "circumstances.json").read_text()) for name in ("whole", "parts"))
    assert resumed["map_errors"] == whole["map_errors"]


def fussy(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """RISE that has drawn before it fails on dark corners."""
    maps = rise(model, images, targets, masks=100)
    if (images[:, 0, 0, 0] < 0.1).any():
        raise RuntimeError("too dark")
    return maps


def test_errors_of_maps_that_failed_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "fussy", Method(fussy, "Fussy"))
    assert run_small(tmp_path, asked=suite("fussy"))
    sound = [stated(number) for number in range(10) if image(number)[0, 0, 0] >= 25.5]
    assert 0 < len(sound) < 10
    assert sorted(kept(tmp_path)) == pytest.approx(sorted(sound), rel=1e-3)


def test_an_unknown_error_is_the_largest_and_older_results_say_nothing():
    known = {"model": "a", "method": "RISE", **spread_of([0.5, None, 0.25, None, None])}
    assert known["median"] is None
    [sentence] = map_errors("a", {"map_errors": [known]})
    assert sentence.endswith("RISE unknown and unknown.")
    assert map_errors("b", {"map_errors": [known]}) == map_errors("a", {}) == []
