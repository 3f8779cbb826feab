"""Images by methods: a column for each image, a row for each method, a colour bar for each scale."""

from collections.abc import Mapping, Sequence
from itertools import groupby, product
from typing import Any, NamedTuple

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from ibviz.figures.layout import BAR, MARGIN, Label, Layout, Place, Texts, lay_out
from ibviz.figures.output import Panel, finished
from ibviz.figures.overlay import (
    BLEND,
    THIN,
    TONES,
    Look,
    contour_levels,
    draw_box,
    draw_contour,
    draw_map,
    draw_mask,
    draw_photo,
    outline,
    photo_interpolation,
    printed,
    toned,
)
from ibviz.figures.rows import (
    TIMES,
    Row,
    RowMaps,
    Shared,
    Shown,
    check_boxes,
    check_images,
    check_look,
    coloured,
    rows_of,
    shrunk,
)
from ibviz.figures.scale import Scale, Values, thinned
from ibviz.figures.settings import DEFAULT, FAINT, LEADING, Template, find_template, settings, text_height, wrap
from ibviz.types import AttentionMap, Boxes, Grid, Images, Masks


def panel(  # noqa: PLR0913 - what lies on, over and beside the pictures is named apart
    images: Images,
    maps: Mapping[str, RowMaps],
    *,
    captions: Sequence[str] | None = None,
    boxes: Boxes | None = None,
    masks: Masks | None = None,
    blend: float = BLEND,
    fade: bool = False,
    contours: Sequence[float] = (),
    scales: Mapping[str, Shared] | None = None,
    template: str = DEFAULT,
    original_size: Grid | None = None,
    channels: Sequence[int] | None = None,
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw the plain images and below them a row of overlays for each method, with a colour bar for each scale.

    Quantised attention is enlarged in nearest blocks and coloured by its anchors; other maps bilinearly, attention from
    0 to 1, the rest from zero or symmetrically about it. In `scales`, rows of one name share a scale, and those of two
    numbers have them as limits; other rows have each their own. `blend` is the share of the map in an overlay; with
    `fade` it falls to none where a value is least or, of signed maps, zero. `contours` are lines at shares of the
    scale, 0 to 1, on bars and on overlays of maps coarser than the images. A row of NaN in `boxes` is an image without
    a box. `template` names where the figure will stand (`settings.TEMPLATES`). Images with a side over 1000 pixels are
    drawn smaller and a note says so, as it does for `original_size`, pixels high and wide, of images made smaller
    before. Images of one channel are grey; of any other number but three, `channels` names the three that are drawn as
    red, green and blue, or the one drawn as grey, counted from 0, and a note says so. The sidecar repeats `record`:
    model, data, methods, options, seeds, how the images were chosen.

    >>> import torch
    >>> drawn = panel(torch.rand(2, 3, 32, 48), {"Grad-CAM": torch.rand(2, 4, 6)}, captions=["cat", "dog"])
    >>> drawn.account["rows"][0]["enlargement"]
    'bilinear'
    """
    check_images(images, {"captions": captions, "boxes": boxes, "masks": masks})
    look, page = check_look(Look(blend, fade, list(contours))), find_template(template)
    if boxes is not None:
        check_boxes(boxes, (images.shape[2], images.shape[3]))
    coloured(images, channels)  # or it is said what to choose
    chosen = None if channels is None else tuple(channels)
    shown = shrunk(Shown(images, dict(maps), boxes, masks, original_size, chosen))
    rows = rows_of(shown.maps, len(images), shown.size, scales or {})
    named = None if captions is None else list(captions)
    figure = _draw(shown, rows, named or [], look, page)
    beside = {"captions": named, "scales": dict(scales or {}), "template": template}
    return finished("panel", figure, _facts(shown, rows), {**_arguments(shown), **beside, **look._asdict()}, record)


def overlay(
    image: Float[Tensor, "colours h w"],
    given: Float[Tensor, "_ _"] | AttentionMap,
    *,
    label: str = "",
    caption: str = "",
    **options: Any,
) -> Panel:
    """Draw one map on one image: a panel of a single cell, with that panel's options.

    An `AttentionMap` is of a batch of one.

    >>> import torch
    >>> overlay(torch.rand(3, 32, 48), torch.rand(4, 6), label="Grad-CAM").account["images"]["count"]
    1
    """
    maps = given if isinstance(given, AttentionMap) else given[None]
    return panel(image[None], {label: maps}, captions=[caption] if caption else None, **options)


def _arguments(shown: Shown) -> dict[str, Any]:
    """What is shown as keyword arguments of `panel`; a choice of channels where there is one."""
    return {name: value for name, value in shown._asdict().items() if name != "channels" or value is not None}


def _facts(shown: Shown, rows: list[Row]) -> dict[str, Any]:
    images = {"count": len(shown.images), "size": shown.size, "interpolation": photo_interpolation(shown.size)}
    return {
        "images": {**images, "original_size": shown.original_size},
        "tones": TONES,
        "rows": [row.account() for row in rows],
    }


class Canvas(NamedTuple):
    """Where and how to draw."""

    figure: Figure
    layout: Layout
    look: Look

    @property
    def text(self) -> Template:
        """Its sizes of text."""
        return self.layout.template


def _draw(shown: Shown, rows: list[Row], captions: list[str], look: Look, page: Template) -> Figure:
    photos = coloured(shown.images, shown.channels).detach().cpu().double().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    names = [(row.content.label, row.note) for row in rows]
    texts = Texts(names, [text for row in rows for text in row.scale.labels], captions, _foot(shown))
    with settings(page, texts.all()):
        texts = texts._replace(foot=wrap(texts.foot, page.small, page.width))
        layout, labels, heads = lay_out(texts, len(photos), shown.size, page)
        canvas = Canvas(Figure(figsize=layout.size), layout, look)
        _draw_photos(canvas, photos, heads, shown)
        greys = [toned(photo) for photo in photos]
        places = [layout.place(number) for number in range(len(rows))]
        for run in _runs(rows, places):
            for number in run:
                _draw_label(canvas, places[number], labels[number])
                _draw_overlays(canvas, places[number], rows[number], greys)
            _draw_bar(canvas, places[run[0]], rows[run[0]], len(run))
        style: dict[str, Any] = {"fontsize": page.small, "color": FAINT, "va": "bottom"}
        left, high = layout.left / layout.size[0], MARGIN * page.unit / layout.size[1]
        canvas.figure.text(left, high, texts.foot, linespacing=LEADING, **style)
    return canvas.figure


def _foot(shown: Shown) -> str:
    notes = []
    if shown.original_size is not None:
        (high, wide), (height, width) = shown.original_size, shown.size
        notes.append(f"Images of {wide}{TIMES}{high} pixels, drawn as {width}{TIMES}{height}.")
    if shown.channels is not None:
        named = ", ".join(map(str, shown.channels))
        drawn = f"Channel {named} of" if len(shown.channels) == 1 else f"Channels {named} as red, green, blue, of"
        notes.append(f"{drawn} {shown.images.shape[1]} (from 0).")
    return " ".join(notes)


def _runs(rows: list[Row], places: list[Place]) -> list[list[int]]:
    """Numbers of neighbouring rows of one block with one scale, which share a colour bar."""
    keys = [(place.block, id(row.scale)) for row, place in zip(rows, places, strict=True)]
    return [list(run) for _, run in groupby(range(len(rows)), key=keys.__getitem__)]


def _cell(canvas: Canvas, place: Place, column: int) -> Axes:
    axes = canvas.figure.add_axes(canvas.layout.box(place, column, canvas.layout.cell[0]))
    axes.set_axis_off()
    return axes


def _draw_photos(canvas: Canvas, photos: Values, heads: list[str], shown: Shown) -> None:
    layout = canvas.layout
    for block, (column, photo) in product(range(layout.blocks), enumerate(photos)):
        axes = _cell(canvas, Place(block, 0), column)
        draw_photo(axes, photo)
        if shown.masks is not None:
            draw_mask(axes, shown.masks[column].cpu().numpy(), canvas.text.unit)
        if shown.boxes is not None and not shown.boxes[column].isnan().all():
            draw_box(axes, shown.boxes[column].cpu().double().numpy(), canvas.text.unit)
        if heads:
            style: dict[str, Any] = {"ha": "center", "va": "bottom", "linespacing": LEADING}
            axes.text(0.5, 1 + layout.gap / layout.cell[1], heads[column], transform=axes.transAxes, **style)


def _draw_overlays(canvas: Canvas, place: Place, row: Row, greys: Sequence[Values]) -> None:
    for column, (grey, values) in enumerate(zip(greys, row.content.values, strict=True)):
        axes = _cell(canvas, place, column)
        draw_photo(axes, grey)
        draw_map(axes, values, row.scale, interpolation=row.interpolation, look=canvas.look)
        for level in () if row.content.fine else contour_levels(row.scale, canvas.look):
            draw_contour(axes, values, level, row.interpolation == "bilinear", canvas.text.unit)


def _draw_label(canvas: Canvas, place: Place, label: Label) -> None:
    """Put the name farther from the pictures than the note, or above it; both are centred on the row."""
    layout, text = canvas.layout, canvas.text
    across, high = layout.size
    middle, edge = layout.middle(place), layout.x(place, 0) - 2 * layout.gap
    note, name = text_height(label.note, text.small), text_height(label.name, text.text)
    style: dict[str, Any] = {"linespacing": LEADING, "multialignment": "center" if layout.turned else "right"}
    if layout.turned:
        style.update(rotation=90, ha="right", va="center")
        corners = (edge - note, middle), (edge, middle)
    else:
        style.update(ha="right", va="top")
        top = middle + (note + name) / 2
        corners = (edge, top), (edge, top - name)
    (x, y), (note_x, note_y) = corners
    canvas.figure.text(x / across, y / high, label.name, fontsize=text.text, **style)
    canvas.figure.text(note_x / across, note_y / high, label.note, fontsize=text.small, color=FAINT, **style)


def _draw_bar(canvas: Canvas, place: Place, row: Row, rows: int) -> None:
    """Draw the colours as an overlay shows them, over the middle grey of a photograph, beside `rows` rows."""
    layout, scale, unit, small = canvas.layout, row.scale, canvas.text.unit, canvas.text.small
    box = layout.box(place, layout.shape[1], BAR * unit, rows)
    axes = canvas.figure.add_axes(box)
    shown = ScalarMappable(scale.norm, printed(scale.colours, canvas.look.opacity(scale)))
    bar = canvas.figure.colorbar(shown, cax=axes, spacing="uniform", extend=scale.extend)
    high = box[3] * layout.size[1] * 72
    bar.set_ticks(scale.ticks, labels=thinned(scale.labels, max(2, int(high / (small * LEADING)))))
    axes.tick_params(length=1.5 * unit, width=0.4 * unit, pad=unit)
    bar.minorticks_off()
    if not row.content.fine:
        _mark_contours(axes, scale, canvas)
    ends = axes.get_yticklabels()
    if row.content.anchors is None or high / len(ends) < small:  # else they run into the bars above and below
        ends[0].set_verticalalignment("baseline")
        ends[-1].set_verticalalignment("top")


def _mark_contours(axes: Axes, scale: Scale, canvas: Canvas) -> None:
    """A line across the bar at the value of each contour."""
    for level in contour_levels(scale, canvas.look):
        axes.axhline(scale.mark(level), **outline(canvas.text.unit, THIN))
