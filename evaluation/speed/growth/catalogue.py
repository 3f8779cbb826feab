"""How time and memory grow, each size in a process of its own; and what a start costs.

Seconds are those of the processor, imports left out, but for `processes`, which counts the whole command by the clock.
A run beside other work is slower, never faster: sizes run in turn, in rounds, and the least of each counts. Memory is
the peak of the whole process.
"""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import NamedTuple

from evaluation.speed.growth.child import ROOT, Cost, in_child
from evaluation.speed.records import Case, Contestant, Row, Run, Settings
from evaluation.speed.timing import raced
from ibviz.progress import progress


class Growth(NamedTuple):
    """A task, the argument that grows, its sizes, and the exponents that are expected of time and memory."""

    task: str
    argument: str
    sizes: tuple[int, ...]
    time: float
    memory: float | None  # None: what is given grows as well
    beyond_first: bool = True  # fit what is added to the first size, so that a fixed cost drops out
    rounds: int = 1


GROWTH = {
    "images": Growth("suite", "images", (100, 1000, 2500, 4500, 7000, 10_000, 30_000, 100_000), 1, 0, rounds=2),
    # Up to some twenty methods the panel of all maps fits one page, and its pictures shrink instead.
    "methods": Growth("suite", "methods", (24, 36, 56, 80, 112), 1, None, rounds=2),
    "classes": Growth("suite", "classes", (10, 1000, 21_841), 0, 0, beyond_first=False),
    "steps": Growth("curves", "steps", (16, 64, 192, 512, 1024), 1, 0, rounds=2),
    "pixels": Growth("curves", "pixels", (32**2, 64**2, 128**2, 192**2, 256**2), 1, None),
    "cells": Growth("curves", "grid", (8, 16, 32, 64), 0, 0, beyond_first=False),
    "anchors": Growth("anchors", "count", (5, 40, 100, 160), 1, None),
    "report": Growth("report", "images", (100, 500, 1000, 2000), 1, None),
}


def grow(name: str, case: Case, settings: Settings) -> list[Row]:
    growth = GROWTH[name]
    sizes = [size for size in growth.sizes if growth.argument != "images" or size <= settings.images]
    costs: dict[int, list[Cost]] = {size: [] for size in sizes}
    for size in progress(sizes * growth.rounds, case.name):
        costs[size].append(in_child(growth.task, **{growth.argument: size}))
    return [
        Row(
            case.name,
            "ibviz",
            "ours",
            seconds=[cost.processor for cost in costs[size]],
            unit="process",
            size=size,
            memory=max(cost.memory for cost in costs[size]),
        )
        for size in sizes
    ]


def processes(case: Case, settings: Settings) -> list[Row]:
    """The same suite by one and by two processes of `torchrun`, with their start, by the clock."""
    rows = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            given = json.dumps({"images": min(3000, settings.images), "out": f"{folder}/result"})
            launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
            command = [sys.executable, *launch, "evaluation.speed.growth.child", "suite", given]
            begun = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
            spent = time.perf_counter() - begun
        rows.append(Row(case.name, "ibviz", "ours", seconds=[spent], unit="command", size=count))
    return rows


def suite_of_many(case: Case, settings: Settings) -> list[Row]:
    """Five networks by twenty methods, 250 images."""
    cost = in_child("suite", images=250, methods=20, networks=5)
    note = "5 networks, 20 methods and the controls, 250 images"
    return [Row(case.name, "ibviz", "ours", seconds=[cost.processor], unit="process", memory=cost.memory, note=note)]


def overhead(case: Case, settings: Settings) -> list[Row]:
    """The runner and the store beside the metrics, on 12 embedded images."""
    from evaluation.speed.growth.suites import overhead as measure

    spent = measure(12)
    note = f"runner and store take {spent['rest'] / spent['metrics']:.1%} of the seconds of the metrics"
    return [Row(case.name, "ibviz", "ours", seconds=[spent["whole"]], work=12, unit="image", note=note)]


FIRST_MAP = """
import torch, ibviz
network = ibviz.load("digits")
ibviz.explain(network, torch.rand(1, 3, 48, 48), "grad_cam")
"""
LIMITS = {  # what the interpreter and torch take by themselves
    "help": "pass",
    "import": "pass",
    "explain": "import torch, torchvision; torch.nn.Conv2d(3, 8, 3)(torch.rand(1, 3, 48, 48))",
}
STARTS = {
    "help": ["-m", "ibviz", "--help"],
    "import": ["-c", "import ibviz"],
    "explain": ["-c", FIRST_MAP],
}


def started(arguments: list[str]) -> Run:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, capture_output=True)


def start(name: str, case: Case, settings: Settings) -> list[Row]:
    contestants = [
        Contestant("ibviz", "ours", started(STARTS[name])),
        Contestant(f"python: {LIMITS[name].partition(';')[0]}", "limit", started(["-c", LIMITS[name]])),
    ]
    return raced(case, "", contestants, settings, unit="process")


CASES = [
    *(Case(f"growth/{name}", partial(grow, name)) for name in GROWTH),
    Case("growth/processes", processes),
    Case("growth/five_by_twenty", suite_of_many),
    Case("growth/overhead", overhead),
    *(Case(f"growth/start_{name}", partial(start, name)) for name in STARTS),
]
