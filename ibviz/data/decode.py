"""Decoding of image files, and resizing of images to one size."""

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
from ibviz.reading import AnyPath, parsing, read_bytes
from ibviz.types import Grid

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")  # Pillow's names, recognised by content; PPM covers PGM
_MOST_BYTES = 2**29  # per file
_MOST_PIXELS = 120_000_000  # per image: enough for a phone's 108 megapixels, and 0.4 GB as RGB
_MOST_STRETCHED = 200  # ratio of sides; resizing a longer image by its short side would take gigabytes
_STRETCHED = f"one side is over {_MOST_STRETCHED} times as long as the other"
_REMOVE = "replace or remove it"
_TURNS = {  # from EXIF's orientation tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: AnyPath) -> Image.Image:
    """Read an image file as upright RGB; alpha is dropped, greyscale and palette images are converted.

    Reads JPEG, PNG, WebP, BMP, TIFF, PPM, PGM and GIF. 16-bit grey is scaled to 8 bits, and floats are taken to lie in
    [0, 1]. Of an animation the first image is read, and of a TIFF the first page if the next has another size.

    Raises:
        InputError: If the file cannot be decoded, holds 32-bit grey, whose white level is unknown, or is a stack of
            pages, of which none is known to be the one that is meant.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "grey.png"
    >>> Image.new("L", (3, 2), 7).save(path)
    >>> read_image(path).getpixel((0, 0))
    (7, 7, 7)
    """
    return decode(read_file(Path(path)), str(path))


def read_file(path: Path) -> bytes:
    """Read the bytes of an image file; anything but a regular file of at most 512 MiB is an `InputError`."""
    return read_bytes(path, most=_MOST_BYTES, what="image")


def decode(encoded: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file as upright RGB; `name` is used in the error message.

    >>> decode(b"not an image", "note.jpg")
    Traceback (most recent call last):
    ibviz.errors.InputError: cannot decode note.jpg as an image: unknown format or not an image; replace or remove it
    """
    stored = decode_stored(encoded, name)
    with parsing(f"cannot decode {name} as an image", _REMOVE):
        return _as_rgb(_upright(stored), white=65535 if stored.format == "PPM" else None)


def decode_stored(encoded: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file without conversion; the size is checked before anything is decoded."""
    with parsing(f"cannot decode {name} as an image", _REMOVE), catch_warnings():
        simplefilter("ignore")  # Pillow warns of damaged metadata and of large images
        try:
            image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        except Image.UnidentifiedImageError as error:
            raise ValueError("unknown format or not an image") from error
        _check_size(*image.size)
        if image.format == "TIFF":
            _refuse_stack(image)
        image.load()
    return image


def _refuse_stack(image: Image.Image) -> None:
    """Refuse a TIFF with a second page as large as the first; a smaller one is a thumbnail, as cameras write it."""
    size = image.size
    try:
        image.seek(1)
    except EOFError:
        return
    if image.size == size:
        raise ValueError("it is a stack of pages of one size; save the page that is meant as a file of its own")
    image.seek(0)


def _check_size(width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {_MOST_PIXELS:,}")
    if max(width, height) > _MOST_STRETCHED * min(width, height):
        raise ValueError(f"of {width}x{height} pixels {_STRETCHED}")


def _upright(image: Image.Image) -> Image.Image:
    """Rotate or mirror an image as its EXIF orientation says; unreadable EXIF is ignored."""
    orientation = None
    with suppress(Exception), catch_warnings():  # it is documented nowhere which errors an EXIF parser raises
        simplefilter("ignore")
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image, white: int | None) -> Image.Image:
    """Convert to RGB; `white` is the largest value of 32-bit grey, None if unknown."""
    if image.mode.startswith("I;16"):  # Pillow would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        return _scaled(np.asarray(image), white).convert("RGB")
    if image.mode == "F":
        return _scaled(np.asarray(image), 1).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about a direct conversion
        image = image.convert("RGBA")
    return image.convert("RGB")


def _scaled(grey: np.ndarray, white: int | None) -> Image.Image:
    if white is None:
        raise ValueError("grey of 32-bit integers does not say what is white; save it with 8 or 16 bits")
    low, high = float(grey.min()), float(grey.max())
    if not 0 <= low <= high <= white:  # also true of NaN, which compares false
        raise ValueError(f"its grey values should lie in [0, {white}], but reach from {low:g} to {high:g}")
    return Image.fromarray(np.rint(grey * np.float32(255 / white)).astype(np.uint8))


def fit(image: Image.Image, size: int | Grid, resize: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Resize and crop an image as `fitted` does, and return its bytes as a tensor.

    >>> fit(Image.new("RGB", (30, 20)), 8).shape
    torch.Size([3, 8, 8])
    """
    return to_tensor(fitted(image, size, resize))


def fitted(thing: Any, size: int | Grid, resize: int | None = None) -> Any:
    """Resize the short side to `resize` (default `size`) with antialiased bilinear, then crop the centre.

    If `size` is a height and a width, the image is resized to cover a frame of that aspect ratio whose short side is
    `resize`.

    Args:
        thing: An RGB image, or its boxes or masks as `tv_tensors`, which are transformed alike.
        size: Side of a square crop, or its height and width, in pixels.
        resize: Short side before the crop in pixels, at least that of the crop.

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
    if max(sides) > _MOST_STRETCHED * min(sides):  # an image that was in no file
        raise InputError(f"cannot resize {sides[1]}x{sides[0]} pixels by their short side: {_STRETCHED}")
    if isinstance(size, int):
        return functional.center_crop(functional.resize(thing, [short]), crop)
    scale = short / min(crop) * max(wanted / side for wanted, side in zip(crop, sides, strict=True))
    covering = [max(wanted, round(side * scale)) for wanted, side in zip(crop, sides, strict=True)]
    return functional.center_crop(functional.resize(thing, covering), crop)


def to_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Convert an RGB image to bytes with the channels first.

    >>> to_tensor(Image.new("RGB", (2, 1), (1, 2, 3)))[:, 0, 0]
    tensor([1, 2, 3], dtype=torch.uint8)
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_png(pixels: UInt8[Tensor, "3 h w"]) -> bytes:
    """Encode an image losslessly as a PNG file.

    >>> to_png(torch.zeros(3, 2, 2, dtype=torch.uint8))[1:4]
    b'PNG'
    """
    out = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(out, "PNG")
    return out.getvalue()
