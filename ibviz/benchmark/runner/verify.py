"""Is a result what its suite, networks and images give? A random part of it computed again."""

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ibviz.benchmark.runner.loop import judge_batch, ready
from ibviz.benchmark.runner.plan import check_resumed, data_hash, identity, networks_of, read_plan
from ibviz.config import SuiteConfig
from ibviz.data.sources import Chosen
from ibviz.errors import InputError
from ibviz.models.loading import Classifier
from ibviz.progress import progress

SHARE = 0.01  # of the batches, one at least
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

    `result` is the folder of `ibviz evaluate`, or its `rows.parquet`. `seed` chooses the batches; None chooses others
    every time. A result of another suite, other networks or images is an `InputError` with both hashes.
    """
    folder = result if result.is_dir() else result.parent
    plan = read_plan(folder)
    if plan is None:
        raise InputError(f"{folder} has no plan.json, which says how its numbers were made; expected a folder of "
                         "`ibviz evaluate`")  # fmt: skip
    networks = networks_of(models)
    check_resumed(folder, plan, identity(suite, {one.label: one.weights for one in networks}, data_hash(chosen)))
    bounds, chance = plan.bounds, random.Random(seed)
    drawn = sorted(chance.sample(range(len(bounds)), math.ceil(SHARE * len(bounds))))
    numbers = {name: number for number, name in enumerate(_names(folder))}
    verdict = Verdict(0, 0, 0, 0, 0.0)
    with ready(networks, plan):
        for batch in progress(drawn, "computing again", total=len(drawn)):
            start, stop = bounds[batch]
            images = chosen.read(start, stop)
            rows = judge_batch(networks, plan, images, start, None).tables["rows"]
            places = [numbers.get(name, -1) for name in images.names]
            there = _rows(folder / "rows.parquet", places)
            verdict = _compared(verdict, [row | {"image": places[row["image"]]} for row in rows], there, len(places))
    return verdict


def _names(folder: Path) -> list[str]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    return pq.read_table(folder / "images.parquet", columns=["name"])["name"].to_pylist()


def _rows(path: Path, images: list[int]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    return pq.read_table(path, columns=[*KEY, "value"], filters=[("image", "in", images)]).to_pylist()


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
