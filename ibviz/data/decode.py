"""From a file to pixels of one size."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ibviz.errors import InputError
from ibviz.types import Grid

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


def fit(image: Image.Image, size: int | Grid, resize: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Bytes of what is left of an image after `fitted`.

    >>> fit(Image.new("RGB", (30, 20)), 8).shape
    torch.Size([3, 8, 8])
    """
    return to_tensor(fitted(image, size, resize))


def fitted(thing: Any, size: int | Grid, resize: int | None = None) -> Any:
    """Resize the short side to `resize` (default `size`) with antialiased bilinear, then crop the centre.

    For height and width that differ, `resize` is the short side of a frame in their proportion, which the image is
    resized to cover.

    An RGB image, or the boxes or masks of its objects as `tv_tensors`, which then lie where their pixels went.

    >>> fitted(Image.new("RGB", (30, 20)), 8, 10).size
    (8, 8)
    >>> fitted(Image.new("RGB", (30, 20)), (8, 16)).size
    (16, 8)
    """
    from torchvision.transforms.v2 import functional  # noqa: PLC0415 - slow to import

    crop = [size, size] if isinstance(size, int) else list(size)
    short = resize or min(crop)
    if short < min(crop):
        raise InputError(f"resize must be at least the crop size {size}; got {resize}")
    if isinstance(size, int):
        return functional.center_crop(functional.resize(thing, [short]), crop)
    sides = functional.get_size(thing)
    scale = short / min(crop) * max(wanted / side for wanted, side in zip(crop, sides, strict=True))
    covering = [max(wanted, round(side * scale)) for wanted, side in zip(crop, sides, strict=True)]
    return functional.center_crop(functional.resize(thing, covering), crop)


def to_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Bytes of an RGB image, channels first.

    >>> to_tensor(Image.new("RGB", (2, 1), (1, 2, 3)))[:, 0, 0]
    tensor([1, 2, 3], dtype=torch.uint8)
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_png(pixels: UInt8[Tensor, "3 h w"]) -> bytes:
    """An image as a PNG file, which keeps every bit of it.

    >>> to_png(torch.zeros(3, 2, 2, dtype=torch.uint8))[1:4]
    b'PNG'
    """
    out = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(out, "PNG")
    return out.getvalue()
