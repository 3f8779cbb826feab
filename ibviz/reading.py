"""Reading of untrusted files: bounded in size, with one error that names the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ibviz.errors import InputError

AnyPath = str | Path  # as users give it
_MAX_TEXT_BYTES = 2**26  # 64 MiB, for files that are read whole
_Model = TypeVar("_Model", bound=BaseModel)


@contextmanager
def parsing(failure: str, way_out: str = "") -> Iterator[None]:
    """Turn any exception of the block into one `InputError`: `failure`, the reason, and the way out.

    For calls of third-party parsers on untrusted files, since nothing documents what such parsers raise. Keep our own
    code outside the block: its mistakes would look like the user's.

    >>> with parsing("cannot read note.json as JSON", "write it anew"):
    ...     {}["key"]
    Traceback (most recent call last):
    ibviz.errors.InputError: cannot read note.json as JSON: KeyError: 'key'; write it anew
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError("; ".join(filter(None, [f"{failure}: {reason_of(error)}", way_out]))) from error


def reason_of(error: Exception) -> str:
    """Return the reason of an error in one line of at most 200 letters.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "x.png")), reason_of(MemoryError())
    ('No such file or directory', 'MemoryError')
    """
    name = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())[:200]
    if isinstance(error, LookupError | TypeError | AttributeError):  # their message alone does not say what is wrong
        return f"{name}: {text}"
    return text or name


def read_bytes(path: Path, *, most: int = _MAX_TEXT_BYTES, what: str = "") -> bytes:
    """Read a whole file; refuse one that is not regular, or has more than `most` bytes, before it is opened.

    `what` names the kind of file in the error.

    >>> read_bytes(Path("nowhere"), what="recipe")
    Traceback (most recent call last):
    ibviz.errors.InputError: cannot read recipe nowhere: No such file or directory
    """
    failure = f"cannot read {f'{what} ' * bool(what)}{path}"
    with parsing(failure):
        size = path.stat().st_size
        if not path.is_file():  # reading a FIFO would never end
            raise InputError(f"{failure}: it is no regular file")
        if size > most:
            raise InputError(f"{failure}: it has {size:,} bytes, more than {most:,}")
        return path.read_bytes()


def read_json(path: Path, way_out: str = "") -> Any:
    """Read a JSON file of any structure; refuse NaN and infinite numbers, which JSON does not have."""
    encoded = read_bytes(path)
    with parsing(f"cannot read {path} as JSON", way_out):
        return json.loads(encoded.decode("utf-8"), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON's")


def validated(kind: type[_Model], held: Any, failure: str, way_out: str = "") -> _Model:
    """Validate the content of a file with a pydantic model.

    Args:
        kind: The pydantic model.
        held: What was read from the file.
        failure: First part of the error message, which names the file.
        way_out: Last part of the error message.

    Raises:
        InputError: The content does not fit; the message names the first three values that are wrong.

    >>> class Point(BaseModel):
    ...     x: int
    >>> validated(Point, {}, "point.json is no point")
    Traceback (most recent call last):
    ibviz.errors.InputError: point.json is no point: x: Field required
    """
    try:
        return kind.model_validate(held)
    except (ValidationError, RecursionError) as error:
        raise InputError("; ".join(filter(None, [f"{failure}: {_first_three(error)}", way_out]))) from error


def _first_three(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    texts = [": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]])) for fault in faults[:3]]
    return "; ".join(texts + ["..."] * (len(faults) > 3))[:500]
