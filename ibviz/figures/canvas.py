"""A region of a figure on which a panel is drawn, in inches from the region's lower left corner."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

from ibviz.figures.drawing import (
    THIN,
    Look,
    contour_levels,
    draw_contour,
    draw_map,
    draw_photo,
    outline,
    printed,
    toned,
)
from ibviz.figures.layout import BAR
from ibviz.figures.panel_rows import PanelRow
from ibviz.figures.scale import FloatArray, Scale, thinned
from ibviz.figures.settings import LEADING, Template, wrap_text

Corner = tuple[float, float]  # inches from the left and from below


class Canvas(NamedTuple):
    """A figure to draw on, the lower left corner of the region, and the appearance of text and overlays."""

    figure: Figure
    corner: Corner
    text: Template
    look: Look

    def axes(self, corner: Corner, size: Corner) -> Axes:
        """Add axes of `size` inches at `corner`."""
        (wide, high), (x, y) = self.figure.get_size_inches(), self.corner
        box = (x + corner[0]) / wide, (y + corner[1]) / high, size[0] / wide, size[1] / high
        return self.figure.add_axes(box)

    def write(self, corner: Corner, words: str, **style: Any) -> None:
        """Write text at `corner`; nothing if there is none."""
        if not words:
            return
        (wide, high), (x, y) = self.figure.get_size_inches(), self.corner
        self.figure.text((x + corner[0]) / wide, (y + corner[1]) / high, words, linespacing=LEADING, **style)

    def picture(self, corner: Corner, size: Corner) -> Axes:
        """Add axes without frame and ticks."""
        axes = self.axes(corner, size)
        axes.set_axis_off()
        return axes


def draw_overlay(canvas: Canvas, axes: Axes, photo: FloatArray, row: PanelRow, image: int) -> None:
    """Draw the map of one image over its photograph in grey; a map with a single value says so."""
    values, said = row.content.values[image], row.content.constants[image]
    draw_photo(axes, toned(photo))
    draw_map(axes, values, row.scale, interpolation=row.interpolation, look=canvas.look)
    for level in () if row.content.fine or said else contour_levels(row.scale, canvas.look):
        draw_contour(axes, values, level, row.interpolation == "bilinear", canvas.text.unit)
    if said:
        width = axes.get_position().width * canvas.figure.get_size_inches()[0]
        style: dict[str, Any] = {"fontsize": canvas.text.small, "ha": "center", "va": "bottom", "linespacing": LEADING}
        rims = outline(canvas.text.unit, 1.0)
        shown = wrap_text(said, canvas.text.small, 0.95 * width)
        axes.text(0.5, 0.04, shown, transform=axes.transAxes, color="white", path_effects=rims["path_effects"], **style)


def draw_bar(canvas: Canvas, corner: Corner, height: float, row: PanelRow) -> None:
    """Draw a colour bar of `height` inches, with the colours blended with grey as in an overlay."""
    scale, unit, small = row.scale, canvas.text.unit, canvas.text.small
    axes = canvas.axes(corner, (BAR * unit, height))
    shown = ScalarMappable(scale.norm, printed(scale.colours, canvas.look.opacity(scale)))
    bar = canvas.figure.colorbar(shown, cax=axes, spacing="uniform", extend=scale.extend)
    high = height * 72
    if bar.solids is not None and bar.solids.get_rasterized() and not scale.levels:
        _draw_as_image(bar, bar.solids)
    bar.set_ticks(scale.ticks, labels=thinned(scale.labels, max(2, int(high / (small * LEADING)))))
    axes.tick_params(length=1.5 * unit, width=0.4 * unit, pad=unit)
    bar.minorticks_off()
    if not row.content.fine:
        _mark_contours(axes, scale, canvas)
    ends = axes.get_yticklabels()
    if row.content.anchors is None or high / len(ends) < small:  # keep the labels off the bars above and below
        ends[0].set_verticalalignment("baseline")
        ends[-1].set_verticalalignment("top")


def _draw_as_image(bar: Colorbar, solids: QuadMesh) -> None:
    """Draw the colours of a smooth bar as one small image; matplotlib would rasterise a whole page for each bar."""
    low, high = bar.ax.get_ylim()
    colours = bar.cmap(bar.norm(np.linspace(low, high, bar.cmap.N)[:, None]))
    bar.ax.imshow(colours, origin="lower", extent=(0, 1, low, high), aspect="auto")
    solids.remove()


def _mark_contours(axes: Axes, scale: Scale, canvas: Canvas) -> None:
    """Draw a line across the bar at the value of each contour."""
    for level in contour_levels(scale, canvas.look):
        axes.axhline(scale.mark(level), **outline(canvas.text.unit, THIN))
