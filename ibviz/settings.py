"""Pydantic models for what a TOML file may say, with unknown keys refused by name, and how such a file is read."""

import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ibviz.errors import InputError, unknown
from ibviz.extensions import is_outside
from ibviz.reading import parsing, read_bytes

MOST_TOML = 2**20  # bytes
DEEPEST = 16  # parts of a key
MOST_PIXELS = 8192  # along a side
# Bounds of numbers: a larger one is a slip of the pen, and would fill the memory or overflow.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=8, le=MOST_PIXELS)]  # pixels
Count = Annotated[int, Field(ge=1, lt=2**31)]
DEEP = re.compile(rf"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){{{DEEPEST}}}""")


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
    encoded = read_bytes(path, most=MOST_TOML)
    with parsing(f"{path} is not TOML"):
        text = encoded.decode("utf-8").replace("\r\n", "\n")
        if deep := DEEP.search(text):  # which would take hours
            raise ValueError(f"a key of more than {DEEPEST} parts, {deep[0][:20]}...")
        given = tomllib.loads(text)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error, kind)}") from error


def name_in(kind: str, known: Callable[[], Iterable[str]], *, outside: bool = False) -> AfterValidator:
    """Return the check of a setting that names an entry of a table, or of the user's own code if `outside` is allowed.

    `known` lists the table's names when the setting is read, so that the table is the one place that holds them.
    """

    def check(name: str) -> str:
        if name not in known() and not (outside and is_outside(name)):
            raise unknown(kind, name, list(known()))
        return name

    return AfterValidator(check)


def describe(error: ValidationError, kind: type[Settings]) -> str:
    """One line for a pydantic error: every wrong key, and the known keys beside an unknown one."""
    return "; ".join(_describe_one(one["loc"], one["type"], one["msg"], kind) for one in error.errors())


def _describe_one(location: tuple[int | str, ...], fault: str, message: str, kind: type[Settings]) -> str:
    key, message = ".".join(str(part) for part in location), message.removeprefix("Value error, ")
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
