"""The parts of a result, one per batch, and how they are assembled into one file per table."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from ibviz.benchmark.store import FOLDER, check_shard, shards
from ibviz.digests import check_files, digest_files, read_sealed, seal
from ibviz.errors import InputError
from ibviz.files import half_written, replacing, replacing_folder
from ibviz.progress import tell
from ibviz.reading import parsing, validated

if TYPE_CHECKING:
    import pyarrow as pa

PARTS_FOLDER = "parts"
FACTS_FILE = "facts.json"
GROUP = 2**15  # smallest number of rows in a row group of the final files, which bounds memory
HASHES = "hash"  # the column that is filled in once all parts are complete
TABLES = {  # columns of each table of a result
    "rows": (
        *("model", "image", "method", "control", "native", "grid", "protocol", HASHES, "metric", "value", "tie_sd"),
        *("target", "label", "correct", "f_image", "f_baseline", "area_error", "random_order"),
        *("levels", "tie_fraction", "zero_share", "object_share", "cluster"),
    ),
    "images": ("image", "name", "label", "box", "object_share", "picture"),
    "predictions": ("model", "image", "predicted", "probability", "runner_up", "runner_up_probability"),
    "curves": ("model", "method", "control", "protocol", "image", "side", "fractions", "scores"),
}

_Rows = Sequence[Mapping[str, Any]]


def schemas() -> "dict[str, pa.Schema]":
    """Return the schemas of the tables; in a part, the column `hash` of `rows` is empty."""
    import pyarrow as pa

    types = {
        pa.string(): ("model", "method", "grid", "protocol", HASHES, "metric", "cluster", "name", "side"),
        pa.int64(): ("image", "target", "label", "levels", "predicted", "runner_up"),
        pa.bool_(): ("control", "native", "correct"),
        pa.binary(): ("picture",),
        pa.list_(pa.float64()): ("box",),
        pa.list_(pa.float32()): ("fractions", "scores"),
    }
    kinds = {column: kind for kind, columns in types.items() for column in columns}
    return {
        table: pa.schema([(column, kinds.get(column, pa.float64())) for column in columns])
        for table, columns in TABLES.items()
    }


def part_folder(out: Path, batch: int) -> Path:
    """Return the folder of a batch's part.

    >>> part_folder(Path("out"), 7).as_posix()
    'out/parts/000007'
    """
    return out / PARTS_FOLDER / f"{batch:06d}"


def write_part(out: Path, batch: int, tables: Mapping[str, _Rows], facts: Mapping[str, Any]) -> None:
    """Write the tables and facts of a batch as a whole or not at all: into a temporary folder that is renamed.

    Args:
        out: The folder of the run.
        batch: The number of the batch.
        tables: Rows by the name of the table.
        facts: The fields of `PartFacts` except `files`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = part_folder(out, batch)
    try:
        with replacing_folder(part) as beside:
            for name, schema in schemas().items():
                rows = [dict(row) for row in tables[name]]
                pq.write_table(pa.Table.from_pylist(rows, schema), beside / f"{name}.parquet")
            digests = digest_files(beside, [f"{name}.parquet" for name in schemas()])
            (beside / FACTS_FILE).write_text(json.dumps(seal({**facts, "files": digests})))
    except OSError as error:
        raise InputError(
            f"cannot write {part}: {error.strerror or error}; what is finished is kept: make room and resume the run"
        ) from error


class PartFailure(BaseModel):
    """A method that failed on some images of a batch, given by their positions."""

    model: str
    method: str
    images: list[int]
    error: str


class PartErrors(BaseModel):
    """Relative standard errors of the maps of a method that draws at random; None: unknown."""

    model: str
    method: str
    errors: list[float | None]


class PartFacts(BaseModel):
    """The facts of a part beside its tables."""

    images: int = Field(ge=0)
    forward_passes: int
    failures: list[PartFailure]
    errors: list[PartErrors] = []
    data: dict[str, str]  # hash of images and targets, by network
    skipped: list[str]
    device: str
    seconds: float
    files: dict[str, str] = {}  # digests of the tables; empty for older parts


def read_facts(out: Path, batch: int) -> dict[str, Any]:
    """Read the facts of a part; refuse a part that is damaged."""
    path = part_folder(out, batch) / FACTS_FILE
    anew = f"delete {path.parent} and resume the run"
    facts = validated(PartFacts, read_sealed(path, anew), f"{path} is damaged", anew)
    check_files(path.parent, facts.files, anew)
    return facts.model_dump()


def drop_damaged(out: Path, starts: Sequence[int], kept: Sequence[tuple[str, str]]) -> None:
    """Remove parts whose files, or whose maps, have changed since they were written; they are computed again.

    Args:
        out: The folder of the run.
        starts: The index of the first image of each batch.
        kept: The labels of networks and methods whose maps are stored.
    """
    for batch, start in enumerate(starts):
        if not part_folder(out, batch).is_dir():
            continue
        try:
            if read_facts(out, batch)["images"]:
                for model, method in kept:
                    check_shard(out, model, method, start)
        except InputError as error:
            tell(f"{error}; done now")
            shutil.rmtree(part_folder(out, batch))


def missing_parts(out: Path, batches: int) -> list[int]:
    """Return the batches without a part."""
    return [batch for batch in range(batches) if not part_folder(out, batch).is_dir()]


def assemble(out: Path, counts: Sequence[int], hashes: Callable[["pa.Table"], list[str]]) -> None:
    """Assemble the parts in order, a few at a time; images are numbered consecutively.

    Args:
        out: The folder of the run.
        counts: The number of images of each part.
        hashes: A function that returns the hash of each row of a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, schema in schemas().items():
        path = out / f"{name}.parquet"
        with replacing(path) as beside, pq.ParquetWriter(beside, schema) as writer:
            for group in _groups(_tables(out, name, counts)):
                whole = group if name != "rows" else _with_hashes(group, hashes(group))
                writer.write_table(whole, row_group_size=len(whole) or None)
    pa.default_memory_pool().release_unused()  # pyarrow would keep what it no longer needs


def _tables(out: Path, name: str, counts: Sequence[int]) -> "Iterator[pa.Table]":
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    before = 0
    for batch, count in enumerate(counts):
        path = part_folder(out, batch) / f"{name}.parquet"
        anew = f"delete {path.parent} and resume the run"
        with parsing(f"cannot read {path} as Parquet", anew):
            table = pq.read_table(path)
        if table.schema != schemas()[name]:
            raise InputError(f"{path} is damaged: its columns are {', '.join(table.schema.names)}; {anew}")
        place = table.column_names.index("image")
        numbers = pc.add(table["image"], pa.scalar(before, pa.int64()))  # pyright: ignore[reportAttributeAccessIssue]
        yield table.set_column(place, "image", numbers)
        before += count


def _groups(tables: "Iterator[pa.Table]") -> "Iterator[pa.Table]":
    import pyarrow as pa

    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= GROUP:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _with_hashes(rows: "pa.Table", hashes: list[str]) -> "pa.Table":
    import pyarrow as pa

    return rows.set_column(rows.column_names.index(HASHES), HASHES, pa.array(hashes, pa.string()))


def remove_leftovers(out: Path, *, all_maps: bool = False) -> None:
    """Remove files that killed processes left half-written, in a folder that no other process writes to.

    `all_maps` also removes complete maps, for a run that was killed before it had a plan.
    """
    for folder in (out, out / PARTS_FOLDER, *(out / FOLDER).glob("*/*")):
        for left in list(half_written(folder)):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
    for shard in chain(*shards(out).values()) if all_maps else ():
        shard.unlink()
