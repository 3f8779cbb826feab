"""Objects of the user's code, named as `file.py:name` or `package.module:name`."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module, util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from ibviz.errors import InputError

_HASH_DIGITS = 16  # hexadecimal digits of a hash


def is_outside(name: str) -> bool:
    """Return True if a name refers to an object of the user's code.

    >>> is_outside("my_methods.py:blobs"), is_outside("grad_cam")
    (True, False)
    """
    return ":" in name


def load_outside(name: str) -> Any:
    """Import the object named by `file.py:name` or `package.module:name`; paths are relative to the current folder.

    A file is imported again if its contents have changed.

    Raises:
        InputError: There is no such file, module or object, or its code fails during the import.

    >>> load_outside("math:tau")
    6.283185307179586
    """
    place, _, attribute = name.partition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _module(place, name)
    if not hasattr(module, attribute):
        public = [own for own in vars(module) if not own.startswith("_")]
        raise InputError(f"{place} has no {attribute!r}; it has {', '.join(sorted(public)[:12]) or 'no public names'}")
    return getattr(module, attribute)


def hash_outside(name: str) -> str:
    """Return sixteen hexadecimal digits of the SHA-256 of the source file behind a name and its package's version.

    >>> len(hash_outside("json:dumps"))
    16
    """
    place = name.partition(":")[0]
    file = place if place.endswith(".py") else getattr(_module(place, name), "__file__", None)
    content = _read(Path(file)) if file and file.endswith(".py") else b""
    with suppress(PackageNotFoundError):
        content += version(place.partition(".")[0]).encode()
    return hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]


def positional(function: Callable[..., Any]) -> list[str]:
    """Return the names of the positional arguments of a function.

    >>> positional(lambda model, images, *, steps=4: None)
    ['model', 'images']
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, given in inspect.signature(function).parameters.items() if given.kind in kinds]


def keyword_only(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only arguments of a function, which are its options.

    >>> list(keyword_only(lambda model, images, *, steps=4: None))
    ['steps']
    """
    parameters = inspect.signature(function).parameters
    return {name: given for name, given in parameters.items() if given.kind is given.KEYWORD_ONLY}


def check_signature(
    name: str, function: object, *, least: int, most: int, keywords: Sequence[str] | None = None
) -> None:
    """Refuse an object that cannot be called with `least` to `most` positional arguments.

    Args:
        name: The name that the user wrote, for the message.
        function: The object behind the name.
        least: The smallest number of positional arguments.
        most: The largest number of positional arguments.
        keywords: The keyword arguments that are passed; None if the user chooses them.

    Raises:
        InputError: The object is not callable, or has another signature.
    """
    if not callable(function):
        raise InputError(f"{name} is no function but {type(function).__name__}")
    try:
        count, options = len(positional(function)), keyword_only(function)
    except ValueError:  # compiled code has no signature
        return
    wanted = f"{least}" if least == most else f"{least} to {most}"
    if not least <= count <= most:
        raise InputError(f"{name} takes {count} arguments by position; expected {wanted}: options go behind a *")
    for option, given in options.items():
        if keywords is not None and option not in keywords and given.default is given.empty:
            raise InputError(f"{name} needs {option!r}, which is not passed; expected {', '.join(keywords)}")


def first_line(function: Callable[..., Any]) -> str:
    """Return the first line of a function's docstring without its full stop; empty if it has none.

    >>> first_line(first_line)
    "Return the first line of a function's docstring without its full stop; empty if it has none"
    """
    text = inspect.getdoc(function) or ""
    return text.partition("\n")[0].removesuffix(".")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give FILE.py:NAME, from the current folder") from error


def _from_file(path: Path) -> ModuleType:
    own = f"ibviz_outside_{hashlib.sha256(str(path.absolute()).encode() + _read(path)).hexdigest()[:_HASH_DIGITS]}"
    if own in sys.modules:
        return sys.modules[own]
    spec = util.spec_from_file_location(own, path)
    assert spec is not None  # the name ends with .py
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses look up their module here
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[own]
        raise _failed(str(path), error) from error
    return module


def _module(place: str, name: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise InputError(f"{name!r} names no code: give FILE.py:NAME or PACKAGE.MODULE:NAME")
    try:
        return import_module(place)
    except Exception as error:
        raise _failed(place, error) from error


def _failed(place: str, error: Exception) -> InputError:
    return InputError(f"cannot import {place}: {type(error).__name__}: {error}")
