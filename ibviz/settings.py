"""Base class of the configuration models, and the reader of their TOML files; unknown keys are refused by name."""

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ibviz.errors import InputError, did_you_mean, unknown
from ibviz.extensions import is_outside
from ibviz.reading import AnyPath, parsing, read_bytes

_MAX_TOML_BYTES = 2**20  # bytes
_MAX_KEY_PARTS = 16  # of a dotted key
MOST_PIXELS = 8192  # along a side
# Bounds of numbers: a larger one is a slip of the pen, and would fill the memory or overflow.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=8, le=MOST_PIXELS)]  # pixels
Count = Annotated[int, Field(ge=1, lt=2**31)]
_TOO_DEEP = re.compile(rf"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){{{_MAX_KEY_PARTS}}}""")


class Settings(BaseModel):
    """Base of all configuration models: frozen, refuses unknown keys, reads "none" as None (TOML has no null)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _none(cls, given: Any) -> Any:
        return (
            {key: None if value == "none" else value for key, value in given.items()}
            if isinstance(given, dict)
            else given
        )


Config = TypeVar("Config", bound=Settings)


def read_toml(path: AnyPath, kind: type[Config]) -> Config:
    """Read a TOML file into the configuration model `kind`; an `InputError` names a wrong value or unknown key.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "recipe.toml"
    >>> class Training(Settings):
    ...     epochs: int
    >>> _ = path.write_text("epochs = 3")
    >>> read_toml(path, Training).epochs
    3
    """
    encoded = read_bytes(Path(path), most=_MAX_TOML_BYTES)
    with parsing(f"{path} is not TOML"):
        text = encoded.decode("utf-8").replace("\r\n", "\n")
        if deep := _TOO_DEEP.search(text):  # parsing it would take hours
            raise ValueError(f"a key of more than {_MAX_KEY_PARTS} parts, {deep[0][:20]}...")
        given = tomllib.loads(text)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise InputError(f"{path}: {describe_validation_error(error, kind)}") from error


@dataclass(frozen=True)
class _Named(AfterValidator):
    """The check of a name, which shows the known names in a JSON schema unless others are allowed."""

    known: Callable[[], Iterable[str]]
    outside: bool

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(schema) | ({} if self.outside else {"enum": [*self.known()]})


def name_in(kind: str, known: Callable[[], Iterable[str]], *, outside: bool = False) -> AfterValidator:
    """Return the check of a setting that names an entry of a table, or of the user's own code if `outside` is allowed.

    `known` lists the table's names when the setting is read, so that the table is the one place that holds them.
    """

    def check(name: str) -> str:
        if name not in known() and not (outside and is_outside(name)):
            raise unknown(kind, name, list(known()))
        return name

    return _Named(check, known, outside)


def describe_validation_error(error: ValidationError, kind: type[Settings]) -> str:
    """Return a pydantic error in one line: every wrong key, and the known keys if a key is unknown.

    The fault of a list with a wrong entry is left out: it is counted without that entry, and said to be too short.
    """
    faults = error.errors()
    places = [fault["loc"] for fault in faults]
    return "; ".join(
        _describe_fault(fault["loc"], fault["type"], fault["msg"], kind)
        for fault in faults
        if not any(place[: len(fault["loc"])] == fault["loc"] and place != fault["loc"] for place in places)
    )


def _describe_fault(location: tuple[int | str, ...], fault: str, message: str, kind: type[Settings]) -> str:
    key, message = ".".join(str(part) for part in location), message.removeprefix("Value error, ")
    if fault != "extra_forbidden":
        return f"{key}: {message}" if key else message
    known = _known_keys(kind, location[:-1])
    return f"unknown key {key}; known here: {', '.join(known)}{did_you_mean(str(location[-1]), known)}"


def _known_keys(kind: type[Settings], parents: tuple[int | str, ...]) -> list[str]:
    kinds = [kind]
    for parent in parents:
        tagged = [model for model in kinds if parent in get_args(_annotation(model, "kind"))]  # member of a union
        if tagged:
            kinds = tagged
        elif isinstance(parent, str):
            annotation = _annotation(kinds[0], parent)
            inner = get_args(annotation) or (annotation,)
            kinds = [part for part in inner if isinstance(part, type) and issubclass(part, Settings)] or kinds
    return sorted(kinds[0].model_fields)


def _annotation(kind: type[Settings], key: str) -> Any:
    return kind.model_fields[key].annotation if key in kind.model_fields else None
