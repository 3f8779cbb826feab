"""Figures drawn again from their sidecar and the data beside it."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path

from pydantic import ConfigDict, ValidationError, validate_call

from ibviz.errors import InputError, unknown
from ibviz.figures import anchor_usage, curves, panel, rate_accuracy, table
from ibviz.figures.sidecar import DPI, Panel, read_data, read_sidecar, unpack_argument
from ibviz.files import remove_abandoned
from ibviz.reading import reason_of

FIGURES: dict[str, Callable[..., Panel]] = {
    "anchor_usage": anchor_usage,
    "curves": curves,
    "panel": panel,
    "rate_accuracy": rate_accuracy,
    "table": table,
}


def redraw_figure(sidecar: Path) -> Panel:
    """Draw the figure of a sidecar again, by the same function from the same arguments."""
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
    known = list(signature(FIGURES[stored["kind"]]).parameters)
    if strange := next((name for name in arguments if name not in known), None):
        raise unknown(
            f"argument of {stored['kind']} in {sidecar}, which another version of ibviz wrote,", strange, known
        )
    draw = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(FIGURES[stored["kind"]])
    try:
        signature(draw).bind(**arguments)
        return draw(**arguments, record=stored.get("record"))
    except (TypeError, ValidationError) as error:
        raise InputError(f"{sidecar} was written for another version of ibviz: {reason_of(error)}") from error


def redraw_files(sidecar: Path, out: Path | None) -> list[Path]:
    """Draw a figure again, into `out` or over its files in all formats, and return the files written."""
    drawn, dpi = redraw_figure(sidecar), read_sidecar(sidecar).get("dpi", {})
    targets = [sidecar.with_suffix(suffix) for suffix in dpi] if out is None else [out]
    for folder in {target.parent for target in targets}:
        remove_abandoned(folder)
    for target in targets:
        drawn.save(target, dpi=dpi.get(target.suffix.lower(), DPI))
    return targets
