"""Whole files or none: written beside, then renamed; and rows as Parquet."""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

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


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; while another one holds it, an `InputError` names that owner.

    The lock is the system's (flock), on the file `.lock` that says who holds it: it ends with its process, however that
    ends, so that a killed run blocks nobody.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with owned(folder):
    ...     (folder / ".lock").read_text().partition(" on ")[0] == f"process {os.getpid()}"
    True
    """
    path = folder / ".lock"
    with _opened(path) as file:
        _lock(file, path)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}: {command()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: who opened it meanwhile sees that it is gone


def _lock(file: TextIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Not held is a file that its last owner has just removed.
        held = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except BlockingIOError:
        held = False
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot lock {path}: {reason}; give a folder on a file system with locks") from error
    if not held:
        raise InputError(f"{path.parent} is in use by {file.read() or 'a process that just began or ended'}: wait for "
                         "it, end it, or give another folder")  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A file to read and write, there or not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    with file:
        file.seek(0)
        yield file


def command() -> str:
    """The command that runs, as it was typed, without the folders of the program."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


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
