"""The way to what lies in files that may hold anything: bounded, and with one error that names the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ibviz.errors import InputError

_MAX_TEXT_BYTES = 2**26  # bytes of a text that is read whole, 64 MiB
_Model = TypeVar("_Model", bound=BaseModel)


@contextmanager
def parsing(failure: str, way_out: str = "") -> Iterator[None]:
    """Turn whatever the block raises into one `InputError`: `failure`, the reason, and the way out.

    For the call of somebody else's parser on a file that may hold anything: what such parsers raise is documented
    nowhere. Code of our own does not belong inside, where its mistakes would look like the user's.

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
    """Say in one line of at most 200 letters why something failed.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "x.png")), reason_of(MemoryError())
    ('No such file or directory', 'MemoryError')
    """
    name = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())[:200]
    if isinstance(error, LookupError | TypeError | AttributeError):  # their texts alone do not say what is wrong
        return f"{name}: {text}"
    return text or name


def read_bytes(path: Path, *, most: int = _MAX_TEXT_BYTES, what: str = "") -> bytes:
    """Read a file whole; what is no regular file, or has more than `most` bytes, is refused before it is opened.

    >>> read_bytes(Path("nowhere"), what="recipe")
    Traceback (most recent call last):
    ibviz.errors.InputError: cannot read recipe nowhere: No such file or directory
    """
    failure = f"cannot read {f'{what} ' * bool(what)}{path}"
    with parsing(failure):
        size = path.stat().st_size
        if not path.is_file():  # a FIFO would never end
            raise InputError(f"{failure}: it is no regular file")
        if size > most:
            raise InputError(f"{failure}: it has {size:,} bytes, more than {most:,}")
        return path.read_bytes()


def read_json(path: Path, way_out: str = "") -> Any:
    """Read what a JSON file holds, of whatever shape; infinite numbers and NaN are refused, as JSON has none."""
    encoded = read_bytes(path)
    with parsing(f"cannot read {path} as JSON", way_out):
        return json.loads(encoded.decode("utf-8"), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON's")


def shaped(kind: type[_Model], held: Any, failure: str, way_out: str = "") -> _Model:
    """Check what a file holds against a pydantic model; the error names the first three values that do not fit.

    >>> class Point(BaseModel):
    ...     x: int
    >>> shaped(Point, {}, "point.json is no point")
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
    said = [": ".join(filter(None, [".".join(map(str, one["loc"])), one["msg"]])) for one in faults[:3]]
    return "; ".join(said + ["..."] * (len(faults) > 3))[:500]
