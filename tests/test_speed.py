"""The shared parts of the races in `evaluation/speed`: order, ratios, resumption, budget, failures, fits."""

import inspect
import json
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from evaluation.speed import timing
from evaluation.speed.cases import attribution, curves
from evaluation.speed.cases.precision import product
from evaluation.speed.cases.samplers import cost, error
from evaluation.speed.cases.waits import waits
from evaluation.speed.catalogue import CASES
from evaluation.speed.command import FILE, begin, read, rows_of, run_cases, select
from evaluation.speed.figure import draw
from evaluation.speed.growth.catalogue import grow
from evaluation.speed.growth.child import Cost, in_child
from evaluation.speed.networks import drawn
from evaluation.speed.powers import beyond_first, exponent
from evaluation.speed.records import Case, Contestant, Row, Settings
from evaluation.speed.table import exponents, table
from evaluation.speed.timing import raced, seconds
from ibviz.benchmark.throughput import Pace
from ibviz.errors import InputError

FACTS = {
    "python": "3",
    "versions": {"torch": "2"},
    "not installed": ["lime"],
    "device": "cpu",
    "processor": "P",
    "cores": 2,
    "threads": 1,
}
CASE = Case("g/c", lambda case, settings: [])
THREE = Settings(least_rounds=3, seconds=0.0)


