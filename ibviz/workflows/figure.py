"""Figures drawn again from their sidecar and the data beside it."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call

from ibviz.errors import InputError, unknown
from ibviz.figures import anchor_usage, curves, dots, panel, rate_accuracy, table, trainings
from ibviz.figures.settings import DEFAULT_TEMPLATE, Template, find_template
from ibviz.figures.sidecar import DPI, OPTIONS, Panel, read_data, read_sidecar, unpack_argument
from ibviz.files import remove_abandoned
from ibviz.reading import reason_of

FIGURES: dict[str, Callable[..., Panel]] = {
    "anchor_usage": anchor_usage,
    "curves": curves,
    "dots": dots,
    "panel": panel,
    "rate_accuracy": rate_accuracy,
    "table": table,
    "trainings": trainings,
}


LOOK = ("blend", "cmap", "contours")  # arguments of a figure that a redrawing may replace


def changed(template: str | None, width: float | None, font: str | None, **look: Any) -> dict[str, Any]:
    """Return the arguments that a redrawing replaces; those that are None stay as they were.

    Args:
        template: Name of the page.
        width: Width of the page in inches.
        font: Font of the text.
        **look: Arguments in `LOOK`.
    """
    page = {"template": template, "width": width, "font": font}
    return {name: value for name, value in {**page, **look}.items() if value is not None}


def redraw_figure(sidecar: Path, changes: Mapping[str, Any] | None = None) -> Panel:
    """Draw the figure of a sidecar again, by the same function from the same arguments.

    Args:
        sidecar: The sidecar, with its data beside it.
        changes: Arguments to replace, and `width` and `font` of the page.

    Raises:
        InputError: The sidecar is none, was made without data or has changed, or the figure has no such argument.
    """
    stored, again = read_sidecar(sidecar), "draw the figure anew from its images and maps"
    if stored["kind"] not in FIGURES:
        raise unknown(f"kind of figure in {sidecar}", str(stored["kind"]), list(FIGURES))
    if "arguments" not in stored:
        raise InputError(f"{sidecar} was made without data; {again}")
    tensors = read_data(sidecar, stored.get("data"))
    try:
        arguments = {name: unpack_argument(value, tensors) for name, value in stored["arguments"].items()}
    except InputError as error:
        raise InputError(f"{sidecar}: {error}; {again}") from error
    kind = stored["kind"]
    known = list(signature(FIGURES[kind]).parameters)
    if strange := next((name for name in arguments if name not in known), None):
        raise unknown(f"argument of {kind} in {sidecar}", strange, known)
    arguments = _with_changes(kind, arguments, dict(changes or {}), known)
    draw = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(FIGURES[kind])
    try:
        signature(draw).bind(**arguments)
        return draw(**arguments, record=stored.get("record"))
    except (TypeError, ValidationError) as error:
        raise InputError(f"{sidecar} does not hold the arguments of {kind}: {reason_of(error)}") from error


def _with_changes(
    kind: str, arguments: Mapping[str, Any], changes: dict[str, Any], known: Sequence[str]
) -> dict[str, Any]:
    """Return arguments with some replaced; raise `InputError` for one that this kind of figure does not have."""
    if strange := next((name for name in changes if name in LOOK and name not in known), None):
        raise InputError(f"a figure of the kind {kind} has no {strange}; it takes a template, a width and a font")
    page = {name: changes.pop(name) for name in ("width", "font") if name in changes}
    arguments = {**arguments, **changes}
    if not page:
        return arguments
    given = arguments.get("template", DEFAULT_TEMPLATE)
    try:
        template = find_template(Template(*given) if isinstance(given, tuple) else given)
    except TypeError as error:
        raise InputError(f"the figure was drawn for a page that is none: {given}") from error
    return {**arguments, "template": find_template(template._replace(**page))}


def redraw_files(
    sidecar: Path, out: Path | None, changes: Mapping[str, Any] | None = None, formats: Sequence[str] = ()
) -> list[Path]:
    """Draw a figure again and return the files written.

    Args:
        sidecar: The sidecar, with its data beside it.
        out: The file to write, or its name without suffix; by default the figure's own files, unless it is changed.
        changes: Arguments to replace, as in `redraw_figure`.
        formats: Formats to write; by default that of `out`, or all that the figure has.
    """
    if changes and out is None:
        raise InputError("a figure that is changed gets files of its own; give their name, --out FILE")
    drawn, dpi = redraw_figure(sidecar, changes), read_sidecar(sidecar).get("dpi", {})
    suffixes = [f".{name.strip().removeprefix('.').lower()}" for name in formats]
    if strange := next((suffix for suffix in suffixes if suffix not in OPTIONS), None):
        raise unknown("format", strange[1:], [suffix[1:] for suffix in OPTIONS])
    if not suffixes:
        suffixes = [out.suffix] if out is not None and out.suffix else list(dpi)
    stem = out or sidecar
    stem = stem.with_suffix("") if stem.suffix.lower() in {*OPTIONS, sidecar.suffix} else stem
    targets = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    for folder in {target.parent for target in targets}:
        remove_abandoned(folder)
    for target in targets:
        drawn.save(target, dpi=dpi.get(target.suffix.lower(), DPI))
    return targets
