"""Encoding of photographs for a page: losslessly if their pixels are visible, otherwise as JPEG copies."""

import math
from collections.abc import Sequence
from io import BytesIO
from statistics import fmean
from typing import Any

import numpy as np

from ibviz.errors import InputError
from ibviz.figures.drawing import BLOCKY
from ibviz.figures.report.contents import Picture
from ibviz.figures.report.inline import as_text
from ibviz.types import Grid

_SIDES = (448, 320, 224, 160, 112)  # pixels of the longer side of a copy at most; the first within the budget is taken
_LARGEST = _SIDES[0]
_BUDGET = 24_000_000  # bytes of all photographs; their text is a third longer
_SAMPLE = 16  # photographs from which the size of all is estimated
QUALITY = 85


def size_of(pictures: Sequence[Picture]) -> Grid:
    """Return the height and width of all pictures, which must be equal."""
    sizes = {picture.pixels.shape[:2] for picture in pictures}
    if len(sizes) != 1:
        raise InputError(f"a report needs pictures of one size, at least one of them; got sizes {sorted(sizes)}")
    [(height, width)] = sizes
    return height, width


def copy_side(pictures: Sequence[Picture]) -> int:
    """Return the longer side in pixels, at most, with which JPEG copies of all pictures fit into the budget."""
    sample = pictures[:: math.ceil(len(pictures) / _SAMPLE)]
    fits = (
        side for side in _SIDES if fmean(len(_jpeg(picture, side)) for picture in sample) * len(pictures) <= _BUDGET
    )
    return next(fits, _SIDES[-1])


def pack_pictures(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Encode name, label and pixels of pictures of one size, and their boxes in fractions of the sides."""
    exact = is_exact(size_of(pictures))
    side = 0 if exact else copy_side(pictures)
    return [_pack(picture, _png(picture) if exact else _jpeg(picture, side), exact) for picture in pictures]


def _pack(picture: Picture, encoded: bytes, exact: bool) -> dict[str, Any]:
    height, width = picture.pixels.shape[:2]
    box = None if picture.box is None else np.divide(picture.box, (width, height, width, height)).round(5).tolist()
    source = f"data:image/{'png' if exact else 'jpeg'};base64,{as_text(encoded)}"
    return {"name": picture.name, "label": picture.label, "box": box, "source": source}


def _png(picture: Picture) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture.pixels).save(file, format="PNG")
    return file.getvalue()


def _jpeg(picture: Picture, side: int) -> bytes:
    from PIL import Image

    image, file = Image.fromarray(picture.pixels), BytesIO()
    image.thumbnail((side, side))
    image.save(file, format="JPEG", quality=QUALITY)
    return file.getvalue()


def is_exact(size: Grid) -> bool:
    """Return True if photographs of this size are stored losslessly and shown pixel by pixel, as in printed figures.

    >>> is_exact((48, 48)), is_exact((224, 224))
    (True, False)
    """
    return min(size) <= BLOCKY and max(size) <= _LARGEST


def remark(pictures: Sequence[Picture]) -> str:
    """Return the remark of a page on its photographs.

    >>> remark([Picture("a", np.zeros((48, 48, 3), np.uint8))])
    'Photographs are stored exactly and shown pixel by pixel.'
    """
    size = size_of(pictures)
    if is_exact(size):
        return "Photographs are stored exactly and shown pixel by pixel."
    side = copy_side(pictures)
    smaller = f", made smaller to {side} pixels" if max(size) > side else ""
    return f"Photographs are JPEG copies for display{smaller}."
