"""HTML page of a report: tables and text in HTML, the rest as inline data that a script draws."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

from ibviz.errors import InputError, unknown
from ibviz.figures.curves import BANDED, COLOURS, GREYS, line_styles
from ibviz.figures.drawing import BLEND, LUMINANCE_WEIGHTS, TONES
from ibviz.figures.report.contents import Report, ReportComparison, ReportModel
from ibviz.figures.report.inline import number, numbers, script_json
from ibviz.figures.report.maps import pack_maps
from ibviz.figures.report.pictures import is_exact, pack_pictures, remark, size_of
from ibviz.figures.report.table import flattened, report_table
from ibviz.files import replacing
from ibviz.types import Grid

_PARTS = files("ibviz.figures.report") / "page"
SCRIPTS = ("data", "table", "curves", "overlay", "gallery", "drill", "explorer", "main")


def save_report(report: Report, path: Path) -> None:
    """Write the page to `path` atomically."""
    text = html(report)
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def html(report: Report) -> str:
    """Return the page as text; it loads nothing, and its content security policy forbids loading."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    _check(report)
    style, script = page_style(), _script()
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(part("report.html")).render(
        report=report,
        tables=[report_table(comparison.lines) for comparison in report.comparisons],
        cards=[flattened(comparison.card) for comparison in report.comparisons],
        circumstances=flattened(report.circumstances),
        banded=BANDED,
        breakable=breakable,
        photographs=remark(report.pictures),
        style=Markup(style),
        script=Markup(script),
        data=Markup(script_json(page_data(report))),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
    )


def breakable(name: str) -> str:
    """Return a dotted name that may be broken after its dots and underscores, and nowhere else.

    >>> breakable("models.net.class_<b>")
    Markup('models.<wbr>net.<wbr>class_<wbr>&lt;b&gt;')
    """
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._])(?=.)", r"\1<wbr>", str(escape(name))))


def _check(report: Report) -> None:
    """Raise `InputError` for comparisons of unknown models and for models without a prediction per picture."""
    if not report.comparisons:
        raise InputError("there is nothing to report; expected at least one comparison")
    for comparison in report.comparisons:
        if comparison.model not in report.models:
            raise unknown("model", comparison.model, list(report.models))
    for name, subject in report.models.items():
        if len(subject.predictions) != len(report.pictures):
            raise InputError(
                f"model {name!r} has predictions of {len(subject.predictions)} pictures; "
                f"the report shows {len(report.pictures)}"
            )


def page_data(report: Report) -> dict[str, Any]:
    """Return the data that the scripts draw."""
    size = size_of(report.pictures)
    return {
        "size": size,
        "exact": is_exact(size),
        "blend": BLEND,
        "banded": BANDED,
        "tones": TONES,
        "luminance": LUMINANCE_WEIGHTS,
        "pictures": pack_pictures(report.pictures),
        "models": {name: _pack_subject(name, subject, size) for name, subject in report.models.items()},
        "comparisons": [_pack_comparison(comparison) for comparison in report.comparisons],
    }


def _pack_subject(name: str, subject: ReportModel, size: Grid) -> dict[str, Any]:
    predictions = [
        prediction._asdict() | {"probability": number(prediction.probability)} for prediction in subject.predictions
    ]
    return {"predictions": predictions, "maps": pack_maps(name, subject, size)}


def _pack_comparison(comparison: ReportComparison) -> dict[str, Any]:
    names = list(
        dict.fromkeys([*(line.method for line in comparison.lines), *chain.from_iterable(comparison.curves.values())])
    )
    curves = {
        side: {method: {key: numbers(part) for key, part in band._asdict().items()} for method, band in given.items()}
        for side, given in comparison.curves.items()
    }
    values = {name: {key: numbers(own) for key, own in metrics.items()} for name, metrics in comparison.values.items()}
    controls = [line.method for line in comparison.lines if line.control]
    shown = {"model": comparison.model, "protocol": comparison.protocol, "score": comparison.score, "values": values}
    return shown | {"styles": _line_styles(names, controls), "curves": curves}


def _line_styles(names: list[str], controls: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour and dashes of each method, as in the printed curves."""
    names_of = {colour: f"var(--{name})" for name, colour in _palette().items()}
    return {
        name: {
            "colour": names_of[style["color"]],
            "dashes": [] if style["linestyle"] == "solid" else list(style["linestyle"][1]),
            "control": name in controls,
        }
        for name, style in line_styles(names, controls).items()
    }


def _palette() -> Mapping[str, str]:
    """Return the colours of curves by the name of a CSS variable, which has other shades on a dark page."""
    series = {f"series-{place}": colour for place, colour in enumerate(COLOURS)}
    return series | {f"grey-{place}": colour for place, colour in enumerate(GREYS)}


def page_style() -> str:
    """Return the style sheet."""
    names = "; ".join(f"--{name}: {colour}" for name, colour in _palette().items())
    return f":root {{ {names} }}\n{part('report.css')}"


def _script() -> str:
    """Join all scripts of the page in one scope."""
    given = 'JSON.parse(document.getElementById("data").textContent), document'
    return f'"use strict";\n((data, root) => {{\n{joined_scripts(SCRIPTS)}}})({given});\n'


def joined_scripts(names: Sequence[str]) -> str:
    """Return scripts one after the other; they find what to draw as `data`, and where as `root`."""
    return "".join(part(f"{name}.js") for name in names)


def part(name: str) -> str:
    """Return a file of the page."""
    return (_PARTS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
