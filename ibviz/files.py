"""Atomic writing of files and folders, locks on folders, and rows as Parquet."""

import fcntl
import os
import re
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any, TextIO

from ibviz.digests import changed_file_error, digest_json
from ibviz.errors import InputError
from ibviz.reading import parsing

ROWS_DIGEST = b"ibviz.sha256"
_HALF_WRITTEN = re.compile(r"\..+\.\d{18}\.part(\.\w+)?")  # temporary names, see `_beside`


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it replaces `path` when the block succeeds.

    After a failure, a full disk included, the previous file is unchanged and the temporary one removed.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as beside:
    ...     _ = beside.write_text("done")
    >>> target.read_text()
    'done'
    """
    beside = _beside(path, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _new_and_locked(beside):
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


@contextmanager
def _new_and_locked(path: Path) -> Iterator[None]:
    """Create a file and lock it, so that `remove_abandoned` can tell that its writer lives."""
    opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def remove_abandoned(folder: Path) -> None:
    """Remove files that killed processes left half-written in a folder; those that are being written are locked."""
    for left in half_written(folder):
        if left.is_symlink() or not left.is_file():
            continue
        with suppress(OSError), left.open("rb") as file:  # it is written, or gone, or there are no locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _beside(path: Path, suffix: str = "") -> Path:
    """Return an unpredictable temporary path, so that nobody else who may write to the folder can plant a link."""
    return path.with_name(f".{path.name}.{secrets.randbelow(10**18):018d}.part{suffix}")


def keep_previous(path: Path, previous: Path) -> None:
    """Link `path` as `previous` before `path` is replaced; `path` itself exists at every moment.

    >>> keep_previous(Path("nowhere"), Path("before"))
    """
    if not path.is_file():
        return
    with replacing(previous) as beside:
        beside.unlink()
        link(path, beside)


def link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the file system does not allow one."""
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def ensure_folder(folder: Path) -> None:
    """Make a folder and check that it is writable, before long work depends on it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _new_and_locked(probe := _beside(folder / "writable")):
            probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror or error}; give another folder") from error


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; it is renamed to `path`, which must not exist, when the block succeeds."""
    beside = _beside(path)
    try:
        beside.mkdir(parents=True)
        yield beside
        for file in beside.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def half_written(folder: Path) -> list[Path]:
    """Return the temporary files in a folder: left by writers that were killed, or still being written.

    >>> half_written(Path("nowhere"))
    []
    """
    return [path for path in folder.glob(".*") if _HALF_WRITTEN.fullmatch(path.name)]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; raise an `InputError` that names the owner if another process holds it.

    The lock is a system lock (flock) on the file `.lock`, which names its owner. The system releases it when the
    process ends, so that a killed run blocks nobody.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder):
    ...     (folder / ".lock").read_text().partition(" on ")[0] == f"process {os.getpid()}"
    True
    """
    path = folder / ".lock"
    with _opened(path) as file:
        _lock(file, path)
        _refuse_links(folder)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}: {command()}")
        file.flush()
        try:
            yield
        finally:
            unchanged = _is_same_file(path, file)
            if unchanged:
                path.unlink(missing_ok=True)  # still locked: a process that has opened it sees that it is gone
        if not unchanged:
            raise InputError(
                f"{folder} was removed or replaced while it was written to; what is in it is no whole "
                "result: run again into a folder that stays"
            )


@contextmanager
def in_turn(path: Path, waits: Callable[[], object]) -> Iterator[None]:
    """Hold the lock file `path`; if another process holds it, call `waits` and wait for its end.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / ".lock"
    >>> with in_turn(path, lambda: print("waits")):
    ...     path.exists()
    True
    """
    while True:
        with _opened(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits()
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
            if not _is_same_file(path, file):  # its last owner has just removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _lock(file: TextIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last owner may have removed the file after it was opened here: then the lock is worth nothing.
        held = _is_same_file(path, file)
    except BlockingIOError:
        held = False
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot lock {path}: {reason}; give a folder on a file system with locks") from error
    if not held:
        raise InputError(
            f"{path.parent} is in use by {file.read() or 'a process that just began or ended'}: wait for "
            "it, end it, or give another folder"
        )


def _is_same_file(path: Path, file: TextIO) -> bool:
    """Check that the path still leads to the open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def _refuse_links(folder: Path) -> None:
    """Refuse a folder that contains links to other folders, since files would be written outside it."""
    inside = (Path(above) / name for above, names, _ in os.walk(folder) for name in names)
    if link := next((path for path in inside if path.is_symlink()), None):
        raise InputError(
            f"{link} is a link, and files would be written to where it leads; put a folder in its place, "
            "or give another folder"
        )


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a file to read and write, creating it if needed; links are refused, since their target would be emptied."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened = os.open(path, flags, 0o666)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    facts = os.fstat(opened)
    if not S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(opened)
        raise InputError(f"cannot write {path}: it is no file of its own; remove it")
    with os.fdopen(opened, "r+", errors="replace") as file:
        yield file


def command() -> str:
    """Return the running command as it could be typed again; for `python -m PACKAGE` it begins with the package."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys to a Parquet file, with their SHA-256 in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as beside:
        table = pa.Table.from_pylist([dict(row) for row in rows])
        metadata = {**(table.schema.metadata or {}), ROWS_DIGEST: digest_json(table.to_pylist())}
        pq.write_table(table.replace_schema_metadata(metadata), beside)


def read_rows(
    path: Path, *, columns: Sequence[str] | None = None, filters: list[tuple[str, str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Read rows that `write_rows` wrote.

    The digest is checked if the whole file is read, without `columns` and `filters`.

    Args:
        path: The Parquet file.
        columns: Names of the columns to read; None: all.
        filters: Conditions of pyarrow, `(column, operator, value)`, that a row must all meet.

    Raises:
        InputError: The file is missing, is not Parquet, or has changed since it was written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rows.parquet"
    >>> write_rows(path, [{"image": 0, "value": 0.5}, {"image": 1, "value": 0.25}])
    >>> read_rows(path, columns=["value"], filters=[("image", "=", 1)])
    [{'value': 0.25}]
    """
    import pyarrow.parquet as pq

    if not os.path.isfile(path):  # reading a FIFO would never end
        raise InputError(f"cannot read {path} as Parquet: there is no such file")
    with parsing(f"cannot read {path} as Parquet"):
        table = pq.read_table(path, columns=columns, filters=filters)
        rows = table.to_pylist()
    digest = (table.schema.metadata or {}).get(ROWS_DIGEST) if columns is None and filters is None else None
    if digest is not None and digest.decode("latin-1") != digest_json(rows):
        raise changed_file_error(path, "restore it, or make it anew")
    return rows
