"""Dots on one axis: a number per row beside that of a reference."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ibviz.errors import InputError, unknown
from ibviz.figures.curves import COLOURS, plain
from ibviz.figures.settings import FAINT, Page, Template, find_template, settings
from ibviz.figures.sidecar import Panel, build_panel

_PITCH = 1.6  # distance of rows over the text size
_AROUND = 0.5  # inches for the axis and its label
_MARK = 4.0  # points


def dots(  # noqa: PLR0913 - all texts of the figure are arguments
    values: Mapping[str, float | None],
    *,
    reference: str,
    axis: str = "",
    missing: str = "no value",
    title: str = "",
    template: Page = "ijcai column",
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw a dot per row on one axis, with a line at the value of the reference.

    Args:
        values: Number of each row, from the top; NaN or None for none.
        reference: Row with which the others are compared.
        axis: Label of the axis.
        missing: Text in a row without a number.
        title: Text above the figure.
        template: Page that the figure is drawn for, a name of `settings.TEMPLATES` or a `Template`.
        record: Facts to repeat in the sidecar.

    Raises:
        InputError: The reference is no row, or has no number.

    >>> dots({"default": 0.4, "black": 0.3, "logit": float("nan")}, reference="default").account["rows"]
    3
    """
    numbers = {name: math.nan if value is None else float(value) for name, value in values.items()}
    if reference not in numbers:
        raise unknown("row of reference", reference, list(values))
    if not math.isfinite(numbers[reference]):
        raise InputError(f"the reference {reference!r} needs a finite number; got {values[reference]}")
    page = find_template(template)
    with settings(page, [*values, axis, missing, title]):
        height = _PITCH * page.text / 72 * (len(values) + bool(title)) + _AROUND * page.unit
        figure = Figure(figsize=(page.width, height), layout="constrained")
        _draw(figure.subplots(), numbers, reference, missing, page)
        figure.axes[0].set(xlabel=axis, title=title)
    kept = {name: value if math.isfinite(value) else None for name, value in numbers.items()}  # JSON has no NaN
    arguments = {"values": kept, "reference": reference, "axis": axis, "missing": missing, "title": title}
    return build_panel("dots", figure, {"rows": len(kept)}, {**arguments, "template": template}, record)


def _draw(axes: Axes, values: Mapping[str, float], reference: str, missing: str, page: Template) -> None:
    axes.axvline(values[reference], color=FAINT, linewidth=0.6 * page.unit, zorder=1)
    for row, (name, value) in enumerate(values.items()):
        if math.isfinite(value):
            colour = FAINT if name == reference else COLOURS[0]
            axes.plot([values[reference], value], [row, row], color=colour, linewidth=0.8 * page.unit, zorder=2)
            axes.plot([value], [row], "o", color=colour, markersize=_MARK * page.unit, zorder=3)
        else:
            style: dict[str, Any] = {"va": "center", "color": FAINT, "fontsize": page.small}
            axes.text(0.02, row, missing, transform=axes.get_yaxis_transform(), **style)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.margins(x=0.08)
    plain(axes, page.unit)
