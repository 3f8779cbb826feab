"""Drawing of photographs, maps, contours, boxes and masks on axes that count the photograph's pixels."""

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

from ibviz.figures.scale import FloatArray, Scale
from ibviz.types import Grid

BLEND = 0.6
TONES = (0.2, 0.9)  # greys of black and white, so that the map's lightness stands out from the photograph's
LUMINANCE_WEIGHTS = (0.2126, 0.7152, 0.0722)
THICK, THIN = 0.8, 0.5  # points, on paper
FINER = 8  # points of a contour per cell
BLOCKY = 64  # pixels of the shorter side up to which a photograph is drawn without interpolation


class Look(NamedTuple):
    """Appearance of maps over photographs."""

    blend: float = BLEND  # opacity of the map
    fade: bool = False  # opacity falls with the value
    contours: Sequence[float] = ()  # lines at these fractions of the scale

    def opacity(self, scale: Scale) -> FloatArray:
        """Opacity of each colour of a scale."""
        return self.blend * (scale.strength if self.fade else np.ones_like(scale.strength))


def toned(photo: FloatArray) -> FloatArray:
    """Convert a photograph `(h, w, 3)` in [0, 1] to grey `(h, w)` between `TONES`.

    >>> toned(np.ones((1, 1, 3))).round(3).tolist()
    [[0.9]]
    """
    return TONES[0] + (TONES[1] - TONES[0]) * (photo @ np.array(LUMINANCE_WEIGHTS))


def translucent(colours: Colormap, opacity: FloatArray | float) -> Colormap:
    """Make colours translucent, with one opacity for all or one for each.

    The `alpha` of `imshow` does not serve: matplotlib applies it twice in a PDF or SVG.

    >>> translucent(ListedColormap(["white"]), 0.5)(0) == (1.0, 1.0, 1.0, 0.5)
    True
    """
    return ListedColormap(np.insert(_pure(colours), 3, opacity, axis=1))


def printed(colours: Colormap, opacity: FloatArray | float) -> Colormap:
    """Blend colours with the middle grey of a photograph, as the colour bar shows them.

    >>> printed(ListedColormap(["white"]), 1.0)(0)[:3] == (1.0, 1.0, 1.0)
    True
    """
    pure = _pure(colours)
    share = np.broadcast_to(opacity, len(pure))[:, None]
    return ListedColormap(share * pure + (1 - share) * sum(TONES) / 2)


def _pure(colours: Colormap) -> FloatArray:
    return np.asarray(colours(np.arange(colours.N)))[:, :3]


def photo_interpolation(size: Grid) -> str:
    """Choose matplotlib's interpolation: none for a small photograph, antialiased for a large one.

    >>> photo_interpolation((32, 32)), photo_interpolation((224, 224))
    ('nearest', 'antialiased')
    """
    return "nearest" if min(size) <= BLOCKY else "antialiased"


def draw_photo(axes: Axes, photo: FloatArray) -> None:
    """Draw a photograph, grey `(h, w)` or in colour `(h, w, 3)`, on axes that count its pixels."""
    height, width = photo.shape[:2]
    interpolation = photo_interpolation((height, width))
    axes.imshow(photo, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0), interpolation=interpolation)


def draw_map(axes: Axes, values: FloatArray, scale: Scale, *, interpolation: str, look: Look) -> None:
    """Draw a map of any grid over the whole of a photograph that has been drawn."""
    axes.imshow(
        values,
        cmap=translucent(scale.colours, look.opacity(scale)),
        norm=scale.norm,
        extent=(*axes.get_xlim(), *axes.get_ylim()),
        interpolation=interpolation,
        interpolation_stage="data",  # interpolated colours may not be on the bar
    )


def contour_levels(scale: Scale, look: Look) -> list[float]:
    """Return the values of the requested contours, which are given as fractions of the scale.

    >>> from ibviz.figures.scale import map_scale
    >>> contour_levels(map_scale(np.array([0.0, 4.0])), Look(contours=[0.5]))
    [2.0]
    """
    low, high = scale.limits
    return [low + share * (high - low) for share in look.contours]


def draw_contour(axes: Axes, values: FloatArray, level: float, smooth: bool, unit: float) -> None:
    """Draw the contour of a map at `level`: on the bilinear enlargement if `smooth`, else along the edges of cells."""
    (rows, columns), width, height = values.shape, axes.get_xlim()[1], axes.get_ylim()[0]
    lines = _smooth_contour(values, level) if smooth else outline_segments(values >= level)
    pitch = np.array([width / columns, height / rows])
    axes.add_collection(LineCollection([line * pitch for line in lines], **outline(unit, THIN)), autolim=False)


def _smooth_contour(values: FloatArray, level: float) -> list[FloatArray]:
    """Contour lines `(points, 2)` of x, y in cells on the bilinear enlargement, constant in the outer half cell."""
    from skimage.measure import find_contours

    cells = torch.from_numpy(np.pad(values, 1, mode="edge"))[None, None]
    size = [(side - 1) * FINER + 1 for side in cells.shape[2:]]
    fine = interpolate(cells, size, mode="bilinear", align_corners=True)[0, 0].numpy()
    return [line[:, ::-1] / FINER - 0.5 for line in find_contours(fine, level)]


def draw_box(axes: Axes, box: FloatArray, unit: float) -> None:
    """Draw a box given as x0, y0, x1, y1 in pixels."""
    axes.add_patch(Rectangle((box[0], box[1]), box[2] - box[0], box[3] - box[1], fill=False, **outline(unit)))


def draw_mask(axes: Axes, mask: NDArray[np.bool_], unit: float) -> None:
    """Draw the outline of a mask along the edges of its pixels; an empty mask has none."""
    axes.add_collection(LineCollection(outline_segments(mask), capstyle="projecting", **outline(unit)), autolim=False)


def outline(unit: float, width: float = THICK) -> dict[str, Any]:
    """Line style visible on any photograph, white with black rims; `width` in points on paper."""
    rims = [withStroke(linewidth=2.25 * width * unit, foreground="black"), Normal()]
    return {"color": "white", "linewidth": width * unit, "path_effects": rims}


def outline_segments(mask: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Return the segments `((x, y), (x, y))` between inside and outside, which includes the border of the image.

    >>> len(outline_segments(np.array([[True, True]])))
    6
    """
    padded = np.pad(mask, 1).astype(np.int8)
    rows, columns = np.nonzero(np.diff(padded, axis=0)[:, 1:-1])
    flat = np.stack([np.stack([columns, rows], 1), np.stack([columns + 1, rows], 1)], 1)
    rows, columns = np.nonzero(np.diff(padded, axis=1)[1:-1])
    steep = np.stack([np.stack([columns, rows], 1), np.stack([columns, rows + 1], 1)], 1)
    return [*flat, *steep]
