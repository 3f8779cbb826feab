"""Verification of a result: a random part of it is computed again and compared."""

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.results import CIRCUMSTANCES, read_circumstances
from ibviz.benchmark.runner.loop import judge_batch, prepared
from ibviz.benchmark.runner.maps import positions, read_batch
from ibviz.benchmark.runner.plan import Plan, check_resumed, networks_of, read_plan, run_hashes
from ibviz.data.sources import Chosen
from ibviz.errors import InputError
from ibviz.files import read_rows
from ibviz.models.loading import Classifier
from ibviz.progress import progress

ROWS = "rows.parquet"
_VERIFIED_SHARE = 0.01  # of the batches, at least one
TOLERANCE = 1e-3  # largest difference of a value, since other machines round differently
KEY = ("image", "model", "method", "native", "protocol", "metric")


class Verdict(NamedTuple):
    """The outcome of a verification; `differing` rows differ by more than `TOLERANCE` or are missing on one side."""

    images: int
    rows: int
    equal: int  # to the last bit
    differing: int
    furthest: float

    def __str__(self) -> str:
        """Return the outcome in words."""
        said = f"{self.rows:,} rows of {self.images} images computed again: {self.equal:,} equal to the last bit, "
        return said + f"{self.differing:,} further off than {TOLERANCE:g}, the furthest by {self.furthest:.2g}"


def verify(
    suite: SuiteConfig, models: Mapping[str, Classifier], chosen: Chosen, result: Path, *, seed: int | None = None
) -> Verdict:
    """Compute the rows of a random 1 % of the batches again, starting from the images, and compare.

    Args:
        suite: The suite of the result.
        models: The networks by label.
        chosen: The images of the suite.
        result: The folder of `ibviz evaluate`, or a file of rows in it.
        seed: The seed that chooses the batches; None chooses others each time.

    Raises:
        InputError: The result is of another suite, other networks or other images; both hashes are given.
    """
    path = result / ROWS if result.is_dir() else result
    folder, plan = path.parent, _plan_of(path)
    networks = networks_of(models)
    check_resumed(folder, plan, run_hashes(suite, networks, chosen))
    if path.name == ROWS and (folder / CIRCUMSTANCES).is_file():
        read_circumstances(folder)  # refuses files that have changed
    bounds, chance = plan.bounds, random.Random(seed)
    drawn = sorted(chance.sample(range(len(bounds)), math.ceil(_VERIFIED_SHARE * len(bounds))))
    names = [row["name"] for row in read_rows(folder / "images.parquet", columns=["name"])]
    numbers = {place: number for number, place in enumerate(positions(names, chosen.names))}
    verdict = Verdict(0, 0, 0, 0, 0.0)
    with prepared(networks, plan) as networks:
        for number in progress(drawn, "computing again", total=len(drawn)):
            start, stop = bounds[number]
            read = read_batch(chosen, start, stop)
            rows = judge_batch(networks, plan, read, None).tables["rows"]
            ours = [numbers.get(start + place, -1) for place in positions(read.images.names, chosen.names[start:stop])]
            theirs = [numbers[place] for place in range(start, stop) if place in numbers]
            there = read_rows(path, columns=[*KEY, "value"], filters=[("image", "in", theirs)])
            verdict = _compared(verdict, [row | {"image": ours[row["image"]]} for row in rows], there, len(ours))
    return verdict


def _plan_of(rows: Path) -> Plan:
    """Return the plan beside a file of rows."""
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
    recomputed = {tuple(row[key] for key in KEY): row["value"] for row in ours}
    stored = {tuple(row[key] for key in KEY): row["value"] for row in theirs}
    distances = [_distance(recomputed.get(key), stored.get(key)) for key in recomputed.keys() | stored.keys()]
    return Verdict(
        before.images + images,
        before.rows + len(distances),
        before.equal + sum(distance == 0 for distance in distances),
        before.differing + sum(distance > TOLERANCE for distance in distances),
        max([before.furthest, *distances]),
    )


def _distance(first: float | None, second: float | None) -> float:
    """Return the absolute difference; infinite if only one value is present or only one is NaN."""
    if first is None or second is None:
        return math.inf
    if math.isnan(first) or math.isnan(second):
        return 0.0 if math.isnan(first) and math.isnan(second) else math.inf
    return abs(first - second)
