"""How long an epoch of the demo takes alone and beside busy neighbours, by how long OpenMP's threads spin as they wait.

    python -m evaluation.neighbours --out neighbours.json [--repeats 3]

Each try is `ibviz train` of one epoch in a process of its own; the seconds are those of its log, without the start.
A neighbour is a process that computes without pause. With as many threads as cores, the fair share of a command beside
n neighbours is threads / (threads + n) of the machine. Tries go in turn through all settings, and the same command goes
on where it was stopped. The table is printed at the end.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from pydantic import BaseModel

from ibviz.benchmark.setup import versions
from ibviz.files import command, read_rows, replacing
from ibviz.progress import progress
from ibviz.reading import read_json, validated

RECIPE = '[data]\nsource = "digits"\n[training]\nepochs = 1\n'
WAITING: dict[str, dict[str, str]] = {  # variables of OpenMP; the first is what libgomp does unless it is told
    "spin 300,000 times": {"GOMP_SPINCOUNT": "300000"},
    "spin 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "as ibviz chooses": {},
}
NEIGHBOURS = (0, 1, 2)


class Try(BaseModel):
    """The seconds of one epoch."""

    waiting: str
    neighbours: int
    seconds: float


class Study(BaseModel):
    """All tries so far."""

    circumstances: dict[str, str] = {}  # of the last call
    tries: list[Try] = []

    def seconds(self, waiting: str, neighbours: int) -> list[float]:
        return [row.seconds for row in self.tries if (row.waiting, row.neighbours) == (waiting, neighbours)]


def compute() -> None:
    while True:
        pass


@contextmanager
def beside(neighbours: int) -> Iterator[None]:
    busy = [multiprocessing.Process(target=compute, daemon=True) for _ in range(neighbours)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()


def epoch(variables: dict[str, str]) -> float:
    """Return the seconds of one epoch of the embedded images, trained by the command line with these variables."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with TemporaryDirectory() as folder:
        recipe, out = Path(folder, "recipe.toml"), Path(folder, "run")
        recipe.write_text(RECIPE)
        train = [sys.executable, "-m", "ibviz", "train", str(recipe), "--out", str(out)]
        subprocess.run(train, check=True, env=plain | variables, capture_output=True)
        return read_rows(out / "log.parquet")[-1]["seconds"]


def table(study: Study) -> list[str]:
    """Return median, least and most of each setting, and the median over the fair share of the first setting alone."""
    alone, threads = median(study.seconds(next(iter(WAITING)), 0)), os.cpu_count() or 1
    lines = ["| threads that wait | neighbours | seconds, median [least, most] | n | over the fair share |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for neighbours, waiting in product(NEIGHBOURS, WAITING):
        taken, fair = study.seconds(waiting, neighbours), alone * (threads + neighbours) / threads
        middle, spread = median(taken), f"[{min(taken):.1f}, {max(taken):.1f}]"
        lines.append(f"| {waiting} | {neighbours} | {middle:.1f} {spread} | {len(taken)} | {middle / fair:.2f} |")
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="JSON file of all tries, read where it is there")
    options.add_argument("--repeats", type=int, default=3)
    flags = options.parse_args()
    study = Study()
    if flags.out.exists():
        study = validated(Study, read_json(flags.out), f"{flags.out} holds no such study")
    processor = platform.processor() or platform.machine()
    study.circumstances = {"command": command(), "processor": processor, "cores": str(os.cpu_count()), **versions()}
    for repeat, neighbours, waiting in progress(list(product(range(flags.repeats), NEIGHBOURS, WAITING)), "epochs"):
        if len(study.seconds(waiting, neighbours)) > repeat:
            continue
        with beside(neighbours):
            seconds = epoch(WAITING[waiting])
        study.tries.append(Try(waiting=waiting, neighbours=neighbours, seconds=seconds))
        with replacing(flags.out) as written:
            written.write_text(json.dumps(study.model_dump(), indent=1) + "\n")
    print("\n".join(table(study)))


if __name__ == "__main__":
    main()
