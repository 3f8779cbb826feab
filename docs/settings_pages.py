"""Pages of the keys of recipes and suites, and of the methods with their options, made of the records themselves."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from griffe import Docstring, DocstringSectionKind

from ibviz.attribution import METHODS, Method
from ibviz.config import SuiteConfig, Sweep
from ibviz.workflows.keys import TomlTable, key_tables

LEAD = {
    "recipe": "# Keys of a recipe\n\nA recipe for `ibviz train` is a TOML file with these keys; all have a default, "
    "unless they are marked as required. `ibviz train --keys` prints them as a file to start from. "
    'TOML has no null: `"none"` stands for it.',
    "suite": "# Keys of a suite\n\nA suite for `ibviz evaluate` is a TOML file with these keys; all have a default, "
    "unless they are marked as required. `ibviz evaluate --keys` prints them as a file to start from. "
    'TOML has no null: `"none"` stands for it.',
    "methods": "# Methods and their options\n\nThe name goes into `ibviz.explain(model, images, NAME, **options)`, "
    "`--methods` and `method = NAME` of a suite; options of a suite stand in its table `options`.",
}


def keys_page(name: str, tables: Iterable[TomlTable]) -> str:
    """Return the Markdown of all tables of keys."""
    parts = [LEAD[name]]
    for table in tables:
        kind = f" kind = {table.keys[0].default}" * (bool(table.keys) and table.keys[0].name == "kind")
        parts.append(f"## {table.heading or 'At the top of the file'}{kind}")
        parts += [table.description] * bool(table.description)
        parts += [f"By default `{table.default}`."] * bool(table.default)
        rows = [
            (f"`{key.name}`", key.type, "*required*" if key.default is None else f"`{key.default}`", key.description)
            for key in table.keys
        ]
        parts.append(table_of(("key", "type", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def methods_page() -> str:
    """Return the Markdown of all methods by family."""
    parts = [LEAD["methods"]]
    for family in dict.fromkeys(method.family for method in METHODS.values()):
        parts.append(f"## Family {family}")
        parts += [part for name, method in METHODS.items() if method.family == family for part in entry(name, method)]
    return "\n\n".join(parts) + "\n"


def entry(name: str, method: Method) -> list[str]:
    """Return the parts of one method: name, label, description, and a table of its options."""
    said = described(method.function)
    rows = [
        (f"`{option}`", annotation(given), default(given), said.get(option, "-"))
        for option, given in method.options.items()
    ]
    parts = [f"### {name}", f"**{method.label}.** {method.description}."]
    return [*parts, table_of(("option", "type", "default", "meaning"), rows)] if rows else parts


def described(function: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions of a function's parameters, from its docstring."""
    docstring = Docstring(inspect.getdoc(function) or "", lineno=1)
    sections = docstring.parse("google", warn_unknown_params=False, warnings=False)
    return {
        parameter.name: " ".join(parameter.description.split())
        for section in sections
        if section.kind is DocstringSectionKind.parameters
        for parameter in section.value
    }


def annotation(option: inspect.Parameter) -> str:
    """Return the type of an option as it stands in the code."""
    text = inspect.formatannotation(option.annotation) if option.annotation is not inspect.Parameter.empty else "-"
    return f"`{text}`".replace("typing.", "").replace(" | ", "` or `")


def default(option: inspect.Parameter) -> str:
    """Return the default of an option."""
    return "*required*" if option.default is inspect.Parameter.empty else f"`{option.default!r}`"


def table_of(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


PAGES: dict[str, Callable[[], str]] = {
    "settings/recipe.md": lambda: keys_page("recipe", key_tables(Sweep)),
    "settings/suite.md": lambda: keys_page("suite", key_tables(SuiteConfig)),
    "settings/methods.md": methods_page,
}
