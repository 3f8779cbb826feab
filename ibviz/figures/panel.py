"""Panel of images by methods: one column per image, one row per method, one colour bar per scale."""

from collections.abc import Mapping, Sequence
from itertools import groupby, product
from typing import Any, NamedTuple

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from ibviz.figures.drawing import (
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
from ibviz.figures.layout import BAR, PAGE_MARGIN, CellPlace, Label, PanelLayout, Texts, lay_out
from ibviz.figures.panel_rows import (
    TIMES,
    PanelRow,
    RowMaps,
    Shared,
    Shown,
    as_rgb,
    check_boxes,
    check_look,
    check_panel_images,
    downscaled,
    rows_of,
)
from ibviz.figures.scale import FloatArray, Scale, thinned
from ibviz.figures.settings import (
    DEFAULT_TEMPLATE,
    FAINT,
    LEADING,
    Template,
    find_template,
    settings,
    text_height,
    wrap_text,
)
from ibviz.figures.sidecar import Panel, build_panel
from ibviz.types import AttentionMap, Boxes, Grid, Images, Masks


def panel(  # noqa: PLR0913 - everything drawn on, over and beside the pictures is an argument
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
    template: str = DEFAULT_TEMPLATE,
    original_size: Grid | None = None,
    channels: Sequence[int] | None = None,
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw the plain images and below them a row of overlays per method, with a colour bar per scale.

    Quantised attention is enlarged to nearest blocks and coloured by its anchors; other maps are enlarged bilinearly.
    The scale of attention is 0 to 1, that of other maps starts at zero or is symmetric about it. Images with a side
    over 1000 pixels are drawn smaller, and a note says so.

    Args:
        images: Images in [0, 1].
        maps: Maps or attention of each method, one per image.
        captions: Text above each image.
        boxes: One box per image as x0, y0, x1, y1 in pixels; a row of NaN for an image without a box.
        masks: One mask per image, drawn as an outline.
        blend: Opacity of the map in an overlay, 0 to 1.
        fade: Let the opacity fall to 0 at the least value or, for signed maps, at zero.
        contours: Lines at these fractions of the scale, on bars and on overlays of maps coarser than the images.
        scales: Scale by row: rows with the same name share a scale, and a pair of numbers gives the limits.
        template: Page that the figure is drawn for, one of `settings.TEMPLATES`.
        original_size: Height and width of images that were made smaller before, for a note.
        channels: Channels drawn as red, green and blue, or the one drawn as grey, counted from 0; required unless
            images have one or three channels.
        record: Facts to repeat in the sidecar, such as model, data, options, seeds and the choice of images.

    Raises:
        InputError: If shapes or numbers of images do not agree, or values are not finite.

    >>> import torch
    >>> drawn = panel(torch.rand(2, 3, 32, 48), {"Grad-CAM": torch.rand(2, 4, 6)}, captions=["cat", "dog"])
    >>> drawn.account["rows"][0]["enlargement"]
    'bilinear'
    """
    check_panel_images(images, {"captions": captions, "boxes": boxes, "masks": masks})
    look, page = check_look(Look(blend, fade, list(contours))), find_template(template)
    if boxes is not None:
        check_boxes(boxes, (images.shape[2], images.shape[3]))
    as_rgb(images, channels)  # raises an error if channels have to be chosen
    chosen = None if channels is None else tuple(channels)
    shown = downscaled(Shown(images, dict(maps), boxes, masks, original_size, chosen))
    rows = rows_of(shown.maps, len(images), shown.size, scales or {})
    named = None if captions is None else list(captions)
    figure = _draw(shown, rows, named or [], look, page)
    beside = {"captions": named, "scales": dict(scales or {}), "template": template}
    return build_panel("panel", figure, _facts(shown, rows), {**_arguments(shown), **beside, **look._asdict()}, record)


def overlay(
    image: Float[Tensor, "colours h w"],
    given: Float[Tensor, "_ _"] | AttentionMap,
    *,
    label: str = "",
    caption: str = "",
    **options: Any,
) -> Panel:
    """Draw one map over one image.

    Args:
        image: Image in [0, 1].
        given: Map `(rows, columns)`, or the `AttentionMap` of a batch of one.
        label: Name of the method.
        caption: Text above the image.
        **options: Further arguments of `panel`.

    >>> import torch
    >>> overlay(torch.rand(3, 32, 48), torch.rand(4, 6), label="Grad-CAM").account["images"]["count"]
    1
    """
    maps = given if isinstance(given, AttentionMap) else given[None]
    return panel(image[None], {label: maps}, captions=[caption] if caption else None, **options)


def _arguments(shown: Shown) -> dict[str, Any]:
    """Return the keyword arguments of `panel` for `shown`; `channels` only if they were chosen."""
    return {name: value for name, value in shown._asdict().items() if name != "channels" or value is not None}


def _facts(shown: Shown, rows: list[PanelRow]) -> dict[str, Any]:
    images = {"count": len(shown.images), "size": shown.size, "interpolation": photo_interpolation(shown.size)}
    return {
        "images": {**images, "original_size": shown.original_size},
        "tones": TONES,
        "rows": [row.account() for row in rows],
    }


class Canvas(NamedTuple):
    """Figure to draw on, its layout, and the appearance of overlays."""

    figure: Figure
    layout: PanelLayout
    look: Look

    @property
    def text(self) -> Template:
        """Template with the sizes of text."""
        return self.layout.template


def _draw(shown: Shown, rows: list[PanelRow], captions: list[str], look: Look, page: Template) -> Figure:
    photos = as_rgb(shown.images, shown.channels).detach().cpu().double().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    names = [(row.content.label, row.note) for row in rows]
    texts = Texts(names, [text for row in rows for text in row.scale.labels], captions, _foot(shown))
    with settings(page, texts.all()):
        texts = texts._replace(foot=wrap_text(texts.foot, page.small, page.width))
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
        left, high = layout.left / layout.size[0], PAGE_MARGIN * page.unit / layout.size[1]
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


def _runs(rows: list[PanelRow], places: list[CellPlace]) -> list[list[int]]:
    """Group the indices of neighbouring rows of one block that share a scale and so a colour bar."""
    keys = [(place.block, id(row.scale)) for row, place in zip(rows, places, strict=True)]
    return [list(run) for _, run in groupby(range(len(rows)), key=keys.__getitem__)]


def _cell(canvas: Canvas, place: CellPlace, column: int) -> Axes:
    axes = canvas.figure.add_axes(canvas.layout.box(place, column, canvas.layout.cell[0]))
    axes.set_axis_off()
    return axes


def _draw_photos(canvas: Canvas, photos: FloatArray, heads: list[str], shown: Shown) -> None:
    layout = canvas.layout
    for block, (column, photo) in product(range(layout.blocks), enumerate(photos)):
        axes = _cell(canvas, CellPlace(block, 0), column)
        draw_photo(axes, photo)
        if shown.masks is not None:
            draw_mask(axes, shown.masks[column].cpu().numpy(), canvas.text.unit)
        if shown.boxes is not None and not shown.boxes[column].isnan().all():
            draw_box(axes, shown.boxes[column].cpu().double().numpy(), canvas.text.unit)
        if heads:
            style: dict[str, Any] = {"ha": "center", "va": "bottom", "linespacing": LEADING}
            axes.text(0.5, 1 + layout.gap / layout.cell[1], heads[column], transform=axes.transAxes, **style)


def _draw_overlays(canvas: Canvas, place: CellPlace, row: PanelRow, greys: Sequence[FloatArray]) -> None:
    for column, (grey, values) in enumerate(zip(greys, row.content.values, strict=True)):
        axes = _cell(canvas, place, column)
        draw_photo(axes, grey)
        draw_map(axes, values, row.scale, interpolation=row.interpolation, look=canvas.look)
        for level in () if row.content.fine else contour_levels(row.scale, canvas.look):
            draw_contour(axes, values, level, row.interpolation == "bilinear", canvas.text.unit)


def _draw_label(canvas: Canvas, place: CellPlace, label: Label) -> None:
    """Draw name and note of a row, centred on it; the name is farther from the pictures than the note, or above it."""
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


def _draw_bar(canvas: Canvas, place: CellPlace, row: PanelRow, rows: int) -> None:
    """Draw a colour bar beside `rows` rows, with the colours blended with grey as in an overlay."""
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
    if row.content.anchors is None or high / len(ends) < small:  # keep the labels off the bars above and below
        ends[0].set_verticalalignment("baseline")
        ends[-1].set_verticalalignment("top")


def _mark_contours(axes: Axes, scale: Scale, canvas: Canvas) -> None:
    """Draw a line across the bar at the value of each contour."""
    for level in contour_levels(scale, canvas.look):
        axes.axhline(scale.mark(level), **outline(canvas.text.unit, THIN))
