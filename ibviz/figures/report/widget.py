"""The anchor explorer of a report as a module for notebooks, made of the scripts of the page."""

import json
from typing import Any

from ibviz.figures.report.contents import Report
from ibviz.figures.report.page import joined_scripts, page_data, page_style, part

SCRIPTS_OF_WIDGET = ("data", "overlay", "explorer", "widget")


def widget_module() -> str:
    """Return an ECMAScript module for `anywidget`, which draws `data` of the model inside a shadow root.

    The shadow root keeps the style of the notebook out, and the style of the explorer in.
    """
    style = f"{page_style().replace(':root', ':host')}\n{part('widget.css')}"
    return (
        f"const STYLE = {json.dumps(style)};\n"
        "export default { render({ model: kernel, el }) {\n"
        "el.dataset.lmSuppressShortcuts = 'true'; // or JupyterLab would take the arrow keys\n"
        "const root = el.attachShadow({ mode: 'open' });\n"
        "const data = kernel.get('data');\n"
        f"{joined_scripts(SCRIPTS_OF_WIDGET)}}} }};\n"
    )


def widget_data(report: Report, edits: dict[str, str]) -> dict[str, Any]:
    """Return the data that the scripts draw; `edits` are the interventions that can be asked for, with labels."""
    return page_data(report) | {"edits": edits}
