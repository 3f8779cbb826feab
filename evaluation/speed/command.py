"""Cases one after the other, kept in one JSON file, with a table and a figure."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.speed.records import Case, Row, Settings
from evaluation.speed.timing import words_of
from ibviz.errors import InputError, unknown
from ibviz.files import replacing
from ibviz.progress import progress, tell

FILE = "race.json"


def select(cases: Mapping[str, Case], names: Sequence[str]) -> list[Case]:
    """Return the cases that are named, or whose group is; without names all but those that take too long.

    Raises:
        InputError: A name is neither a case nor a group.
    """
    if not names:
        return [case for case in cases.values() if not case.by_name_only]
    groups = {"/".join(name.split("/")[:depth]) for name in cases for depth in range(1, name.count("/") + 2)}
    for name in names:
        if name not in groups:
            raise unknown("case", name, sorted({group for group in groups if group.count("/") < 2}))
    return [case for case in cases.values() if any(f"{case.name}/".startswith(f"{name}/") for name in names)]


def run_cases(
    cases: Sequence[Case],
    out: Path,
    settings: Settings,
    kept: dict[str, Any],
    *,
    budget: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run the cases that have no rows yet, and keep each when it is done.

    Args:
        cases: The cases, in order.
        out: The folder of the file.
        settings: What every case is told.
        kept: The content of the file, from `begin`.
        budget: Minutes after which no further case is begun.
        clock: Seconds.
    """
    done = {row["case"] for row in kept["rows"] if row["contestant"]}
    waiting = [case for case in cases if case.name not in done]
    begun, left_out = clock(), []
    for case in progress(waiting, "cases"):
        if budget is not None and clock() - begun >= 60 * budget:
            left_out.append(case.name)
            continue
        case_begun = clock()
        rows = _rows(case, settings)
        others = [row for row in kept["rows"] if row["case"] != case.name]
        kept["rows"] = others + [row.as_json() for row in rows]
        kept["seconds"] = kept["seconds"] | {case.name: round(clock() - case_begun, 1)}
        kept["left out"] = []
        _write(out, kept)
    kept["left out"] = left_out
    _write(out, kept)
    if left_out:
        tell(f"{budget:g} minutes are spent; left out: {', '.join(left_out)}; the same command goes on with them")


def _rows(case: Case, settings: Settings) -> list[Row]:
    """Run a case; one that fails becomes a row without a contestant, and is run again next time."""
    try:
        return case.run(case, settings)
    except Exception as error:
        tell(f"{case.name} failed: {words_of(error)}")
        return [Row(case.name, "", "ours", note=words_of(error))]


def read(out: Path) -> dict[str, Any] | None:
    """Return the file of a folder; None if there is none."""
    path = out / FILE
    return json.loads(path.read_text()) if path.exists() else None


def begin(out: Path, facts: dict[str, Any], command: str) -> dict[str, Any]:
    """Return the content of the file to go on with, or that of an empty one.

    Raises:
        InputError: Its rows were measured under other circumstances.
    """
    kept = read(out) or {"circumstances": facts, "commands": [], "rows": [], "seconds": {}, "left out": []}
    differ = sorted(key for key in facts if kept["circumstances"].get(key) != facts[key])
    if differ:
        raise InputError(
            f"the rows in {out / FILE} were measured elsewhere ({', '.join(differ)} differ); give --out another folder"
        )
    kept["commands"] += [] if command in kept["commands"] else [command]
    return kept


def _write(out: Path, kept: dict[str, Any]) -> None:
    with replacing(out / FILE) as beside:
        beside.write_text(json.dumps(kept, indent=1) + "\n")


def rows_of(kept: dict[str, Any]) -> list[Row]:
    return [Row(**row) for row in kept["rows"]]
