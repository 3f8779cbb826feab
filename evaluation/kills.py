"""Kills at random moments in every command of the command line, each of which is then run again to its end.

    python -m evaluation.kills --kills 27 --out evaluation/results/reliability/kills.json

A command is forked from a process that has everything imported, and is sent SIGKILL, SIGTERM or SIGINT at a random
moment of its usual time, up to three times one after the other in the same folder. Then it is run again, with
`--resume` where it has that, and its files are compared with those of a run that nobody disturbed: bytes, without the
seconds that JSON and logs name. Hidden files of half-written work and locks must be gone. The same command goes on
where it was stopped.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel

from evaluation.forking import ended, forked, preload
from evaluation.tiny import RECIPE, SUITE, contents, draw_few, recipe, suite, without_times
from ibviz.benchmark.evaluation import versions
from ibviz.files import command, read_rows, replacing

LIBRARIES = (
    *("captum.attr", "cv2", "pandas", "pyarrow.parquet", "matplotlib.pyplot", "matplotlib.backends.backend_pdf"),
    *(
        "matplotlib.backends.backend_agg",
        "skimage.segmentation",
        "sklearn.datasets",
        "scipy.stats",
        "torchvision.models",
    ),
    *(
        "ibviz.__main__",
        "ibviz.cli",
        "ibviz.training.loop",
        "ibviz.training.sweep",
        "ibviz.workflows.anchors",
        "ibviz.workflows.evaluate",
    ),
    *("ibviz.workflows.explain", "ibviz.workflows.figure", "ibviz.workflows.report", "jinja2"),
)
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
ENDS = {signal.SIGKILL: (-9,), signal.SIGTERM: (-15,), signal.SIGINT: (-2, 130)}
LEFT = (".part", ".lock", ".writable")
LONGEST = 300  # seconds of a run that nobody disturbs


class Command(NamedTuple):
    """A command as it is first typed, and what is added when it is typed again."""

    arguments: tuple[str, ...]
    again: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # folders of other commands that it reads


COMMANDS = {
    "train": Command(("train", "recipe.toml", "--out", "run"), ("--resume",)),
    "evaluate": Command(("evaluate", "suite.toml", "--out", "result", "--device", "cpu"), ("--resume",)),
    "explain": Command(
        ("explain", "photo.png", "--model", "digits", "--methods", "attention,grad_cam", "--out", "explained")
    ),
    "anchors": Command(("anchors", "digits", "--limit", "4", "--out", "anchors")),
    "figure": Command(("figure", "result/curves.json"), needs=("result",)),
    "report": Command(("report", "result"), needs=("result",)),
    "compare-protocols": Command(("compare-protocols", "photo.png", "--limit", "1")),
    "demo": Command(("demo", "--out", "demo"), ("--resume",)),
}


class Counts(BaseModel):
    """What came of the kills of one command."""

    seconds: float = 0  # of a run that nobody disturbed
    kills: dict[str, int] = dict.fromkeys(SIGNALS, 0)
    late: int = 0  # the command had ended
    completed: int = 0  # runs that were typed again
    unequal: int = 0
    left: int = 0
    tracebacks: int = 0
    failures: list[str] = []


class Kills(BaseModel):
    """All kills."""

    circumstances: dict[str, str] = {}
    commands: dict[str, Counts] = {}


def small_demo() -> None:
    """Let `ibviz demo` train and judge the smallest recipe and suite."""
    from ibviz.workflows import evaluate

    evaluate.Recipe = recipe  # pyright: ignore[reportAttributeAccessIssue]
    evaluate.SuiteConfig = lambda models: suite().model_copy(update={"models": models})  # pyright: ignore


def typed(arguments: tuple[str, ...], place: Path) -> Callable[[], None]:
    """Return the command as a process will run it, in a folder."""

    def run() -> None:
        from ibviz.__main__ import main as run_command_line

        os.chdir(place)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may have been told to ignore it
        torch.set_num_threads(1)
        small_demo()
        sys.argv = ["ibviz", *arguments]
        run_command_line()

    return run


def prepare(place: Path, made: Path, needs: tuple[str, ...]) -> None:
    """Put what a command reads into a new folder."""
    place.mkdir()
    (place / "recipe.toml").write_text(RECIPE)
    (place / "suite.toml").write_text(SUITE)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "photo.png")
    for name in needs:
        shutil.copytree(made / name, place / name)


def undisturbed(arguments: tuple[str, ...], place: Path) -> str:
    """Run a command to its end; return what it printed."""
    said = place.with_suffix(".txt")
    said.unlink(missing_ok=True)
    code = ended(forked(typed(arguments, place), said), LONGEST)
    text = said.read_text()
    if code != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}: {text[-2000:]}")
    return text


def result_of(name: str, place: Path, printed: str) -> dict[str, Any]:
    """Return all that a command left, without times."""
    found: dict[str, Any] = contents(place)
    for file in found:
        if is_left(file):
            continue
        if file.endswith(".json"):
            found[file] = without_times(json.loads(found[file]))
        elif file.endswith("log.parquet"):
            found[file] = [row | {"seconds": 0} for row in read_rows(place / file)]
    page = [line for line in printed.splitlines() if not line.startswith("ibviz: ")]  # without lines of progress
    return found | ({"printed": page} if name == "compare-protocols" else {})


def is_left(file: str) -> bool:
    """Return whether a name is one of half-written work or of a lock."""
    return any(mark in Path(file).name for mark in LEFT)


def kill(arguments: tuple[str, ...], place: Path, seconds: float, which: str) -> tuple[int | None, str]:
    """Start a command and send it a signal after some seconds; return how it ended and what it printed."""
    said = place.with_suffix(".txt")
    said.unlink(missing_ok=True)
    process = forked(typed(arguments, place), said)
    time.sleep(seconds)
    os.kill(process, SIGNALS[which])
    code = ended(process, LONGEST)
    return code, said.read_text() if said.exists() else ""


def chain(name: str, place: Path, counts: Counts, chance: random.Random, expected: dict[str, Any]) -> None:
    """Kill a command up to three times in one folder, complete it, and compare."""
    asked, told = COMMANDS[name], []
    arguments = asked.arguments
    for _ in range(chance.randint(1, 3)):
        which, seconds = chance.choice(list(SIGNALS)), chance.uniform(0, 1.1 * counts.seconds)
        code, printed = kill(arguments, place, seconds, which)
        arguments = asked.arguments + asked.again
        told.append(f"{which} after {seconds:.2f} s: {code}")
        if code == 0:
            counts.late += 1
        else:
            counts.kills[which] += 1
        if "Traceback" in printed or code not in (0, *ENDS[SIGNALS[which]]):
            counts.tracebacks += 1
            counts.failures.append(f"{'; '.join(told)}: {printed[-1500:]}")
    try:
        found = result_of(name, place, undisturbed(arguments, place))
    except RuntimeError as error:
        counts.unequal += 1
        counts.failures.append(f"{'; '.join(told)}: {error}")
        return
    counts.completed += 1
    left = [file for file in found if is_left(file)]
    other = [file for file in found.keys() | expected.keys() if found.get(file) != expected.get(file)]
    counts.left += bool(left)
    counts.unequal += bool(set(other) - set(left))
    if left or other:
        counts.failures.append(f"{'; '.join(told)}: left {left}, other {sorted(other)}")


def reference(name: str, root: Path, counts: Counts) -> dict[str, Any]:
    """Run a command once, and once more to see how long it takes; its result."""
    asked = COMMANDS[name]
    for time_ in ("first", "second"):
        place = root / f"{name}-{time_}"
        prepare(place, root / "evaluate-first", asked.needs)
        begun = time.monotonic()
        printed = undisturbed(asked.arguments, place)
        counts.seconds = round(time.monotonic() - begun, 2)
    first, second = (result_of(name, root / f"{name}-{time_}", printed) for time_ in ("first", "second"))
    if other := [file for file in first if first[file] != second.get(file)]:
        raise RuntimeError(f"two undisturbed runs of {name} differ in {other}")
    return second


def save(kills: Kills, path: Path) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(kills.model_dump(), indent=1) + "\n")


def table(kills: Kills) -> str:
    """Return the counts as Markdown."""
    heads = ("command", "seconds", *SIGNALS, "late", "completed", "unequal", "left", "tracebacks")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, counts in kills.commands.items():
        ends = (counts.late, counts.completed, counts.unequal, counts.left, counts.tracebacks)
        lines.append("| " + " | ".join(map(str, (name, counts.seconds, *counts.kills.values(), *ends))) + " |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="JSON file of the counts, read where it is there")
    options.add_argument("--kills", type=int, default=27, help="of each command")
    options.add_argument("--only", default=",".join(COMMANDS), help="commands, separated by commas")
    given = options.parse_args()
    out = given.out.absolute()
    preload(LIBRARIES)
    torch.set_num_threads(1)
    draw_few()
    kills = Kills.model_validate_json(out.read_text()) if out.exists() else Kills()
    kills.circumstances = {"command": command(), "python": platform.python_version(), **versions()}
    with TemporaryDirectory() as name:
        root = Path(name)
        for label in dict.fromkeys(["evaluate", *given.only.split(",")]):  # whose result others read
            counts = kills.commands.setdefault(label, Counts())
            if label != "evaluate" and sum(counts.kills.values()) >= given.kills:
                continue
            expected = reference(label, root, counts)
            while label in given.only.split(",") and (done := sum(counts.kills.values())) < given.kills:
                place = root / f"{label}-{done}"
                shutil.rmtree(place, ignore_errors=True)
                prepare(place, root / "evaluate-first", COMMANDS[label].needs)
                chain(label, place, counts, random.Random(f"{label} {done} {counts.late}"), expected)
                save(kills, out)
    print(table(kills))


if __name__ == "__main__":
    main()
