"""Damaged files for every parser, as many as there is time for, and what came of them, by parser.

    python -m evaluation.campaign --inputs 1000000 --hours 8 --out campaign.json

The strategies are those of `tests/hostile`. Every parser in turn is given some files; then the counts are written,
and the same command goes on where it was stopped. What is no `InputError` is kept with the bytes that caused it.
"""

import argparse
import json
import os
import platform
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from ibviz.benchmark.setup import versions
from ibviz.errors import InputError
from ibviz.files import command, replacing
from ibviz.reading import read_json, validated

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hostile.mutate import damaged, text, twisted  # pyright: ignore[reportMissingImports]
from hostile.sound import BYTES, JSON, Held, Parser  # pyright: ignore[reportMissingImports]

SECONDS, MEMORY = 10, 2 * 2**30
KEPT = 20  # failures of which the bytes are kept


class Counts(BaseModel):
    """What came of the files of one parser."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    memory: int = 0
    outside: int = 0


class Failure(BaseModel):
    """A file that was neither read nor refused in words."""

    parser: str
    what: str
    content: str  # hexadecimal


class Campaign(BaseModel):
    """All files so far."""

    seconds: float = 0
    circumstances: dict[str, str] = {}  # of the last call
    parsers: dict[str, Counts] = {}
    failures: list[Failure] = []

    @property
    def inputs(self) -> int:
        return sum(one.inputs for one in self.parsers.values())


class HangError(BaseException):
    """No parser may catch it."""


def stop(*_: object) -> None:
    raise HangError


def peak() -> int:
    """Return the most memory since `forget_peak`, in bytes; where the system cannot forget, since the start."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def tried(parser: Parser | Held, content: bytes) -> tuple[str, str]:
    """Read one file in a folder of its own; return the counter it belongs to, and what happened in words."""
    with TemporaryDirectory() as base, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(base, "a", "b", "c")
        path = folder / parser.file
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        forget_peak()
        before, begun = peak(), time.process_time()
        what, said = outcome(parser.read, path)
        outside = [one for level in ("", "a", "a/b") for one in os.listdir(Path(base, level)) if one not in "abc"]
        if outside:
            return "outside", f"wrote {', '.join(outside)} outside of its folder"
        if time.process_time() - begun > SECONDS:
            return "hangs", f"took {time.process_time() - begun:.0f} s"
        if peak() - before > MEMORY:
            return "memory", f"took {(peak() - before) / 2**30:.1f} GiB"
        return what, said


def outcome(read: Callable[[Path], Any], path: Path) -> tuple[str, str]:
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
    try:
        read(path)
    except InputError:
        return "refused", ""
    except HangError:
        return "hangs", f"took more than {2 * SECONDS} s"
    except Exception:
        return "tracebacks", traceback.format_exc(limit=-3)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read", ""


def count(campaign: Campaign, label: str, content: bytes, what: str, said: str) -> None:
    counts = campaign.parsers.setdefault(label, Counts())
    counts.inputs += 1
    setattr(counts, what, getattr(counts, what) + 1)
    if said and len(campaign.failures) < KEPT:
        campaign.failures.append(Failure(parser=label, what=said, content=content.hex()))


def play(campaign: Campaign) -> Iterator[None]:
    """Give every parser in turn as many files as it has examples in the tests, others each time."""
    for table in (BYTES, JSON):
        for name, parser in table.items():
            sound = parser.sound()
            files = damaged(sound) if isinstance(parser, Parser) else twisted(sound).map(text)
            label = name if isinstance(parser, Parser) else f"{name}, JSON"
            give_files(campaign, label, parser, files)
            yield


def give_files(campaign: Campaign, label: str, parser: Parser | Held, files: st.SearchStrategy[bytes]) -> None:
    @seed(campaign.parsers.get(label, Counts()).inputs)
    @settings(
        max_examples=parser.examples,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(files)
    def give(content: bytes) -> None:
        count(campaign, label, content, *tried(parser, content))

    give()


def save(campaign: Campaign, path: Path) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(campaign.model_dump(), indent=1) + "\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, required=True, help="files in all, at least")
    options.add_argument("--hours", type=float, required=True, help="time for this call")
    options.add_argument("--out", type=Path, required=True, help="JSON file of the counts, read where it is there")
    given_ = options.parse_args()
    campaign = Campaign()
    if given_.out.exists():
        campaign = validated(Campaign, read_json(given_.out), f"{given_.out} holds no campaign")
    campaign.circumstances = {"command": command(), "python": platform.python_version(), **versions()}
    begun = time.monotonic()
    save(campaign, given_.out)
    while campaign.inputs < given_.inputs:
        since = time.monotonic()
        for _ in play(campaign):
            campaign.seconds += time.monotonic() - since
            since = time.monotonic()
            save(campaign, given_.out)
            if since - begun > 3600 * given_.hours:
                return
        print(f"{campaign.inputs:,} files, {len(campaign.failures)} failures", flush=True)


if __name__ == "__main__":
    main()
