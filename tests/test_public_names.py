"""Public names and their signatures change on purpose only: `python tests/test_public_names.py` writes them anew."""

import inspect
import re
from importlib import import_module
from pathlib import Path

FILE = Path(__file__).with_name("public_names.txt")
PACKAGES = ("anchors", "attribution", "benchmark", "data", "figures", "metrics", "models")


def signature(value: object) -> str:
    """Names, kinds and defaults of parameters; annotations are written differently from Python to Python."""
    if not callable(value):
        return type(value).__name__
    try:
        found = inspect.signature(value)
    except ValueError:
        return "(...)"
    plain = [one.replace(annotation=one.empty) for one in found.parameters.values()]
    plain_text = str(found.replace(parameters=plain, return_annotation=found.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", plain_text)  # of functions that are defaults


def public_names() -> str:
    lines = []
    for package in ("ibviz", *(f"ibviz.{name}" for name in PACKAGES)):
        module = import_module(package)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            lines.append(f"{package}.{name} {'package' if inspect.ismodule(value) else signature(value)}")
    return "\n".join(lines) + "\n"


def test_public_names_are_those_of_the_file():
    assert public_names().splitlines() == FILE.read_text().splitlines()


if __name__ == "__main__":
    FILE.write_text(public_names())
