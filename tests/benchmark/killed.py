"""Started by `test_processes.py`: imports once, then forks runs and kills them, so that ten deaths cost seconds."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import captum.attr  # noqa: F401 - what runs import late is imported once
import pandas as pd  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch
import torch.fx.experimental.symbolic_shapes
from benchmark.small import choose, run_small, suite

from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.runner import maps
from ibviz.benchmark.runner.processes import join_processes
from ibviz.errors import InputError

COUNT = 48
BATCH, METHODS = 4, 7  # images of a batch, methods and controls
DEATHS = 10
DEADLINE = 60.0  # seconds a job may live after the death of one of its processes


def asked() -> SuiteConfig:
    return suite("input_x_gradient", native=False)


def forked(work: Callable[[], object]) -> int:
    """Process that does the work and ends, with 2 for an error of the user's kind and 1 for any other."""
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    except InputError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(2)
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
        os._exit(1)


def ended(process: int, deadline: float = 120.0) -> int:
    """How a process ended; the exit code, or the negative number of a signal."""
    begun = time.monotonic()
    while time.monotonic() - begun < deadline:
        gone, status = os.waitpid(process, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    raise TimeoutError(f"process {process} lives on after {deadline} s")


def alone(out: Path) -> int:
    """How an undisturbed run ended."""
    return ended(forked(lambda: run_small(out, asked=asked(), chosen=choose(COUNT))))


def deaths(out: Path, log: Path) -> list[tuple[int, bool]]:
    """SIGKILL at seeded random moments, each time of a run that goes on where the last one stopped.

    A moment is some milliseconds after a random number of files, at most a batch of them, so that a busy machine
    sees the same. Returns how many batches were finished at each death, and whether there was a plan.
    """
    chance, done = random.Random(0), []
    for _ in range(DEATHS):
        before, wanted = written(out), chance.randint(1, METHODS)
        process = forked(lambda: logged(out, log))
        while len(written(out) - before) < wanted:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        done.append((len(list((out / "parts").glob("0*"))), (out / "plan.json").exists()))
    assert ended(forked(lambda: logged(out, log))) == 0
    return done


def written(out: Path) -> set[tuple[Path, int]]:
    """Maps and parts in a folder, with the times of their files."""
    there = [*(out / "maps").glob("*/*/0*"), *(out / "parts").glob("0*")]
    return {(path, path.stat().st_mtime_ns) for path in there if path.exists()}


def logged(out: Path, log: Path) -> None:
    """The run, with a line for each map that is computed."""

    plain = maps.write_shard

    def noted(folder, shard, *, start, of):
        with log.open("a") as lines:
            lines.write(f"{start} {of['method']}\n")
        return plain(folder, shard, start=start, of=of)

    maps.write_shard = noted
    run_small(out, asked=asked(), chosen=choose(COUNT), resume=True)


def several(out: Path, count: int, port: int, *, doomed: int | None = None) -> list[int]:
    """Exit codes of processes of one job; the `doomed` one kills itself after its first batch."""
    return [
        ended(one, DEADLINE) for one in [forked(lambda r=r: member(out, r, count, port, doomed)) for r in range(count)]
    ]


def member(out: Path, rank: int, count: int, port: int, doomed: int | None) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(count)}
    if rank == doomed:
        from ibviz.benchmark.runner import loop

        plain = loop.write_part

        def last(*args):
            plain(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        loop.write_part = last
    with join_processes() as processes:
        assert run_small(out, asked=asked(), chosen=choose(COUNT), resume=True, processes=processes)


def main(root: Path) -> None:
    torch.set_num_threads(1)
    report: dict[str, object] = {"one": alone(root / "one")}
    report["done"], report["planned"] = zip(*deaths(root / "killed", root / "computed.txt"), strict=True)
    port = 20000 + os.getpid() % 20000
    report["two"] = several(root / "two", 2, port)
    report["four"] = several(root / "four", 4, port + 1)
    begun = time.monotonic()
    report["doomed"] = several(root / "doomed", 2, port + 2, doomed=1)
    report["doomed seconds"] = time.monotonic() - begun
    report["parts"] = len(list((root / "doomed/parts").glob("0*")))
    report["resumed"] = several(root / "doomed", 2, port + 3)
    (root / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
