"""Killed at random and resumed, or shared by several processes, a run ends with the same bytes."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from benchmark.killed import BATCH, COUNT, DEADLINE, DEATHS, METHODS
from benchmark.small import tables

from ibviz.files import read_rows


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("killed.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, script, root], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return root, json.loads((root / "report.json").read_text())


def test_ten_deaths_leave_no_trace_in_the_result(killed):
    root, report = killed
    assert len(report["done"]) == DEATHS
    assert report["done"] == sorted(report["done"])
    assert 0 < report["done"][-1] < COUNT // BATCH  # in the middle of the work
    assert len(set(report["done"])) >= 3
    assert tables(root / "killed") == tables(root / "one")
    assert len(read_rows(root / "one/rows.parquet")) == COUNT * METHODS * 5


def test_no_map_is_computed_again_but_those_in_flight(killed):
    """A death costs at most the one map that was being written; before the plan is kept, those of the first batch."""
    root, report = killed
    times = Counter((root / "computed.txt").read_text().splitlines())
    assert len(times) == COUNT // BATCH * METHODS
    assert sum(times.values()) - len(times) <= sum(1 if planned else METHODS for planned in report["planned"])


@pytest.mark.parametrize("count", ["two", "four"])
def test_several_processes_give_the_result_of_one(killed, count):
    root, report = killed
    assert set(report[count]) == {0}
    assert tables(root / count) == tables(root / "one")


def test_the_death_of_one_process_ends_the_job_and_a_resumption_completes_it(killed):
    root, report = killed
    first, second = report["doomed"]
    assert second == -9
    assert first == 1
    assert report["doomed seconds"] < DEADLINE
    assert report["parts"] < COUNT // BATCH
    assert report["resumed"] == [0, 0]
    assert tables(root / "doomed") == tables(root / "one")
