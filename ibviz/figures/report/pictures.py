"""Encoding of photographs for a page: losslessly if their pixels are visible, otherwise as JPEG copies."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from ibviz.errors import InputError
from ibviz.figures.drawing import BLOCKY
from ibviz.figures.report.contents import Picture
from ibviz.figures.report.inline import as_text
from ibviz.types import Grid

_LARGEST = 448  # pixels of the longer side of a copy, at most
QUALITY = 85


def size_of(pictures: Sequence[Picture]) -> Grid:
    """Return the height and width of all pictures, which must be equal."""
    sizes = {picture.pixels.shape[:2] for picture in pictures}
    if len(sizes) != 1:
        raise InputError(f"a report needs pictures of one size, at least one of them; got sizes {sorted(sizes)}")
    [(height, width)] = sizes
    return height, width


def pack_picture(picture: Picture) -> dict[str, Any]:
    """Encode name, label and pixels of a picture, and its box in fractions of the sides."""
    from PIL import Image

    height, width = picture.pixels.shape[:2]
    image, file = Image.fromarray(picture.pixels), BytesIO()
    exact = is_exact((height, width))
    if not exact:
        image.thumbnail((_LARGEST, _LARGEST))
    image.save(file, **({"format": "PNG"} if exact else {"format": "JPEG", "quality": QUALITY}))
    box = None if picture.box is None else np.divide(picture.box, (width, height, width, height)).round(5).tolist()
    source = f"data:image/{'png' if exact else 'jpeg'};base64,{as_text(file.getvalue())}"
    return {"name": picture.name, "label": picture.label, "box": box, "source": source}


def is_exact(size: Grid) -> bool:
    """Return True if photographs of this size are stored losslessly and shown pixel by pixel, as in printed figures.

    >>> is_exact((48, 48)), is_exact((224, 224))
    (True, False)
    """
    return min(size) <= BLOCKY and max(size) <= _LARGEST


def remark(size: Grid) -> str:
    """Return the remark of a page on its photographs.

    >>> remark((48, 48))
    'Photographs are stored exactly and shown pixel by pixel.'
    """
    if is_exact(size):
        return "Photographs are stored exactly and shown pixel by pixel."
    smaller = f", made smaller to {_LARGEST} pixels" if max(size) > _LARGEST else ""
    return f"Photographs are JPEG copies for display{smaller}."