class Clock:
    """A clock that moves only when a contestant works."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, cost: float) -> None:
        self.calls.append(name)
        self.now += cost


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    return clock


def contestant(clock, name, role, cost, work=1.0):
    return Contestant(name, role, partial(clock.work, name, cost), work)


def test_contestants_warm_up_once_and_then_run_in_turn(clock):
    three = [contestant(clock, name, role, 1.0) for name, role in zip("ABC", ("ours", "rival", "limit"), strict=True)]
    rows = raced(CASE, "net", three, THREE)
    assert clock.calls == list("ABC" * 4)
    assert [len(row.seconds) for row in rows] == [3, 3, 3]


def test_a_ratio_is_time_per_unit_over_ours_within_a_round(clock):
    """Six seconds for four units beside one second for one; the machine is half as fast in the second round."""
    slow = iter([1.0, 1.0, 2.0, 2.0, 2.0])

    def ours():
        clock.work("ours", next(slow))

    def theirs():
        clock.work("theirs", 6.0 if len(clock.calls) < 4 else 12.0)

    two = [Contestant("ours", "ours", ours), Contestant("theirs", "rival", theirs, 4.0)]
    mine, rival = raced(CASE, "", two, THREE._replace(least_rounds=2))
    assert (mine.seconds, rival.seconds) == ([1.0, 2.0], [6.0, 12.0])
    assert rival.ratio == [1.5, 1.5]
    assert mine.ratio == []


def test_a_fast_contestant_goes_on_and_a_slow_one_stops_early(clock):
    fast = raced(CASE, "", [contestant(clock, "a", "ours", 0.1)], Settings(seconds=1.0))
    slow = raced(CASE, "", [contestant(clock, "a", "ours", 11.0)], Settings(seconds=1.0))
    assert len(fast[0].seconds) in (10, 11)  # 0.1 ten times is a little below 1
    assert len(slow[0].seconds) == 2


def test_a_contestant_that_cannot_run_is_a_row_with_its_words(clock):
    def broken():
        raise ValueError("no such layer\nand more")

    given = [Contestant("peer", "rival", broken), contestant(clock, "ours", "ours", 1.0)]
    ours, peer = raced(CASE, "net", given, THREE)
    assert (peer.failed, peer.note) == (True, "ValueError: no such layer")
    assert not ours.failed


def made(name, log, fail=False):
    def run(case, settings):
        log.append(case.name)
        if fail:
            raise RuntimeError("out of luck")
        return [Row(case.name, "ibviz", "ours", seconds=[1.0])]

    return Case(name, run)


def test_cases_with_rows_are_not_run_again_and_failed_ones_are(tmp_path):
    log = []
    cases = [made("g/a", log), made("g/b", log, fail=True), made("g/c", log)]
    for _ in range(2):
        run_cases(cases, tmp_path, THREE, begin(tmp_path, FACTS, "command"))
    assert log == ["g/a", "g/b", "g/c", "g/b"]
    kept = read(tmp_path)
    assert kept is not None
    rows = {row.case: row for row in rows_of(kept)}
    assert rows["g/b"].note == "RuntimeError: out of luck"
    assert len(kept["rows"]) == 3
    assert kept["commands"] == ["command"]


def test_a_case_is_kept_before_the_next_begins(tmp_path):
    def interrupt(case, settings):
        raise KeyboardInterrupt

    log = []
    with pytest.raises(KeyboardInterrupt):
        run_cases([made("g/a", log), Case("g/b", interrupt)], tmp_path, THREE, begin(tmp_path, FACTS, ""))
    assert [row["case"] for row in json.loads((tmp_path / FILE).read_text())["rows"]] == ["g/a"]


def test_a_budget_ends_after_the_case_at_hand_and_says_what_is_left(tmp_path, capsys):
    now, log = [0.0], []

    def run(case, settings):
        log.append(case.name)
        now[0] += 61.0
        return [Row(case.name, "ibviz", "ours", seconds=[61.0])]

    cases = [Case(f"g/{name}", run) for name in "abc"]
    run_cases(cases, tmp_path, THREE, begin(tmp_path, FACTS, ""), budget=2, clock=lambda: now[0])
    assert log == ["g/a", "g/b"]
    kept = read(tmp_path)
    assert kept is not None
    assert kept["left out"] == ["g/c"]
    assert "left out: g/c" in capsys.readouterr().err
    run_cases(cases, tmp_path, THREE, begin(tmp_path, FACTS, ""), budget=2, clock=lambda: now[0])
    assert log == ["g/a", "g/b", "g/c"]


def test_rows_of_another_machine_are_not_mixed(tmp_path):
    run_cases([made("g/a", [])], tmp_path, THREE, begin(tmp_path, FACTS, ""))
    with pytest.raises(InputError, match=r"processor differ.*another folder"):
        begin(tmp_path, FACTS | {"processor": "Q"}, "")


def test_cases_are_selected_by_name_and_by_group():
    everything = [case.name for case in select(CASES, [])]
    assert "training/memory" not in everything
    assert len(everything) > 70
    assert [case.name for case in select(CASES, ["training/memory"])] == ["training/memory"]
    assert {case.name.partition("/")[0] for case in select(CASES, ["growth", "road"])} == {"growth", "road"}
    assert [case.name for case in select(CASES, ["curves/resnet50/limit"])] == ["curves/resnet50/limit"]
    with pytest.raises(InputError, match="did you mean 'curves'"):
        select(CASES, ["curvs"])


def test_a_power_law_is_found_with_an_interval_that_holds_it():
    sizes = np.array([10.0, 30, 100, 300, 1000, 3000])
    held = 0
    for seed in range(200):
        noise = np.exp(0.05 * np.random.default_rng(seed).standard_normal(len(sizes)))
        fit = exponent(sizes.tolist(), (0.3 * sizes**1.5 * noise).tolist())
        held += fit.low <= 1.5 <= fit.high
    assert 180 <= held <= 198  # 95 % of 200, give or take three deviations
    exact = exponent(sizes.tolist(), (0.3 * sizes**1.5).tolist())
    assert exact == pytest.approx((1.5, 1.5, 1.5))


def test_a_fixed_cost_does_not_hide_that_a_cost_is_linear():
    sizes = [100.0, 1000.0, 2500.0, 10_000.0]
    costs = [2.0 + 0.003 * size for size in sizes]
    assert exponent(sizes, costs).value < 0.7
    assert exponent(*beyond_first(sizes, costs)).value == pytest.approx(1.0)


def grown(monkeypatch, name, seconds_of, memory_of):
    def in_child(task, **given):
        [size] = given.values()
        return Cost(0.0, seconds_of(size), memory_of(size))

    monkeypatch.setattr("evaluation.speed.growth.catalogue.in_child", in_child)
    return grow(name, CASES[f"growth/{name}"], Settings(images=10_000))


def test_growth_is_linear_in_images_and_flat_in_memory_where_it_is(monkeypatch):
    rows = grown(monkeypatch, "images", lambda size: 2 + 0.003 * size, lambda size: 900.0)
    assert [row.size for row in rows] == [100, 1000, 2500, 4500, 7000, 10_000]
    time, memory = exponents("images", rows)
    assert time is not None
    assert memory is not None
    assert time.value == pytest.approx(1.0)
    assert memory.value == pytest.approx(0.0)


def test_the_least_of_several_rounds_counts(monkeypatch):
    """A busy minute makes every second process slower."""
    calls = iter(range(100))
    rows = grown(monkeypatch, "steps", lambda size: (1 + size) * (1 + next(calls) % 2), lambda size: 900.0)
    assert [len(row.seconds) for row in rows] == [2] * 5
    time, _ = exponents("steps", rows)
    assert time is not None
    assert time.value == pytest.approx(1.0)


def test_memory_of_curves_does_not_grow_with_their_steps():
    """Small tensors kept between large ones once scattered the heap, by a third of a MiB for each pass."""
    few, many = (in_child("curves", images=64, steps=steps).memory for steps in (16, 512))
    assert many < few + 60


def test_the_error_of_a_map_ignores_its_mean_and_the_cost_ignores_the_count():
    known = torch.tensor([[3.0, 1.0, 1.0, -1.0]])
    assert error(known + 7, known) == pytest.approx(0.0, abs=1e-6)
    assert error(known - torch.tensor([[1.0, -1.0, 0.0, 0.0]]), known) == pytest.approx(0.5)
    few = Row("s/m", "a", "ours", seconds=[1.0], error=0.4)
    many = Row("s/m", "a", "ours", seconds=[4.0], error=0.2)
    assert cost(few) == pytest.approx(cost(many))


def test_the_peak_of_a_small_process_is_its_own():
    """`ru_maxrss` of a child begins at the size of its parent, which has torch loaded."""
    held = np.ones(50_000_000)
    code = inspect.getsource(timing.peak_memory)
    program = f"import resource\nfrom pathlib import Path\n{code}\nprint(peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 100 < held.nbytes / 2**20 < timing.peak_memory()


def test_waits_are_the_numbers_that_the_host_reads():
    known = torch.arange(6.0)
    assert waits(lambda: known * 2 + known.sum()) == 0
    assert waits(lambda: [float(value) for value in known]) == 6
    assert waits(lambda: known[known > 2]) == 1  # their number is not known before


def example() -> list[Row]:
    raced_rows = [
        Row("curves/resnet20/limit", "ibviz", "ours", "resnet20", [2.0, 2.0], 4, "masked image", note="batch 16"),
        Row("curves/resnet20/limit", "bare", "limit", "resnet20", [1.8, 1.8], 4, "masked image", [0.9, 0.9]),
        Row("curves/resnet20/rise", "", "ours", note="RuntimeError: a | b"),
    ]
    samplers = [
        Row("samplers/rise", name, "ours", "m", [second], count, "pass", size=count, error=level)
        for name in ("ibviz", "peer")
        for count, second, level in ((8, 1.0, 0.4), (32, 4.0, 0.2))
    ]
    growth = [
        Row("growth/images", "ibviz", "ours", seconds=[1 + size / 100], unit="process", size=size, memory=800.0)
        for size in (100, 1000, 2500, 5000)
    ]
    return [*growth, *samplers, *raced_rows]


def test_the_table_tells_ratios_failures_and_exponents():
    page = table(example(), FACTS, list(CASES))
    assert page.index("## curves") < page.index("## samplers") < page.index("## growth")
    assert (
        "| resnet20/limit | resnet20 | masked image | 0.5 [0.5, 0.5] | 2 | bare 0.90 [0.90, 0.90] "
        "| - | ibviz: batch 16 |"
    ) in page
    assert "RuntimeError: a / b" in page
    assert "| 1.00 [1.00, 1.00] | 1 | 800, 800, 800, 800 | 0.00 [0.00, 0.00] | 0 |" in page
    assert "not installed: lime" in page


def test_the_figure_has_a_panel_for_each_part(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, text, **_: titles.append(text))
    draw(example(), list(CASES), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "rise: error against time" in titles
    assert "time 1.00\ndashed: MiB 0.00" in titles
    assert len(titles) == 3


def test_a_gpu_is_idle_before_and_after_what_is_timed(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(str(device)))
    seconds(lambda: order.append("run"), torch.device("cuda"))
    seconds(lambda: order.append("run"), torch.device("cpu"))
    assert order == ["cuda", "run", "cuda", "run"]


def test_races_run_on_tensors_of_a_gpu_that_is_not_there(monkeypatch):
    """Fake tensors carry shapes and devices through the code; a tensor left on the CPU would be an error."""
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(curves, "in_format", lambda *_: nullcontext())  # fake weights cannot be moved
    device = torch.device("cuda", 0)
    settings = Settings(device, least_rounds=1, seconds=0.0)
    with FakeTensorMode():
        with device:
            network: Any = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3)
            ).eval()
        images, maps = drawn(2, 3, 8, 8, device=device), drawn(2, 4, 4, device=device)
        classes = torch.zeros(2, dtype=torch.long, device=device)
        scene = curves.Scene(network, images, maps, classes, Pace(4, "contiguous", 0.0))
        subject = attribution.Subject(network, images, classes, "0", "0")
        contestants = [
            Contestant("float32", "ours", curves.bare(scene, 10)),
            Contestant("bfloat16", "rival", curves.bare(scene, 10, "bfloat16")),
            Contestant("pass", "limit", attribution.forward(subject)),
        ]
        rows = [*raced(CASE, "", contestants, settings), *product(CASES["precision/product"], settings)]
    assert [row.note for row in rows] == [""] * 5
    assert all(len(row.seconds) == 1 for row in rows)
    assert waits == [device] * 10  # the warm-up is not timed
