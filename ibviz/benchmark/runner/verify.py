"""Is a result what its suite, networks and images give? A random part of it computed again."""

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.results import CIRCUMSTANCES, read_circumstances
from ibviz.benchmark.runner.loop import judge_batch, ready
from ibviz.benchmark.runner.maps import places, read_batch
from ibviz.benchmark.runner.plan import Plan, check_resumed, identity, networks_of, read_plan
from ibviz.data.sources import Chosen
from ibviz.errors import InputError
from ibviz.files import read_rows
from ibviz.models.loading import Classifier
from ibviz.progress import progress

ROWS = "rows.parquet"
_VERIFIED_SHARE = 0.01  # of the batches, one at least
TOLERANCE = 1e-3  # by which a value may differ: another machine rounds otherwise
KEY = ("image", "model", "method", "native", "protocol", "metric")


class Verdict(NamedTuple):
    """What came of it; `differing` rows have a value that is further off than `TOLERANCE`, or are not there."""

    images: int
    rows: int
    equal: int  # to the last bit
    differing: int
    furthest: float

    def __str__(self) -> str:
        """In words."""
        said = f"{self.rows:,} rows of {self.images} images computed again: {self.equal:,} equal to the last bit, "
        return said + f"{self.differing:,} further off than {TOLERANCE:g}, the furthest by {self.furthest:.2g}"


def verify(
    suite: SuiteConfig, models: Mapping[str, Classifier], chosen: Chosen, result: Path, *, seed: int | None = None
) -> Verdict:
    """Compute the rows of a random 1 % of the batches again, from the images on, and compare.

    `result` is the folder of `ibviz evaluate`, or a file of rows in it. `seed` chooses the batches; None chooses others
    every time. A result of another suite, other networks or images is an `InputError` with both hashes.
    """
    path = result / ROWS if result.is_dir() else result
    folder, plan = path.parent, _plan_of(path)
    networks = networks_of(models)
    check_resumed(folder, plan, identity(suite, networks, chosen))
    if path.name == ROWS and (folder / CIRCUMSTANCES).is_file():
        read_circumstances(folder)  # which refuses files that have changed
    bounds, chance = plan.bounds, random.Random(seed)
    drawn = sorted(chance.sample(range(len(bounds)), math.ceil(_VERIFIED_SHARE * len(bounds))))
    names = [row["name"] for row in read_rows(folder / "images.parquet", columns=["name"])]
    numbers = {place: number for number, place in enumerate(places(names, chosen.names))}
    verdict = Verdict(0, 0, 0, 0, 0.0)
    with ready(networks, plan):
        for number in progress(drawn, "computing again", total=len(drawn)):
            start, stop = bounds[number]
            read = read_batch(chosen, start, stop)
            rows = judge_batch(networks, plan, read, None).tables["rows"]
            ours = [numbers.get(start + place, -1) for place in places(read.images.names, chosen.names[start:stop])]
            theirs = [numbers[place] for place in range(start, stop) if place in numbers]
            there = read_rows(path, columns=[*KEY, "value"], filters=[("image", "in", theirs)])
            verdict = _compared(verdict, [row | {"image": ours[row["image"]]} for row in rows], there, len(ours))
    return verdict


def _plan_of(rows: Path) -> Plan:
    """How they were made."""
    if not rows.is_file():
        raise InputError(f"there is no {rows}; expected the folder of a finished `ibviz evaluate`, or its rows.parquet")
    plan = read_plan(rows.parent)
    if plan is None:
        raise InputError(
            f"{rows.parent} has no plan.json, which says how its numbers were made; expected a folder of "
            "`ibviz evaluate`"
        )
    return plan


def _compared(before: Verdict, ours: list[dict[str, Any]], theirs: list[dict[str, Any]], images: int) -> Verdict:
    found = {tuple(row[key] for key in KEY): row["value"] for row in ours}
    given = {tuple(row[key] for key in KEY): row["value"] for row in theirs}
    away = [_distance(found.get(key), given.get(key)) for key in found.keys() | given.keys()]
    return Verdict(
        before.images + images,
        before.rows + len(away),
        before.equal + sum(one == 0 for one in away),
        before.differing + sum(one > TOLERANCE for one in away),
        max([before.furthest, *away]),
    )


def _distance(one: float | None, other: float | None) -> float:
    """Infinite where only one of them is there, or only one is a number."""
    if one is None or other is None:
        return math.inf
    if math.isnan(one) or math.isnan(other):
        return 0.0 if math.isnan(one) and math.isnan(other) else math.inf
    return abs(one - other)
