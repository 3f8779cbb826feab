"""Tasks that run in a process of their own, so that its peak of memory is theirs alone.

`python -m evaluation.speed.growth.child TASK '{"argument": ...}'` prints the cost as JSON.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[3]
HOMES = {
    "training_step": "evaluation.speed.cases.training",
    "suite": "evaluation.speed.growth.suites",
    "curves": "evaluation.speed.growth.parts",
    "anchors": "evaluation.speed.growth.parts",
    "report": "evaluation.speed.growth.parts",
}


class Cost(NamedTuple):
    """The cost of a task; imports are not counted in seconds, but in memory."""

    seconds: float  # by the clock
    processor: float  # seconds of all threads, which do not depend on what else the machine does
    memory: float  # MiB at the peak


def in_child(task: str, **given: Any) -> Cost:
    """Run a task in a process of its own.

    Raises:
        RuntimeError: It failed; with its last words.
    """
    command = [sys.executable, "-m", "evaluation.speed.growth.child", task, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1])
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def measured(task: str, given: dict[str, Any]) -> Cost:
    """Run a task here; one that returns a number says its own peak of memory."""
    from evaluation.speed.timing import peak_memory

    run: Callable[..., float | None] = getattr(import_module(HOMES[task]), task)
    begun, processor = time.perf_counter(), time.process_time()
    peak = run(**given)
    spent = time.perf_counter() - begun, time.process_time() - processor
    return Cost(*spent, peak if peak is not None else peak_memory())


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], json.loads(sys.argv[2]))._asdict()))
