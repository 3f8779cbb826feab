"""A map over a photograph: toned down so that both stay readable, enlarged onto exactly its pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, withStroke
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from ibviz.figures.scale import Scale, Values
from ibviz.types import Grid

BLEND = 0.6
TONES = (0.2, 0.9)  # greys that black and white become: the map's lightness must stand out from the photograph's
LUMINANCE = (0.2126, 0.7152, 0.0722)
THICK, THIN = 0.8, 0.5  # points, on paper
FINER = 8  # points of a contour a cell
BLOCKY = 64  # a photograph with a shorter side up to this shows its pixels


class Look(NamedTuple):
    """How maps lie over photographs: their share, whether it fades with the value, and lines at shares of the scale."""

    blend: float = BLEND
    fade: bool = False
    contours: Sequence[float] = ()

    def opacity(self, scale: Scale) -> Values:
        """Share of the map for each colour of a scale."""
        return self.blend * (scale.strength if self.fade else np.ones_like(scale.strength))


def toned(photo: Values) -> Values:
    """Grey photograph `(h, w)` between `TONES`, from colours `(h, w, 3)` in [0, 1].

    >>> toned(np.ones((1, 1, 3))).round(3).tolist()
    [[0.9]]
    """
    return TONES[0] + (TONES[1] - TONES[0]) * (photo @ np.array(LUMINANCE))


def translucent(colours: Colormap, opacity: Values | float) -> Colormap:
    """Colours that let a share of the photograph through, one share for all or one for each.

    Not by the image's own `alpha`: in a PDF or SVG matplotlib applies that twice.

    >>> translucent(ListedColormap(["white"]), 0.5)(0) == (1.0, 1.0, 1.0, 0.5)
    True
    """
    return ListedColormap(np.insert(_pure(colours), 3, opacity, axis=1))


def printed(colours: Colormap, opacity: Values | float) -> Colormap:
    """Colours as they look over the middle grey of a photograph, for the colour bar.

    >>> printed(ListedColormap(["white"]), 1.0)(0)[:3] == (1.0, 1.0, 1.0)
    True
    """
    pure = _pure(colours)
    share = np.broadcast_to(opacity, len(pure))[:, None]
    return ListedColormap(share * pure + (1 - share) * sum(TONES) / 2)


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


def draw_map(axes: Axes, values: Values, scale: Scale, *, interpolation: str, look: Look) -> None:
    """Lay a map of any grid over the whole photograph that is drawn already."""
    axes.imshow(
        values,
        cmap=translucent(scale.colours, look.opacity(scale)),
        norm=scale.norm,
        extent=(*axes.get_xlim(), *axes.get_ylim()),
        interpolation=interpolation,
        interpolation_stage="data",  # colours between colours may be on no bar
    )


def contour_levels(scale: Scale, look: Look) -> list[float]:
    """Values at the asked shares of a scale.

    >>> from ibviz.figures.scale import map_scale
    >>> contour_levels(map_scale(np.array([0.0, 4.0])), Look(contours=[0.5]))
    [2.0]
    """
    low, high = scale.limits
    return [low + share * (high - low) for share in look.contours]


def draw_contour(axes: Axes, values: Values, level: float, smooth: bool, unit: float) -> None:
    """Draw the edge of where a map is at least `level`, as it is enlarged: between middles of cells, or along cells."""
    (rows, columns), width, height = values.shape, axes.get_xlim()[1], axes.get_ylim()[0]
    lines = _smooth_contour(values, level) if smooth else edges(values >= level)
    pitch = np.array([width / columns, height / rows])
    axes.add_collection(LineCollection([line * pitch for line in lines], **outline(unit, THIN)), autolim=False)


def _smooth_contour(values: Values, level: float) -> list[Values]:
    """Lines `(points, 2)` of x, y in cells, on the bilinear enlargement; half a cell at the border is level."""
    from skimage.measure import find_contours

    cells = torch.from_numpy(np.pad(values, 1, mode="edge"))[None, None]
    size = [(side - 1) * FINER + 1 for side in cells.shape[2:]]
    fine = interpolate(cells, size, mode="bilinear", align_corners=True)[0, 0].numpy()
    return [line[:, ::-1] / FINER - 0.5 for line in find_contours(fine, level)]


def draw_box(axes: Axes, box: Values, unit: float) -> None:
    """Outline a box given as x0, y0, x1, y1 in pixels."""
    axes.add_patch(Rectangle((box[0], box[1]), box[2] - box[0], box[3] - box[1], fill=False, **outline(unit)))


def draw_mask(axes: Axes, mask: NDArray[np.bool_], unit: float) -> None:
    """Outline a mask along the edges of its pixels; an empty mask has none."""
    axes.add_collection(LineCollection(edges(mask), capstyle="projecting", **outline(unit)), autolim=False)


def outline(unit: float, width: float = THICK) -> dict[str, Any]:
    """A white line with black rims, which is seen on any photograph; `width` in points on paper."""
    rims = [withStroke(linewidth=2.25 * width * unit, foreground="black"), Normal()]
    return {"color": "white", "linewidth": width * unit, "path_effects": rims}


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
