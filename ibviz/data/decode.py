"""From a file to pixels of one size, and boxes that follow."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ibviz.errors import InputError
from ibviz.types import Boxes

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a broken file


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB, upright; alpha is dropped, grey and palette are converted.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "grey.png"
    >>> Image.new("L", (3, 2), 7).save(path)
    >>> read_image(path).getpixel((0, 0))
    (7, 7, 7)
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read image {path}: {error.strerror}") from error
    return decode(encoded, str(path))


def decode(encoded: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file as RGB, upright; `name` is for the error.

    >>> decode(b"not an image", "note.jpg")
    Traceback (most recent call last):
    ibviz.errors.InputError: cannot decode note.jpg as an image: unknown format or not an image; replace or remove it
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return _as_rgb(ImageOps.exif_transpose(image))
    except UNREADABLE as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "unknown format or not an image" if unknown else str(error)
        raise InputError(f"cannot decode {name} as an image: {reason}; replace or remove it") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def fit(image: Image.Image, size: int, resize: int | None = None) -> UInt8[Tensor, "3 {size} {size}"]:
    """Resize the short side to `resize` (default `size`) with antialiased bilinear, then crop the centre.

    Same grid as torchvision's Resize and CenterCrop.

    >>> fit(Image.new("RGB", (30, 20)), 8).shape
    torch.Size([3, 8, 8])
    """
    resized = resized_size(image.size, size, resize)
    left, top = _corner(resized, size)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BILINEAR)
    return to_tensor(image.crop((left, top, left + size, top + size)))


def fit_boxes(boxes: Boxes, source: tuple[int, int], size: int, resize: int | None = None) -> Boxes:
    """Where `fit` moves boxes of an image of `source` (width, height); clipped, NaN where nothing is left.

    >>> fit_boxes(torch.tensor([[100.0, 0.0, 200.0, 100.0]]), (400, 200), 50)
    tensor([[ 0.,  0., 25., 25.]])
    """
    width, height = resized_size(source, size, resize)
    scale = torch.tensor([width / source[0], height / source[1]] * 2)
    moved = (boxes * scale - torch.tensor(_corner((width, height), size) * 2)).clamp(0, size)
    moved[(moved[:, 2:] <= moved[:, :2]).any(1)] = torch.nan
    return moved


def resized_size(source: tuple[int, int], size: int, resize: int | None = None) -> tuple[int, int]:
    """Width and height after the short side became `resize`, before the crop of `size`.

    >>> resized_size((400, 201), 50)
    (99, 50)
    """
    short = resize or size
    if short < size:
        raise InputError(f"resize must be at least the crop size {size}; got {resize}")
    width, height = source
    return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)


def _corner(resized: tuple[int, int], size: int) -> tuple[int, int]:
    return round((resized[0] - size) / 2), round((resized[1] - size) / 2)


def to_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Bytes of an RGB image, channels first.

    >>> to_tensor(Image.new("RGB", (2, 1), (1, 2, 3)))[:, 0, 0]
    tensor([1, 2, 3], dtype=torch.uint8)
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
