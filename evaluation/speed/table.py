"""The table of all rows, in Markdown: a section for each group of cases."""

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import Any

from evaluation.speed.growth.catalogue import GROWTH
from evaluation.speed.powers import Exponent, beyond_first, exponent
from evaluation.speed.records import Row
from evaluation.speed.timing import spread

NONE, PASS = "-", "one forward pass"


def table(rows: Sequence[Row], facts: dict[str, Any], order: Sequence[str]) -> str:
    """Return the page: circumstances, then the groups in the order of the cases."""
    places = {name: place for place, name in enumerate(order)}
    ordered = sorted(rows, key=lambda row: places.get(row.case, len(places)))
    parts = [_heading(facts)]
    for group, members in groupby(ordered, key=lambda row: row.case.partition("/")[0]):
        parts.append(f"## {group}\n\n{SECTIONS.get(group, _races)(list(members))}")
    return "\n\n".join(parts) + "\n"


def _heading(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    left = ", ".join(facts["not installed"]) or "none"
    return (
        "# Races\n\n"
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, device {facts['device']}; "
        f"Python {facts['python']}, {versions}. Rivals that are not installed: {left}.\n\n"
        "Ratios are times over ours per unit of work, taken within a round: above 1, ours is faster; for a limit, "
        "1 would be the limit itself. Medians, with the least and the most in brackets."
    )


def piped(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    >>> print(piped(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in cells)


def _races(rows: list[Row]) -> str:
    header = ["case", "network", "unit", "seconds per unit, ours", "n", "limit", "rivals", "notes"]
    return piped(header, [_race(list(members)) for _, members in groupby(rows, key=lambda row: row.case)])


def _race(rows: list[Row]) -> list[str]:
    ours = next((row for row in rows if row.role == "ours"), None)
    name = rows[0].case.partition("/")[2]
    unit = [second / ours.work for second in ours.seconds] if ours else []
    notes = [f"{row.contestant}: {row.note}".removeprefix(": ") for row in rows if row.note]
    return [
        name,
        rows[0].network or NONE,
        ours.unit if ours else NONE,
        spread(unit, ".3g"),
        str(len(unit)),
        compared(rows, "limit"),
        compared(rows, "rival"),
        "; ".join(notes) or NONE,
    ]


def compared(rows: Sequence[Row], role: str) -> str:
    """Return the ratios of all contestants of a role; one forward pass is the unit in which ours is told."""
    told = [
        f"ours takes {1 / median(row.ratio):.2f} times {row.contestant}"
        if row.contestant == PASS
        else f"{row.contestant} {spread(row.ratio)}"
        for row in rows
        if row.role == role and row.ratio
    ]
    return "; ".join(told) or NONE


def _samplers(rows: list[Row]) -> str:
    header = ["case", "contestant", "passes", "seconds", "error", "time over ours", "notes"]
    lines = [
        [
            row.case.partition("/")[2],
            row.contestant,
            f"{row.size:g}" if row.size else NONE,
            spread(row.seconds, ".3g"),
            f"{row.error:.3f}" if row.error is not None else NONE,
            f"{spread(row.ratio)}{' at equal error' if row.unit == 'equal error' else ''}",
            row.note or NONE,
        ]
        for row in rows
    ]
    return piped(header, lines)


def _growth(rows: list[Row]) -> str:
    fitted, single = [], []
    for _, group in groupby(rows, key=lambda row: row.case):
        members = list(group)
        name = members[0].case.partition("/")[2]
        if name in GROWTH and not members[0].failed:
            fitted.append(_grown(name, members))
        else:
            single += [_single(name, row) for row in members]
    header = ["what grows", "sizes", "seconds", "exponent of time", "expected", "MiB", "exponent of memory", "expected"]
    intervals = (
        "Exponents are least-squares fits of logarithms with 95 % intervals. Where sizes ran in several rounds, "
        "the least seconds and the most memory of each count."
    )
    rest = piped(["what", "contestant", "seconds", "MiB", "time over ours", "notes"], single) if single else ""
    return "\n\n".join(part for part in (intervals, piped(header, fitted) if fitted else "", rest) if part)


def _grown(name: str, rows: list[Row]) -> list[str]:
    growth = GROWTH[name]
    time, memory = exponents(name, rows)
    return [
        name,
        ", ".join(f"{row.size:g}" for row in rows),
        ", ".join(f"{row.least:.2f}" for row in rows),
        str(time or NONE),
        f"{growth.time:g}",
        ", ".join(f"{row.memory:.0f}" for row in rows),
        str(memory or NONE),
        NONE if growth.memory is None else f"{growth.memory:g}",
    ]


def exponents(name: str, rows: Sequence[Row]) -> tuple[Exponent | None, Exponent | None]:
    """Return the exponents of time and memory; None where fewer than three points are left."""
    sizes = [row.size or 0.0 for row in rows]
    times = [row.least for row in rows]
    known = beyond_first(sizes, times) if GROWTH[name].beyond_first else (sizes, times)
    return _exponent(*known), _exponent(sizes, [row.memory or 0.0 for row in rows])


def _exponent(sizes: Sequence[float], costs: Sequence[float]) -> Exponent | None:
    return exponent(sizes, costs) if len(sizes) > 2 and min(costs) > 0 else None


def _waits(rows: list[Row]) -> str:
    return piped(["case", "network", "waits"], [[row.case, row.network or NONE, row.note] for row in rows])


def _single(name: str, row: Row) -> list[str]:
    label = f"{name}, {row.size:g}" if row.size else name
    memory = f"{row.memory:.0f}" if row.memory else NONE
    return [label, row.contestant or NONE, spread(row.seconds), memory, spread(row.ratio), row.note or NONE]


SECTIONS = {"samplers": _samplers, "growth": _growth, "waits": _waits}
