"""Seconds of contestants that run in turn in one process, and the rows that follow from them."""

import resource
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from evaluation.speed.records import Case, Contestant, Row, Run, Settings

MOST_ROUNDS = 50
LONG = 6.0  # seconds; two rounds are enough if one takes longer


def seconds(run: Run, device: torch.device) -> float:
    """Time one call; on a GPU from an idle device to an idle device."""
    wait(device)
    begun = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - begun


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(runs: Mapping[str, Run], settings: Settings, watched: str) -> dict[str, list[float]]:
    """Return the seconds of each run, taken in turns, so that a busy minute hits all alike.

    There are at least `least_rounds`, and more until the watched run has taken `seconds` in all.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    while runs and not _enough(times, settings, watched):
        for name, run in runs.items():
            times[name].append(seconds(run, settings.device))
    return times


def _enough(times: Mapping[str, list[float]], settings: Settings, watched: str) -> bool:
    rounds = len(times[watched])
    least = settings.least_rounds
    if rounds and sum(taken[0] for taken in times.values()) > LONG:
        least = min(2, least)
    return rounds >= least and (sum(times[watched]) >= settings.seconds or rounds >= MOST_ROUNDS)


def raced(
    case: Case, network: str, contestants: Sequence[Contestant], settings: Settings, *, unit: str = "call"
) -> list[Row]:
    """Run every contestant once to warm up, then all in turn; return a row for each.

    A contestant that cannot run becomes a row with its words. A ratio is taken within a round.
    """
    ready, failures = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers announce their hooks
        for contestant in contestants:
            try:
                contestant.run()
                ready.append(contestant)
            except Exception as error:
                failures.append(
                    Row(case.name, contestant.name, contestant.role, network, unit=unit, note=words_of(error))
                )
        ours = next((contestant for contestant in ready if contestant.role == "ours"), None)
        watched = (ours or ready[0]).name if ready else ""
        times = interleaved({contestant.name: contestant.run for contestant in ready}, settings, watched)
    rows = []
    for name, role, _, work, note in ready:
        ratio = [] if ours is None or name == ours.name else ratios(times[ours.name], times[name], ours.work / work)
        rows.append(Row(case.name, name, role, network, times[name], work, unit, ratio, note=note))
    return rows + failures


def ratios(ours: Sequence[float], theirs: Sequence[float], work: float = 1.0) -> list[float]:
    """Return their time over ours per unit of work, round by round; `work` is our units over theirs.

    >>> ratios([1.0, 2.0], [3.0, 3.0], work=2.0)
    [6.0, 3.0]
    """
    return [there / here * work for here, there in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float], kind: str = ".2f") -> str:
    """Return the median with the least and the most.

    >>> spread([3.0, 1.0, 2.0])
    '2.00 [1.00, 3.00]'
    """
    if not values:
        return "-"
    middle, least, most = (f"{value:{kind}}" for value in (median(values), min(values), max(values)))
    return f"{middle} [{least}, {most}]"


def words_of(error: BaseException) -> str:
    """Return the kind and the first line of an error, for a table."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:200]}"


def peak_memory() -> float:
    """Return the peak memory of this process in MiB.

    On Linux it is read from the kernel's own record of the process: `ru_maxrss` of a child begins at the size of the
    process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
