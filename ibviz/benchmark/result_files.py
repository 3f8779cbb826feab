"""Tables of a result, read from their Parquet files with no more in memory than what is asked for."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibviz.reading import parsing

if TYPE_CHECKING:
    import pyarrow as pa
    from pandas import DataFrame
    from pyarrow.parquet import ParquetFile

CurveArrays = tuple[np.ndarray, np.ndarray]  # fractions and scores, `(images, points)`


@contextmanager
def reading(path: Path) -> "Iterator[ParquetFile]":
    """Yield an open table; any failure to read it is one `InputError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with parsing(f"cannot read {path} as Parquet", "run the suite again"), pq.ParquetFile(path) as file:
        yield file
    pa.default_memory_pool().release_unused()  # pyarrow would keep what it no longer needs


def read_frame(path: Path, filters: list[tuple[str, str, Any]] | None = None) -> "DataFrame":
    """Return a table, or those of its rows that pass the filters of `pyarrow.parquet.read_table`."""
    import pyarrow.parquet as pq

    with reading(path):
        return pq.read_table(path, filters=filters).to_pandas()


def read_columns(path: Path, columns: Collection[str]) -> "DataFrame":
    """Return those of the columns that a table has, with strings as categories."""
    from pandas import DataFrame

    with reading(path) as file:
        names = [name for name in file.schema_arrow.names if name in columns]
        # One column at a time, so that the table is not held twice.
        read = {
            name: file.read([name], use_threads=False).to_pandas(strings_to_categorical=True)[name] for name in names
        }
    return DataFrame(read, copy=False)


def read_curves(path: Path, model: str, protocol: str) -> dict[str, dict[str, CurveArrays]]:
    """Return the curves of a network under a protocol by side and method; shorter ones repeat their last point."""
    import pyarrow as pa

    keys, points = ["model", "protocol", "side", "method"], ["fractions", "scores"]
    parts: dict[tuple[str, str], list[pa.Table]] = {}
    with reading(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, [*keys, *points], use_threads=False)
            labels = table.select(keys).to_pandas(strings_to_categorical=True)
            own = labels[(labels["model"] == model) & (labels["protocol"] == protocol)]
            for (side, method), rows in own.groupby(["side", "method"], sort=False, observed=True):
                parts.setdefault((side, method), []).append(table.select(points).take(rows.index.to_numpy()))
        sides: dict[str, dict[str, CurveArrays]] = {}
        for (side, method), several in parts.items():
            whole = pa.concat_tables(several)
            sides.setdefault(side, {})[method] = stacked(whole["fractions"]), stacked(whole["scores"])
    return sides


def stacked(curves: "pa.ChunkedArray") -> np.ndarray:
    """Stack the points of all curves; shorter curves repeat their last point, which adds no area.

    >>> import pyarrow as pa
    >>> stacked(pa.chunked_array([[[0.0, 0.5, 1.0], [0.0, 1.0]]]))
    array([[0. , 0.5, 1. ],
           [0. , 1. , 1. ]])
    """
    lists: Any = curves.combine_chunks()
    lengths, points = lists.value_lengths().to_numpy(), lists.flatten().to_numpy()
    if not lengths.all():
        raise ValueError("a curve has no points")
    ends = lengths.cumsum()[:, None]
    return points[np.minimum(ends - lengths[:, None] + np.arange(lengths.max()), ends - 1)]
