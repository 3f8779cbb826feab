"""Panel of images by methods: a column per image and a row per method, or a strip of pictures of a single image."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ibviz.errors import InputError, unknown
from ibviz.figures.canvas import Canvas, Corner
from ibviz.figures.drawing import BLEND, TONES, Look, draw_box, draw_mask, photo_interpolation
from ibviz.figures.grid_panel import draw_grid
from ibviz.figures.layout import Texts, lay_out
from ibviz.figures.panel_input import Shown, as_rgb, check_boxes, check_look, downscaled, panel_images, panel_maps
from ibviz.figures.panel_rows import MOST_BLOCKS, TIMES, PanelRow, RowMaps, ScaleChoice, ScaleRule, Shared, rows_of
from ibviz.figures.settings import DEFAULT_TEMPLATE, Page, Template, find_template, settings
from ibviz.figures.sidecar import Panel, account, build_panel
from ibviz.figures.strip import draw_strip, lay_out_strip
from ibviz.types import AttentionMap, Boxes, Given, Grid, Masks

_KIND = "panel"


class PanelTexts(NamedTuple):
    """Texts that the caller chooses."""

    captions: list[str]
    title: str
    note: str
    groups: list[str]  # of each row; empty for none


def panel(  # noqa: PLR0913 - everything drawn on, over and beside the pictures is an argument
    images: Given,
    maps: Mapping[str, RowMaps | Given],
    *,
    captions: Sequence[str] | None = None,
    boxes: Boxes | None = None,
    masks: Masks | None = None,
    blend: float = BLEND,
    fade: bool = False,
    contours: Sequence[float] = (),
    scale: ScaleRule = "shared",
    scales: Mapping[str, Shared] | None = None,
    limit: float | None = None,
    from_least: Collection[str] = (),
    cmap: str | None = None,
    groups: Mapping[str, str] | None = None,
    title: str = "",
    note: str = "",
    template: Page = DEFAULT_TEMPLATE,
    original_size: Grid | None = None,
    channels: Sequence[int] | None = None,
    axes: Axes | None = None,
    record: Mapping[str, Any] | None = None,
) -> Panel:
    """Draw the plain images and below them a row of overlays per method, with a colour bar per scale.

    The pictures of a single image stand side by side. Quantised attention is enlarged to nearest blocks and coloured by
    its anchors, other coarse maps are enlarged bilinearly, and of a map with more than 64 pixels a side blocks show
    their value of greatest magnitude. The scale of attention is 0 to 1, that of other maps starts at zero or is
    symmetric about it. A map with a single value says so. Images with a side over 1000 pixels are drawn smaller, and a
    note says so.

    Args:
        images: Images `(b, channels, h, w)` in [0, 1], a tensor or a NumPy array.
        maps: Maps or attention of each method, one per image.
        captions: Text above each image.
        boxes: One box per image as x0, y0, x1, y1 in pixels; a row of NaN for an image without a box.
        masks: One mask per image, drawn as an outline.
        blend: Opacity of the map in an overlay, 0 to 1.
        fade: Let the opacity fall to 0 at the least value or, for signed maps, at zero.
        contours: Lines at these fractions of the scale, on bars and on overlays of maps coarser than the images.
        scale: "shared", one scale for all images of a row; "image", one for each image, which the row says; "fixed", 0
            to 1, or -1 to 1 for signed maps.
        scales: Scale by row, in place of `scale`: rows with the same name share a scale, and a pair of numbers gives
            the limits.
        limit: Percentile of |values| at which the scales of maps end; None: 99.5 for maps drawn in
            blocks, and for pixel maps with outliers.
        from_least: Rows in which zero has no meaning, such as RISE: each map from its least to its greatest value.
        cmap: Colour map of matplotlib: a diverging one for signed maps, any other for the rest.
        groups: Name of the group of each row, above the pictures of a single image; a group begins a line of its own.
        title: Text above the figure.
        note: Text below it.
        template: Page that the figure is drawn for, a name of `settings.TEMPLATES` or a `Template`.
        original_size: Height and width of images that were made smaller before, for a note.
        channels: Channels drawn as red, green and blue, or the one drawn as grey, counted from 0; required unless
            images have one or three channels.
        axes: Axes of a figure of your own, in whose place the panel is drawn; `template` then gives the text size
            alone, and the panel is not redrawn from its sidecar.
        record: Facts to repeat in the sidecar, such as model, data, options, seeds and the choice of images.

    Raises:
        InputError: If shapes or numbers of images do not agree, or values are not finite.

    >>> import torch
    >>> drawn = panel(torch.rand(2, 3, 32, 48), {"Grad-CAM": torch.rand(2, 4, 6)}, captions=["cat", "dog"])
    >>> drawn.account["rows"][0]["enlargement"]
    'bilinear'
    """
    images = panel_images(images, {"captions": captions, "boxes": boxes, "masks": masks})
    given = panel_maps(maps)
    look, page = check_look(Look(blend, fade, list(contours))), find_template(template)
    choice = ScaleChoice(scale, scales or {}, limit, cmap, MOST_BLOCKS, tuple(from_least)).checked(list(given))
    if boxes is not None:
        check_boxes(boxes, (images.shape[2], images.shape[3]))
    as_rgb(images, channels)  # raises an error if channels have to be chosen
    chosen = None if channels is None else tuple(channels)
    shown = downscaled(Shown(images, given, boxes, masks, original_size, chosen))
    rows = rows_of(shown.maps, len(images), shown.size, choice)
    texts = PanelTexts(list(captions or []), title, note, _groups(groups, list(given)))
    figure = _draw(shown, rows, texts, look, page, axes)
    if axes is not None:
        return Panel(figure, account(_KIND, _facts(shown, rows), record))
    beside = {
        "captions": None if captions is None else texts.captions,
        "title": title,
        "note": note,
        "scale": scale,
        "scales": dict(scales or {}),
        "limit": limit,
        "from_least": list(from_least),
        "cmap": cmap,
        "groups": None if groups is None else dict(groups),
        "template": template,
    }
    return build_panel(_KIND, figure, _facts(shown, rows), {**_arguments(shown), **beside, **look._asdict()}, record)


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


def _groups(groups: Mapping[str, str] | None, rows: Sequence[str]) -> list[str]:
    """Return the group of each row; raise `InputError` for a row that is none."""
    if groups is None:
        return []
    for label in groups:
        if label not in rows:
            raise unknown("row of groups", label, list(rows))
    return [groups.get(label, "") for label in rows]


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


def _draw(
    shown: Shown, rows: list[PanelRow], given: PanelTexts, look: Look, page: Template, axes: Axes | None
) -> Figure:
    photos = as_rgb(shown.images, shown.channels).detach().cpu().double().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    names, ticks = [(row.content.label, row.note) for row in rows], [text for row in rows for text in row.scale.labels]
    foot = " ".join([*_notes(shown), *([given.note] if given.note else [])])
    texts = Texts(names, ticks, given.captions, foot, given.title)
    if axes is not None:
        page = _page_within(axes, page)
    with settings(page, [*texts.all(), *given.groups]):
        if len(photos) == 1:
            strip = lay_out_strip(texts, rows, given.groups, shown.size, page)
            canvas = _canvas(strip.size, look, page, axes)
            drawn = [(0, draw_strip(canvas, strip, texts, photos[0], rows))]
        else:
            layout, labels, heads = lay_out(texts, len(photos), shown.size, page)
            canvas = _canvas(layout.size, look, page, axes)
            drawn = draw_grid(canvas, layout, texts, photos, rows, labels, heads)
        for column, picture in drawn:
            _draw_outlines(picture, shown, column, page.unit)
    return canvas.figure


def _page_within(axes: Axes, page: Template) -> Template:
    """Return a page with the size of the given axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # which gives the axes their place
    box, (wide, high) = axes.get_position(), figure.get_size_inches()
    return page._replace(width=box.width * wide, height=box.height * high)


