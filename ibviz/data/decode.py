"""From a file to pixels of one size."""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image
from torch import Tensor

from ibviz.errors import InputError
from ibviz.reading import parsing, read_bytes
from ibviz.types import Grid

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")  # of Pillow's, told by the content; PPM is PGM as well
MOST_BYTES = 2**29  # of a file
MOST_PIXELS = 120_000_000  # of an image: a phone's 108 megapixels, and 0.4 GB as RGB
MOST_STRETCHED = 200  # times that one side is as long as the other: resized by its short side, more takes gigabytes
STRETCHED = f"one side is over {MOST_STRETCHED} times as long as the other"
REMOVE = "replace or remove it"
TURNS = {  # by EXIF's number of how the camera was held
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB, upright; alpha is dropped, grey and palette are converted.

    Files of `FORMATS` are read. Grey of 16 bits is scaled to 8, floats are taken to lie in [0, 1]; grey of 32 bits does
    not say what is white and is refused. Of several pictures in a file the first is read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "grey.png"
    >>> Image.new("L", (3, 2), 7).save(path)
    >>> read_image(path).getpixel((0, 0))
    (7, 7, 7)
    """
    return decode(read_file(path), str(path))


def read_file(path: Path) -> bytes:
    """Read the bytes of an image file; what is no regular file, or has more than `MOST_BYTES`, is refused."""
    return read_bytes(path, most=MOST_BYTES, what="image")


def decode(encoded: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file as RGB, upright; `name` is for the error.

    >>> decode(b"not an image", "note.jpg")
    Traceback (most recent call last):
    ibviz.errors.InputError: cannot decode note.jpg as an image: unknown format or not an image; replace or remove it
    """
    stored = decode_stored(encoded, name)
    with parsing(f"cannot decode {name} as an image", REMOVE):
        return _as_rgb(_upright(stored), white=65535 if stored.format == "PPM" else None)


def decode_stored(encoded: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file as they are stored; its size is checked before anything is decoded."""
    with parsing(f"cannot decode {name} as an image", REMOVE), catch_warnings():
        simplefilter("ignore")  # Pillow tells of damaged metadata and of large images
        try:
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        except Image.UnidentifiedImageError as error:
            raise ValueError("unknown format or not an image") from error
        _check_size(*image.size)
        image.load()
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MOST_PIXELS:,}")
    if max(width, height) > MOST_STRETCHED * min(width, height):
        raise ValueError(f"of {width}x{height} pixels {STRETCHED}")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF says; if that cannot be read, the pixels are sound all the same."""
    orientation = None
    with suppress(Exception), catch_warnings():  # no parser of EXIF says what it raises over the files of phones
        simplefilter("ignore")
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image, white: int | None) -> Image.Image:
    """Convert to RGB; `white` is the largest value of 32-bit grey, None where nobody knows it."""
    if image.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        return _scaled(np.asarray(image), white).convert("RGB")
    if image.mode == "F":
        return _scaled(np.asarray(image), 1).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def _scaled(grey: np.ndarray, white: int | None) -> Image.Image:
    if white is None:
        raise ValueError("grey of 32-bit integers does not say what is white; save it with 8 or 16 bits")
    low, high = float(grey.min()), float(grey.max())
    if not 0 <= low <= high <= white:  # false beside NaN
        raise ValueError(f"its grey values should lie in [0, {white}], but reach from {low:g} to {high:g}")
    return Image.fromarray(np.rint(grey * np.float32(255 / white)).astype(np.uint8))


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
    from torchvision.transforms.v2 import functional

    crop = [size, size] if isinstance(size, int) else list(size)
    short = resize or min(crop)
    if short < min(crop):
        raise InputError(f"resize must be at least the crop size {size}; got {resize}")
    sides = functional.get_size(thing)
    if max(sides) > MOST_STRETCHED * min(sides):  # an image that was in no file
        raise InputError(f"cannot resize {sides[1]}x{sides[0]} pixels by their short side: {STRETCHED}")
    if isinstance(size, int):
        return functional.center_crop(functional.resize(thing, [short]), crop)
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
