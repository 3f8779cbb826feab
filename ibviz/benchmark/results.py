"""Results of `ibviz evaluate`, read back from their folder for tables, figures and reports, without a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from ibviz.benchmark.result_files import CurveArrays, read_columns, read_curves, read_frame, reading
from ibviz.benchmark.runner.parts import TABLES, schemas
from ibviz.benchmark.summary import SUMMARISED
from ibviz.benchmark.tables import Tables, tabulate, write_tables
from ibviz.digests import check_files, read_sealed
from ibviz.errors import InputError
from ibviz.reading import AnyPath, validated
from ibviz.statistics import Estimate

if TYPE_CHECKING:
    import pyarrow as pa
    from pandas import DataFrame

CIRCUMSTANCES = "circumstances.json"
RUN_AGAIN = f"delete {CIRCUMSTANCES} there and resume the run, or run the suite again"
# Only images that share something have a cluster, and older results say nothing of adaptive steps.
OPTIONAL = ("cluster", "area_error")
# The columns that a table must have.
COLUMNS = {table: tuple(column for column in columns if column not in OPTIONAL) for table, columns in TABLES.items()}


class ProtocolCard(BaseModel, extra="allow"):
    """The fields of a protocol card that are read."""

    class Protocol(BaseModel, extra="allow"):
        """The fields of a protocol that are read."""

        score: str

    protocol: Protocol
    hash: str


class Decided(BaseModel, extra="allow"):
    """Accuracy and cross-entropy of a network with other maps in the place of its attention."""

    accuracy: Estimate
    cross_entropy: Estimate


class JudgedModel(BaseModel, extra="allow"):
    """The fields of a network that are read."""

    name: str
    weights: str | None = None
    class_names: list[str] = Field(min_length=1)
    size: int | list[int]  # side of a square, or height and width
    reliance: dict[str, Decided] = {}  # the key is the name of the map
    recipe: str | None = None
    protocols: dict[str, ProtocolCard] = Field(min_length=1)


class JudgedMethod(BaseModel, extra="allow"):
    """The fields of a method that are read."""

    control: bool


class FailedMethod(BaseModel, extra="allow"):
    """A method that failed on some images."""

    model: str
    method: str
    images: list[int]
    error: str


class Absent(BaseModel, extra="allow"):
    """A model, method or metric that a table lacks, and the reason."""

    model: str | None = None
    method: str | None = None
    metric: str | None = None
    reason: str


class JudgedSuite(BaseModel, extra="allow"):
    """The fields of a suite that are read."""

    data: dict[str, Any] = {}


class Circumstances(BaseModel, extra="allow"):
    """The fields of `circumstances.json` that are read; the others are shown as they are."""

    suite: JudgedSuite
    models: dict[str, JudgedModel] = Field(min_length=1)
    methods: dict[str, JudgedMethod]
    protocols: dict[str, ProtocolCard]
    images: int
    skipped: list[str]
    failures: list[FailedMethod]
    left_out: list[Absent]
    files: dict[str, str] = {}  # digests; empty for older results


@dataclass(frozen=True)
class Results:
    """The result of a suite, as tables with the columns in `COLUMNS`; a missing label is NaN.

    Each table is read on first use, since tables of many images are large.
    """

    folder: Path
    circumstances: dict[str, Any]

    @cached_property
    def rows(self) -> "DataFrame":
        """One row per image, model, method, metric and protocol."""
        return read_frame(self._path("rows"))

    @cached_property
    def images(self) -> "DataFrame":
        """One row per image; `picture` holds the bytes of a PNG, for the first images only."""
        return read_frame(self._path("images"))

    @cached_property
    def predictions(self) -> "DataFrame":
        """One row per model and image."""
        return read_frame(self._path("predictions"))

    @cached_property
    def curves(self) -> "DataFrame":
        """One row per model, method, protocol, image and side; `fractions` and `scores` hold arrays."""
        return read_frame(self._path("curves"))

    def rows_of(self, images: Sequence[int]) -> "DataFrame":
        """Return the rows of some images; no others are kept in memory."""
        return read_frame(self._path("rows"), [("image", "in", images)])

    def curves_of(self, model: str, protocol: str) -> dict[str, dict[str, CurveArrays]]:
        """Return fractions and scores of a network under a protocol by side and method, as `read_curves` does."""
        return read_curves(self._path("curves"), model, protocol)

    def tabulated(self) -> Tables:
        """Return the tables of the rows; only the columns that they need are read."""
        return tabulate(read_columns(self._path("rows"), SUMMARISED), self.circumstances)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"


def read_results(folder: AnyPath) -> Results:
    """Read the folder that `ibviz evaluate SUITE --out folder` wrote; raise `InputError` if it holds anything else.

    >>> read_results(Path("nowhere"))
    Traceback (most recent call last):
    ...
    ibviz.errors.InputError: nowhere is no folder; expected what `ibviz evaluate SUITE --out nowhere` writes
    """
    folder = Path(folder)
    wanted = f"expected what `ibviz evaluate SUITE --out {folder}` writes"
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; {wanted}")
    files = [CIRCUMSTANCES, *(f"{name}.parquet" for name in COLUMNS)]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} holds no finished result, for it lacks {', '.join(missing)}; {wanted}")
    for name in COLUMNS:
        _check(folder / f"{name}.parquet", name)
    circumstances = read_circumstances(folder)
    facts = {name: value for name, value in circumstances.items() if name != "files"}
    return Results(folder, facts)


def rebuild(folder: AnyPath) -> Results:
    """Write the tables of a result folder again, in all formats, from its rows alone; the bytes are the same."""
    results = read_results(folder)
    write_tables(results.folder, results.tabulated())
    return results


def read_circumstances(folder: Path) -> dict[str, Any]:
    """Read the circumstances of a result; refuse one whose files have changed since they were written."""
    path = folder / CIRCUMSTANCES
    facts = read_sealed(path, RUN_AGAIN)
    circumstances = validated(Circumstances, facts, f"{path} does not hold the circumstances of a run", RUN_AGAIN)
    check_files(folder, circumstances.files, RUN_AGAIN)
    return facts


def _check(path: Path, name: str) -> None:
    """Refuse a table that lacks a column, or has a column of another type."""
    from pyarrow import types

    with reading(path) as file:
        schema = file.schema_arrow
    missing = [column for column in COLUMNS[name] if column not in schema.names]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}: an older ibviz wrote it, or something else; "
            "run the suite again"
        )
    for field in schemas()[name]:
        needed = field.name in COLUMNS[name]
        if not needed and (field.name not in schema.names or types.is_null(schema.field(field.name).type)):
            continue
        if not _fits(schema.field(field.name).type, field.type):
            raise InputError(
                f"{path} should hold {field.type} in its column {field.name}; it holds "
                f"{schema.field(field.name).type}: run the suite again"
            )


def _fits(given: "pa.DataType", wanted: "pa.DataType") -> bool:
    """Return True if a type is of the wanted kind, regardless of its width; a column of nulls fits most kinds."""
    from pyarrow import types

    if types.is_null(given):
        return wanted != "string"
    if types.is_list(wanted):
        listed = types.is_list(given) or types.is_large_list(given)
        return listed and _fits(given.value_type, wanted.value_type)
    if types.is_integer(wanted) or types.is_floating(wanted):
        return types.is_integer(given) or types.is_floating(given)
    kinds = {
        "string": (types.is_string, types.is_large_string, types.is_dictionary),
        "binary": (types.is_binary, types.is_large_binary),
        "bool": (types.is_boolean,),
    }
    return any(kind(given) for kind in kinds[str(wanted)])
