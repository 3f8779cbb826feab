"""Grid of several images: one column per image, one row per method, one colour bar per scale."""

from collections.abc import Sequence
from itertools import groupby, product
from typing import Any

from matplotlib.axes import Axes

from ibviz.figures.canvas import Canvas, draw_bar, draw_overlay
from ibviz.figures.drawing import draw_photo
from ibviz.figures.layout import PAGE_MARGIN, CellPlace, Label, PanelLayout, Texts, wrap_foot
from ibviz.figures.panel_rows import PanelRow
from ibviz.figures.scale import FloatArray
from ibviz.figures.settings import FAINT, text_height, wrap_text


def draw_grid(  # noqa: PLR0913 - the panel, its layout and its texts
    canvas: Canvas,
    layout: PanelLayout,
    texts: Texts,
    photos: FloatArray,
    rows: list[PanelRow],
    labels: Sequence[Label],
    heads: Sequence[str],
) -> list[tuple[int, Axes]]:
    """Draw all rows, and return the axes of the plain images with their columns."""
    places = [layout.place(number) for number in range(len(rows))]
    shown = _draw_photos(canvas, layout, photos, heads)
    for run in _runs(rows, places):
        for number in run:
            _draw_label(canvas, layout, places[number], labels[number])
            for column, photo in enumerate(photos):
                axes = canvas.picture(layout.corner(places[number], column), layout.cell)
                draw_overlay(canvas, axes, photo, rows[number], column)
        corner = layout.corner(places[run[0]], layout.shape[1], len(run))
        draw_bar(canvas, corner, layout.cell[1] + (len(run) - 1) * layout.pitch, rows[run[0]])
    _draw_title_and_foot(canvas, layout, texts)
    return shown


def _runs(rows: list[PanelRow], places: list[CellPlace]) -> list[list[int]]:
    """Group the indices of neighbouring rows of one block that share a scale and so a colour bar."""
    keys = [(place.block, id(row.scale)) for row, place in zip(rows, places, strict=True)]
    return [list(run) for _, run in groupby(range(len(rows)), key=keys.__getitem__)]


def _draw_photos(
    canvas: Canvas, layout: PanelLayout, photos: FloatArray, heads: Sequence[str]
) -> list[tuple[int, Axes]]:
    shown = []
    for block, (column, photo) in product(range(layout.blocks), enumerate(photos)):
        corner = layout.corner(CellPlace(block, 0), column)
        axes = canvas.picture(corner, layout.cell)
        draw_photo(axes, photo)
        shown.append((column, axes))
        if heads:
            middle, above = corner[0] + layout.cell[0] / 2, corner[1] + layout.cell[1] + layout.gap
            canvas.write((middle, above), heads[column], ha="center", va="bottom", fontsize=canvas.text.text)
    return shown


def _draw_label(canvas: Canvas, layout: PanelLayout, place: CellPlace, label: Label) -> None:
    """Draw name and note of a row, centred on it; the name is farther from the pictures than the note, or above it."""
    text = canvas.text
    middle, edge = layout.middle(place), layout.x(place, 0) - 2 * layout.gap
    note, name = text_height(label.note, text.small), text_height(label.name, text.text)
    style: dict[str, Any] = {"multialignment": "center" if layout.turned else "right"}
    if layout.turned:
        style.update(rotation=90, ha="right", va="center")
        corners = (edge - note, middle), (edge, middle)
    else:
        style.update(ha="right", va="top")
        top = middle + (note + name) / 2
        corners = (edge, top), (edge, top - name)
    canvas.write(corners[0], label.name, fontsize=text.text, **style)
    canvas.write(corners[1], label.note, fontsize=text.small, color=FAINT, **style)


def _draw_title_and_foot(canvas: Canvas, layout: PanelLayout, texts: Texts) -> None:
    page, (wide, high) = canvas.text, layout.size
    margin = PAGE_MARGIN * page.unit
    title = wrap_text(texts.title, page.text, wide)
    canvas.write((wide / 2, high - margin), title, ha="center", va="top", fontsize=page.text)
    foot = wrap_foot(texts.foot, wide, page)
    canvas.write((margin, margin), foot, va="bottom", fontsize=page.small, color=FAINT)
