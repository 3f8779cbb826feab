"""The folder that `ibviz evaluate` writes, read back: what a table, a figure or a page needs, without a model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibviz.benchmark.tables import tabulate, write_tables
from ibviz.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

CIRCUMSTANCES = "circumstances.json"
COLUMNS = {
    "rows": (
        *("model", "image", "method", "control", "native", "grid", "protocol", "hash", "metric", "value", "tie_sd"),
        *("target", "label", "correct", "f_image", "f_baseline", "random_order"),
        *("levels", "tie_fraction", "zero_share", "object_share"),
    ),
    "images": ("image", "name", "label", "box", "object_share", "picture"),
    "predictions": ("model", "image", "predicted", "probability", "runner_up", "runner_up_probability"),
    "curves": ("model", "method", "control", "protocol", "image", "side", "fractions", "scores"),
}


@dataclass(frozen=True)
class Results:
    """What a suite found, as tables whose columns are those of `COLUMNS`; a missing label is NaN.

    A table is read when it is first asked for, since those of many images are large.
    """

    folder: Path
    circumstances: dict[str, Any]

    @cached_property
    def rows(self) -> "DataFrame":
        """One for each image x model x method x metric x protocol."""
        return self._frame("rows")

    @cached_property
    def images(self) -> "DataFrame":
        """One for each image; `picture` holds the bytes of a PNG, of the first images only."""
        return self._frame("images")

    @cached_property
    def predictions(self) -> "DataFrame":
        """One for each model x image."""
        return self._frame("predictions")

    @cached_property
    def curves(self) -> "DataFrame":
        """One for each model x method x protocol x image x side; `fractions` and `scores` hold arrays."""
        return self._frame("curves")

    def curves_of(self, model: str, protocol: str) -> "DataFrame":
        """Those of one network under one protocol, the only ones that are read."""
        return self._frame("curves", [("model", "=", model), ("protocol", "=", protocol)])

    def _frame(self, name: str, filters: list[tuple[str, str, str]] | None = None) -> "DataFrame":
        import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

        path = self.folder / f"{name}.parquet"
        with _reading(path):
            return pq.read_table(path, filters=filters).to_pandas()


def read_results(folder: Path) -> Results:
    """Read what `ibviz evaluate SUITE --out folder` left; a folder of anything else is an `InputError`.

    >>> read_results(Path("nowhere"))
    Traceback (most recent call last):
    ...
    ibviz.errors.InputError: nowhere is no folder; expected what `ibviz evaluate SUITE --out nowhere` writes
    """
    wanted = f"expected what `ibviz evaluate SUITE --out {folder}` writes"
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; {wanted}")
    files = [CIRCUMSTANCES, *(f"{name}.parquet" for name in COLUMNS)]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} holds no finished result, for it lacks {', '.join(missing)}; {wanted}")
    for name, columns in COLUMNS.items():
        _check(folder / f"{name}.parquet", columns)
    return Results(folder, _circumstances(folder / CIRCUMSTANCES))


def rebuild(folder: Path) -> Results:
    """Write the tables of a result folder anew, in all formats: from its rows, without a model, to the same bytes."""
    results = read_results(folder)
    write_tables(folder, tabulate(results.rows, results.circumstances))
    return results


def _circumstances(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}; run the suite again") from error
    if not isinstance(facts, dict):
        raise InputError(f"{path} holds a {type(facts).__name__}; expected the circumstances of a run by name")
    return facts


def _check(path: Path, columns: tuple[str, ...]) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    with _reading(path):
        there = pq.read_schema(path).names
    missing = [name for name in columns if name not in there]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}: an older ibviz wrote it, or something else; "
                         "run the suite again")  # fmt: skip


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path} as Parquet: {str(error).splitlines()[0]}; run the suite again") from error
