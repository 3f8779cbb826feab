"""Images by methods: a column for each image, a row and one colour bar for each method."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from ibviz.errors import InputError
from ibviz.figures.layout import BAR, GAP, Label, Layout, Place, lay_out
from ibviz.figures.output import Panel, account
from ibviz.figures.overlay import (
    BLEND,
    TONES,
    draw_box,
    draw_map,
    draw_mask,
    draw_photo,
    photo_interpolation,
    printed,
    toned,
)
from ibviz.figures.rows import Row, RowMaps, check_boxes, check_images, row_of
from ibviz.figures.scale import Values, thinned
from ibviz.figures.settings import FAINT, LEADING, SMALL, TEXT, settings, text_height
from ibviz.types import Boxes, Images, Masks


def panel(  # noqa: PLR0913 - what lies on, over and beside the pictures is named apart
    images: Images,
    maps: Mapping[str, RowMaps],
    *,
    captions: Sequence[str] | None = None,
    boxes: Boxes | None = None,
    masks: Masks | None = None,
    blend: float = BLEND,
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw the plain images and below them a row of overlays for each method, with one scale and one colour bar.

    Quantised attention is enlarged in nearest blocks and coloured by its anchors; other maps bilinearly, attention from
    0 to 1, the rest from zero or symmetrically about it. `blend` is the share of the map in an overlay. A row of
    NaN in `boxes` is an image without a box. The sidecar repeats `record`: model, data, methods, options, seeds, how
    the images were chosen.

    >>> import torch
    >>> drawn = panel(torch.rand(2, 3, 32, 48), {"Grad-CAM": torch.rand(2, 4, 6)}, captions=["cat", "dog"])
    >>> drawn.account["rows"][0]["enlargement"]
    'bilinear'
    """
    check_images(images, {"captions": captions, "boxes": boxes, "masks": masks})
    if not 0 <= blend <= 1:
        raise InputError(f"blend is the share of the map in an overlay, from 0 to 1; got {blend}")
    if boxes is not None:
        check_boxes(boxes, (images.shape[2], images.shape[3]))
    photos = images.detach().cpu().double().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    size = photos.shape[1], photos.shape[2]
    rows = [row_of(label, given, len(photos), size) for label, given in maps.items()]
    with settings():
        ticks = [text for row in rows for text in row.scale.labels]
        names = [(row.label, row.note) for row in rows]
        layout, labels, heads = lay_out(names, ticks, captions or [], len(photos), size)
        figure = Figure(figsize=layout.size)
        _draw_photos(figure, layout, photos, heads, (boxes, masks))
        for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
            place = layout.place(number)
            _draw_label(figure, layout, place, label)
            _draw_overlays(figure, layout, place, row, photos, blend)
            _draw_bar(figure, layout, place, row, blend)
    return Panel(figure, account("panel", _facts(rows, photos, captions, blend), record))


def _facts(rows: list[Row], photos: Values, captions: Sequence[str] | None, blend: float) -> dict[str, Any]:
    size = photos.shape[1], photos.shape[2]
    return {
        "images": {"count": len(photos), "size": size, "interpolation": photo_interpolation(size)},
        "captions": None if captions is None else list(captions),
        "blend": blend,
        "tones": TONES,
        "rows": [row.account() for row in rows],
    }


def _cell(figure: Figure, layout: Layout, place: Place, column: int) -> Axes:
    axes = figure.add_axes(layout.box(place, column, layout.cell[0]))
    axes.set_axis_off()
    return axes


def _draw_photos(
    figure: Figure, layout: Layout, photos: Values, heads: list[str], outlines: tuple[Boxes | None, Masks | None]
) -> None:
    boxes, masks = outlines
    for block, (column, photo) in product(range(layout.blocks), enumerate(photos)):
        axes = _cell(figure, layout, Place(block, 0), column)
        draw_photo(axes, photo)
        if masks is not None:
            draw_mask(axes, masks[column].cpu().numpy())
        if boxes is not None and not boxes[column].isnan().all():
            draw_box(axes, boxes[column].cpu().double().numpy())
        if heads:
            style: dict[str, Any] = {"ha": "center", "va": "bottom", "linespacing": LEADING}
            axes.text(0.5, 1 + GAP / layout.cell[1], heads[column], transform=axes.transAxes, **style)


def _draw_overlays(figure: Figure, layout: Layout, place: Place, row: Row, photos: Values, blend: float) -> None:
    for column, (photo, values) in enumerate(zip(photos, row.values, strict=True)):
        axes = _cell(figure, layout, place, column)
        draw_photo(axes, toned(photo))
        draw_map(axes, values, row.scale, interpolation=row.interpolation, blend=blend)


def _draw_label(figure: Figure, layout: Layout, place: Place, label: Label) -> None:
    """Put the name farther from the pictures than the note, or above it; both are centred on the row."""
    across, high = layout.size
    middle, edge = layout.middle(place), layout.x(place, 0) - 2 * GAP
    note, name = text_height(label.note, SMALL), text_height(label.name, TEXT)
    style: dict[str, Any] = {"linespacing": LEADING, "multialignment": "center" if layout.turned else "right"}
    if layout.turned:
        style.update(rotation=90, ha="right", va="center")
        corners = (edge - note, middle), (edge, middle)
    else:
        style.update(ha="right", va="top")
        top = middle + (note + name) / 2
        corners = (edge, top), (edge, top - name)
    (x, y), (note_x, note_y) = corners
    figure.text(x / across, y / high, label.name, fontsize=TEXT, **style)
    figure.text(note_x / across, note_y / high, label.note, fontsize=SMALL, color=FAINT, **style)


def _draw_bar(figure: Figure, layout: Layout, place: Place, row: Row, blend: float) -> None:
    """Draw the colours as an overlay shows them: over the middle grey of a photograph."""
    scale, axes = row.scale, figure.add_axes(layout.box(place, layout.shape[1], BAR))
    shown = ScalarMappable(scale.norm, printed(scale.colours, blend))
    bar = figure.colorbar(shown, cax=axes, spacing="uniform", extend=scale.extend)
    high = layout.cell[1] * 72
    bar.set_ticks(scale.ticks, labels=thinned(scale.labels, max(2, int(high / (SMALL * LEADING)))))
    axes.tick_params(length=1.5, width=0.4, pad=1)
    bar.minorticks_off()
    ends = axes.get_yticklabels()
    if row.anchors is None or high / len(ends) < SMALL:  # else they run into the bars above and below
        ends[0].set_verticalalignment("baseline")
        ends[-1].set_verticalalignment("top")
