"""Pydantic models for what a TOML file may say, with unknown keys refused by name, and how such a file is read."""

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ibviz.errors import InputError
from ibviz.reading import parsing, read_bytes

_MAX_TOML_BYTES = 2**20  # bytes
_MAX_KEY_PARTS = 16  # parts of a key
_TOO_DEEP = re.compile(rf"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){{{_MAX_KEY_PARTS}}}""")


class Settings(BaseModel):
    """Frozen; refuses unknown keys. TOML has no null: the word "none" stands for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _none(cls, given: Any) -> Any:
        return (
            {key: None if value == "none" else value for key, value in given.items()}
            if isinstance(given, dict)
            else given
        )


Config = TypeVar("Config", bound=Settings)


def read_toml(path: Path, kind: type[Config]) -> Config:
    """Read `path` as a `kind`; a wrong type or an unknown key is an error that names the key.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "recipe.toml"
    >>> class Training(Settings):
    ...     epochs: int
    >>> _ = path.write_text("epochs = 3")
    >>> read_toml(path, Training).epochs
    3
    """
    encoded = read_bytes(path, most=_MAX_TOML_BYTES)
    with parsing(f"{path} is not TOML"):
        text = encoded.decode("utf-8").replace("\r\n", "\n")
        if deep := _TOO_DEEP.search(text):  # which would take hours
            raise ValueError(f"a key of more than {_MAX_KEY_PARTS} parts, {deep[0][:20]}...")
        given = tomllib.loads(text)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise InputError(f"{path}: {describe_validation_error(error, kind)}") from error


def describe_validation_error(error: ValidationError, kind: type[Settings]) -> str:
    """One line for a pydantic error: every wrong key, and the known keys beside an unknown one."""
    return "; ".join(_describe_one(one["loc"], one["type"], one["msg"], kind) for one in error.errors())


def _describe_one(location: tuple[int | str, ...], fault: str, message: str, kind: type[Settings]) -> str:
    key = ".".join(str(part) for part in location)
    if fault != "extra_forbidden":
        return f"{key}: {message}" if key else message
    return f"unknown key {key}; known here: {', '.join(_known_keys(kind, location[:-1]))}"


def _known_keys(kind: type[Settings], parents: tuple[int | str, ...]) -> list[str]:
    kinds = [kind]
    for parent in parents:
        tagged = [one for one in kinds if parent in get_args(_annotation(one, "kind"))]  # of a union, told by `kind`
        if tagged:
            kinds = tagged
        elif isinstance(parent, str):
            annotation = _annotation(kinds[0], parent)
            inner = get_args(annotation) or (annotation,)
            kinds = [one for one in inner if isinstance(one, type) and issubclass(one, Settings)] or kinds
    return sorted(kinds[0].model_fields)


def _annotation(kind: type[Settings], key: str) -> Any:
    return kind.model_fields[key].annotation if key in kind.model_fields else None