def _canvas(size: Corner, look: Look, page: Template, axes: Axes | None) -> Canvas:
    """Return a new figure of the given size, or the place of the given axes, at the middle of which the panel lies."""
    if axes is None:
        return Canvas(Figure(figsize=size), (0.0, 0.0), page, look)
    if size[0] > 1.01 * page.width or size[1] > 1.01 * page.height:
        raise InputError(
            f"the panel takes {size[0]:.1f} x {size[1]:.1f} inches and the axes have {page.width:.1f} x "
            f"{page.height:.1f}; give larger axes, or fewer images or rows"
        )
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    axes.set_axis_off()
    box, (wide, high) = axes.get_position(), figure.get_size_inches()
    corner = box.x0 * wide + (page.width - size[0]) / 2, box.y0 * high + (page.height - size[1]) / 2
    return Canvas(figure, corner, page, look)


def _notes(shown: Shown) -> list[str]:
    notes = []
    if shown.original_size is not None:
        (high, wide), (height, width) = shown.original_size, shown.size
        notes.append(f"Images of {wide}{TIMES}{high} pixels, drawn as {width}{TIMES}{height}.")
    if shown.channels is not None:
        named = ", ".join(map(str, shown.channels))
        drawn = f"Channel {named} of" if len(shown.channels) == 1 else f"Channels {named} as red, green, blue, of"
        notes.append(f"{drawn} {shown.images.shape[1]} (from 0).")
    return notes


def _draw_outlines(axes: Axes, shown: Shown, column: int, unit: float) -> None:
    """Draw mask and box of an image on its picture."""
    if shown.masks is not None:
        draw_mask(axes, shown.masks[column].cpu().numpy(), unit)
    if shown.boxes is not None and not shown.boxes[column].isnan().all():
        draw_box(axes, shown.boxes[column].cpu().double().numpy(), unit)
