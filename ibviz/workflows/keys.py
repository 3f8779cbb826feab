"""Keys of recipes and suites with types, defaults and descriptions, as their pydantic models define them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic_core import PydanticUndefined

from ibviz.settings import Settings

_UNBOUNDED = 2**31  # a bound from here on is there for slips of the pen, and is not shown
_WIDTH = 34  # of keys and values, before the comment
_PLAIN = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": '"none"'}


class TomlKey(NamedTuple):
    """A key of a TOML file."""

    name: str
    type: str
    default: str | None  # as TOML; None if the key is required
    description: str


class TomlTable(NamedTuple):
    """A table of a TOML file with its keys."""

    heading: str  # such as [data] or [[methods]]; empty at the top of the file
    description: str
    keys: tuple[TomlKey, ...]
    default: str | None = ""  # of a list of tables; None if the table is one of several kinds, and not the default one


def key_tables(kind: type[Settings], heading: str = "", description: str = "") -> list[TomlTable]:
    """Return the table of a configuration model and those inside it.

    >>> from ibviz.training.recipe import TrainingConfig
    >>> key_tables(TrainingConfig)[0].keys[0]
    TomlKey(name='epochs', type='integer >= 1', default='10', description='Passes over the training images.')
    """
    schemas, inner = kind.model_json_schema()["properties"], {}
    for name, field in kind.model_fields.items():
        if kinds := _settings_in(field.annotation):
            inner[name] = kinds
    keys = tuple(_key(name, kind, schemas[name]) for name in kind.model_fields if name not in inner)
    tables = [TomlTable(heading and f"[{heading}]", description, keys)]
    for name, kinds in inner.items():
        tables += _inner_tables(".".join(filter(None, [heading, name])), kind.model_fields[name], kinds)
    return tables


def _inner_tables(heading: str, field: Any, kinds: list[type[Settings]]) -> Iterator[TomlTable]:
    """Yield the tables of a key that holds a table, a list of tables, or a table of one of several kinds."""
    for kind in kinds:
        several = len(kinds) > 1
        text = _line(kind.__doc__ or "") if several else _line(field.description or "")
        first, *others = key_tables(kind, heading, text)
        if isinstance(field.default, tuple):
            given = [item.model_dump(mode="json", exclude_unset=True) for item in field.default]
            first = first._replace(heading=f"[[{heading}]]", default=_toml(given))
        elif several and not isinstance(field.default, kind):
            first = first._replace(default=None)
        yield from (first, *others)


def _settings_in(annotation: Any) -> list[type[Settings]]:
    """Return the configuration models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _settings_in(part)]


def _key(name: str, kind: type[Settings], schema: Mapping[str, Any]) -> TomlKey:
    field = kind.model_fields[name]
    default = None
    if not field.is_required():
        default = _toml(schema.get("default") if field.default is not PydanticUndefined else {})
    elif "const" in schema:
        default = _toml(schema["const"])
    return TomlKey(name, _type(schema), default, _line(field.description or ""))


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of a value in words, from its JSON schema.

    >>> _type({"anyOf": [{"type": "integer", "minimum": 2, "maximum": 9}, {"type": "null"}]})
    'integer 2 to 9 or "none"'
    """
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else []):
        *others, last = map(json.dumps, choices)
        return " or ".join(filter(None, [", ".join(others), last]))
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {_type(schema['prefixItems'][0])}"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        return "table"
    return " ".join(filter(None, [_PLAIN.get(schema.get("type", ""), "value"), _range(schema)]))


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None and high < _UNBOUNDED:
        return f"{low} to {high}"
    ends = [(">=", low), (">", above), ("<=", high), ("<", below)]
    return " and ".join(f"{sign} {end}" for sign, end in ends if end is not None and end < _UNBOUNDED)


def _toml(value: Any) -> str:
    """Return a value as TOML, with "none" for None.

    >>> _toml([{"method": "grad_cam", "label": None}]), _toml(True)
    ('[{ method = "grad_cam", label = "none" }]', 'true')
    """
    if isinstance(value, Mapping):
        inside = ", ".join(f"{name} = {_toml(part)}" for name, part in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps("none" if value is None else value, ensure_ascii=False)


def _line(text: str) -> str:
    """Return the first paragraph of a text in one line."""
    return " ".join(text.strip().partition("\n\n")[0].split())


def keys_text(kind: type[Settings]) -> str:
    """Return all keys as a TOML file that states every default; what has none, or is another choice, is a comment.

    >>> from ibviz.training.recipe import StepDecay
    >>> print(keys_text(StepDecay))
    kind = "step"                     # "step". Name of the schedule.
    # every =                         # required, integer >= 1. Number of epochs between two changes.
    # factor =                        # required, number > 0 and < 1. Factor on the learning rate at a change.
    """
    return "\n\n".join("\n".join(_table_lines(table)) for table in key_tables(kind))


def _table_lines(table: TomlTable) -> Iterator[str]:
    shown = table.default == ""
    if table.description:
        yield f"# {table.description}"
    if table.default:
        yield f"# By default {table.heading.strip('[]')} = {table.default}"
    if table.heading:
        yield "# " * (not shown) + table.heading
    for key in table.keys:
        line = f"{key.name} = {'' if key.default is None else key.default}"
        off = "# " * (not shown or key.default is None)
        required = "required, " * (key.default is None)
        yield f"{off + line:<{_WIDTH - 1}} # {required}{key.type}. {key.description}".rstrip()
