"""Whole files or none: written beside, then renamed; and rows as Parquet."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ibviz.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` only when the block succeeds.

    A failure, a full disk included, leaves the previous file as it was and nothing beside it.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as beside:
    ...     _ = beside.write_text("done")
    >>> target.read_text()
    'done'
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; the previous file, if any, is unchanged") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def ensure_folder(folder: Path) -> None:
    """Make a folder and see that it can be written to, before long work depends on it.

    >>> import tempfile
    >>> ensure_folder(Path(tempfile.mkdtemp()) / "run")
    """
    probe = folder / ".writable"
    with replacing(probe) as beside:
        beside.write_bytes(b"")
    probe.unlink(missing_ok=True)  # of several processes one is the first


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys to one Parquet file."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and needed only here
    import pyarrow.parquet as pq  # noqa: PLC0415

    with replacing(path) as beside:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), beside)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows that `write_rows` wrote."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        return pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path} as Parquet: {str(error).splitlines()[0]}") from error
