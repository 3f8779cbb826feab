"""A map over a photograph: toned down so that both stay readable, enlarged onto exactly its pixels."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, withStroke
from numpy.typing import NDArray

from ibviz.figures.scale import Scale, Values
from ibviz.types import Grid

BLEND = 0.6
TONES = (0.2, 0.9)  # greys that black and white become: the map's lightness must stand out from the photograph's
LUMINANCE = (0.2126, 0.7152, 0.0722)
BLOCKY = 64  # a photograph with a shorter side up to this shows its pixels
OUTLINE: dict[str, Any] = {
    "edgecolor": "white",
    "linewidth": 0.8,
    "path_effects": [withStroke(linewidth=1.8, foreground="black"), Normal()],
}


def toned(photo: Values) -> Values:
    """Grey photograph `(h, w)` between `TONES`, from colours `(h, w, 3)` in [0, 1].

    >>> toned(np.ones((1, 1, 3))).round(3).tolist()
    [[0.9]]
    """
    return TONES[0] + (TONES[1] - TONES[0]) * (photo @ np.array(LUMINANCE))


def translucent(colours: Colormap, blend: float) -> Colormap:
    """Colours that let a share of the photograph through.

    Not by the image's own `alpha`: in a PDF or SVG matplotlib applies that twice.

    >>> translucent(ListedColormap(["white"]), 0.5)(0) == (1.0, 1.0, 1.0, 0.5)
    True
    """
    return ListedColormap(np.insert(_pure(colours), 3, blend, axis=1))


def printed(colours: Colormap, blend: float) -> Colormap:
    """Colours as they look over the middle grey of a photograph, for the colour bar.

    >>> printed(ListedColormap(["white"]), 1.0)(0)[:3] == (1.0, 1.0, 1.0)
    True
    """
    return ListedColormap(blend * _pure(colours) + (1 - blend) * sum(TONES) / 2)


def _pure(colours: Colormap) -> Values:
    return np.asarray(colours(np.arange(colours.N)))[:, :3]


def photo_interpolation(size: Grid) -> str:
    """Show pixels of a small photograph as they are; resample a large one without aliasing.

    >>> photo_interpolation((32, 32)), photo_interpolation((224, 224))
    ('nearest', 'antialiased')
    """
    return "nearest" if min(size) <= BLOCKY else "antialiased"


def draw_photo(axes: Axes, photo: Values) -> None:
    """Draw a photograph, grey `(h, w)` or coloured `(h, w, 3)`, on axes that count its pixels."""
    height, width = photo.shape[:2]
    interpolation = photo_interpolation((height, width))
    axes.imshow(photo, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0), interpolation=interpolation)


def draw_map(axes: Axes, values: Values, scale: Scale, *, interpolation: str, blend: float) -> None:
    """Lay a map of any grid over the whole photograph that is drawn already."""
    axes.imshow(
        values,
        cmap=translucent(scale.colours, blend),
        norm=scale.norm,
        extent=(*axes.get_xlim(), *axes.get_ylim()),
        interpolation=interpolation,
        interpolation_stage="data",  # colours between colours may be on no bar
    )


def draw_box(axes: Axes, box: Values) -> None:
    """Outline a box given as x0, y0, x1, y1 in pixels."""
    axes.add_patch(Rectangle((box[0], box[1]), box[2] - box[0], box[3] - box[1], fill=False, **OUTLINE))


def draw_mask(axes: Axes, mask: NDArray[np.bool_]) -> None:
    """Outline a mask along the edges of its pixels; an empty mask has none."""
    axes.add_collection(LineCollection(edges(mask), capstyle="projecting", **OUTLINE), autolim=False)


def edges(mask: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Segments `((x, y), (x, y))` between inside and outside, the border of the image being outside.

    >>> len(edges(np.array([[True, True]])))
    6
    """
    padded = np.pad(mask, 1).astype(np.int8)
    rows, columns = np.nonzero(np.diff(padded, axis=0)[:, 1:-1])
    flat = np.stack([np.stack([columns, rows], 1), np.stack([columns + 1, rows], 1)], 1)
    rows, columns = np.nonzero(np.diff(padded, axis=1)[1:-1])
    steep = np.stack([np.stack([columns, rows], 1), np.stack([columns, rows + 1], 1)], 1)
    return [*flat, *steep]
