import io
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms, tv_tensors

from ibviz.data.decode import decode, fit, fitted, read_image, to_tensor
from ibviz.errors import InputError


@pytest.fixture
def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_png_bytes_come_back_exactly(noise):
    assert np.array_equal(np.asarray(decode(encoded(noise, "PNG"), "x")), np.asarray(noise))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (9, 8, 7, 0)), (9, 8, 7)),
        (Image.new("L", (2, 2), 5), (5, 5, 5)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (255, 0, 0)).quantize(4), (255, 0, 0)),
        (Image.fromarray(np.full((2, 2), 0x80FF, np.uint16)), (128, 128, 128)),
    ],
    ids=["rgba", "grey", "bits", "palette", "16 bit"],
)
def test_every_mode_becomes_rgb(image, expected):
    assert decode(encoded(image, "PNG"), "x").getpixel((1, 1)) == expected


def test_palette_with_transparent_bytes_raises_no_warning():
    image = Image.new("RGB", (2, 2), (255, 0, 0)).quantize(4)
    assert decode(encoded(image, "PNG", transparency=b"\x00\x10"), "x").getpixel((0, 0)) == (255, 0, 0)


def test_a_photograph_held_upright_is_turned(noise):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to show
    turned = decode(encoded(noise, "PNG", exif=exif), "x")
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(noise), -1))


# What a camera held in each of EXIF's ways has to be turned by.
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
SHORT, LONG, RATIONAL, SIGNED, ASCII = 3, 4, 5, 10, 2


def exif_of(*tags: tuple[int, int, int, bytes], after: bytes = b"", cut: int | None = None) -> bytes:
    """EXIF by hand: tags by number, type, count and the four bytes of their value or its place."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3].ljust(4, b"\0") for tag in tags)
    whole = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + after
    return whole[:cut]


def held(orientation: int) -> tuple[int, int, int, bytes]:
    return (0x0112, SHORT, 1, struct.pack("<H", orientation))


END_OF_TWO = struct.pack("<I", 8 + 2 + 2 * 12 + 4)  # the place of what follows two tags
DAMAGED = {  # beside an orientation that can be read
    "a division by zero": ((0x011A, SIGNED, 1, END_OF_TWO), struct.pack("<ii", -1, 0)),
    "a resolution far outside": ((0x011A, RATIONAL, 1, struct.pack("<I", 2**31)), b""),
    "a type that there is not": ((0x9999, 77, 5, b"abcd"), b""),
    "a count of four billion": ((0x9286, 7, 2**32 - 1, END_OF_TWO), b""),
    "text where a number belongs": ((0x011A, ASCII, 3, b"72"), b""),
    "a sub-folder that is the folder itself": ((0x8769, LONG, 1, struct.pack("<I", 8)), b""),
    "a maker's note outside": ((0x927C, 7, 99, struct.pack("<I", 10**6)), b""),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_damaged_exif_beside_sound_pixels_turns_a_photograph_all_the_same(noise, orientation, damage, kind):
    entry, after = DAMAGED[damage]
    exact = {"lossless": True} if kind == "WEBP" else {}
    photograph = encoded(noise, kind, exif=exif_of(held(orientation), entry, after=after), **exact)
    stored = encoded(noise, kind, **exact)
    plain = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))  # a JPEG is not exact, but the same both times
    assert np.array_equal(np.asarray(decode(photograph, "x")), UPRIGHT[orientation](plain))


@pytest.mark.parametrize("cut", [6, 9, 14, 16, 20])
def test_exif_that_ends_too_soon_leaves_a_photograph_as_it_is_stored(noise, cut):
    photograph = encoded(noise, "PNG", exif=exif_of(held(6), cut=cut))
    assert np.array_equal(np.asarray(decode(photograph, "x")), np.asarray(noise))


@pytest.mark.parametrize("value", [(0x0112, SHORT, 1, b"\x09"), (0x0112, ASCII, 2, b"6")])
def test_an_orientation_that_there_is_not_leaves_a_photograph_as_it_is_stored(noise, value):
    assert np.array_equal(np.asarray(decode(encoded(noise, "PNG", exif=exif_of(value)), "x")), np.asarray(noise))


def test_a_phone_s_file_of_two_pictures_gives_the_first_upright(noise):
    """MPO: a photograph, and behind it a second one, of depth for instance."""
    smooth = Image.fromarray(np.full((8, 12, 3), 200, np.uint8))
    both = encoded(smooth, "MPO", save_all=True, append_images=[noise], exif=exif_of(held(6)))
    assert Image.open(io.BytesIO(both)).format == "MPO"
    turned = decode(both, "x")
    assert turned.size == (8, 12)
    assert np.asarray(turned).min() == np.asarray(turned).max() == 200


RAMP = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)


def pnm(magic: str, levels: int | float, content: bytes, size: tuple[int, int] = (64, 64)) -> bytes:
    return f"{magic}\n{size[0]} {size[1]}\n{levels}\n".encode() + content


@pytest.mark.parametrize(
    "stored",
    [
        encoded(Image.fromarray(RAMP), "PNG"),
        encoded(Image.fromarray(RAMP), "TIFF"),
        encoded(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
        pnm("P5", 65535, RAMP.astype(">u2").tobytes()),
        encoded(Image.fromarray(RAMP.astype(np.float32) / 65535), "TIFF"),
        pnm("Pf", -1.0, (RAMP[::-1].astype("<f4") / 65535).tobytes()),  # rows from the bottom
    ],
    ids=["PNG", "TIFF", "packed TIFF", "big-endian TIFF", "PGM", "TIFF of floats", "PFM"],
)
def test_deep_greys_are_scaled_to_8_bits(stored):
    """Within one step of v / 65535 * 255, as no reader agrees with another on rounding."""
    grey = np.asarray(decode(stored, "x")).astype(float)
    assert grey.shape == (64, 64, 3)
    assert np.abs(grey - RAMP[..., None] / 65535 * 255).max() <= 1


def test_a_coarse_pgm_is_white_at_its_own_maximum():
    coarse = decode(pnm("P5", 1000, np.array([0, 500, 1000, 1000], ">u2").tobytes(), (2, 2)), "x")
    assert np.abs(np.asarray(coarse)[..., 0] - [[0, 127.5], [255, 255]]).max() <= 0.5


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (RAMP.astype(np.int32), "32-bit integers does not say what is white"),
        (RAMP.astype(np.float32), r"should lie in \[0, 1\], but reach from 0 to 65535"),
        (RAMP.astype(np.float32) / 65535 - 0.5, r"reach from -0.5 to 0.5"),
        (np.full((4, 4), np.nan, np.float32), "from nan to nan"),
    ],
    ids=["integers", "large floats", "negative floats", "not a number"],
)
def test_grey_whose_white_nobody_knows_is_refused_in_words(pixels, reason):
    with pytest.raises(InputError, match=rf"cannot decode scan\.tif as an image: .*{reason}"):
        decode(encoded(Image.fromarray(pixels), "TIFF"), "scan.tif")


@pytest.mark.parametrize("kind", ["TGA", "PCX", "ICO", "DDS", "SGI", "PDF", "EPS", "JPEG2000"])
def test_other_formats_that_pillow_knows_are_not_opened(noise, kind):
    stored = encoded(noise.convert("RGB"), kind)
    with pytest.raises(InputError, match=r"cannot decode x as an image: unknown format"):
        decode(stored, "x")


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((1, 60_000), "one side is over 200 times as long"),
        ((50_000, 50), "one side is over 200 times as long"),
        ((13_000, 13_000), "13000x13000 pixels are more than 120,000,000"),
    ],
)
def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(monkeypatch, size, reason):
    stored = encoded(Image.new("1", size), "PNG")
    decoders = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: decoders.append(self))
    with pytest.raises(InputError, match=rf"cannot decode x\.png as an image: .*({reason})"):
        decode(stored, "x.png")
    assert not decoders


def test_an_image_of_nobody_s_file_is_not_stretched_either():
    with pytest.raises(InputError, match=r"cannot resize 1x201 pixels"):
        fit(Image.new("RGB", (1, 201)), 224)


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "folder.jpg", "zero.jpg"):
        with pytest.raises(InputError, match=rf"cannot read image .*{name}: it is no regular file"):
            read_image(tmp_path / name)


def test_a_file_with_a_hole_of_a_terabyte_is_refused(tmp_path):
    with (tmp_path / "hole.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"it has 1,099,511,627,776 bytes"):
        read_image(tmp_path / "hole.png")


@pytest.mark.parametrize("name", ["a" * 5000 + ".jpg", "a\0b.jpg", "\ud800.jpg"])
def test_a_name_that_no_file_can_have_is_one_clear_error(tmp_path, name):
    with pytest.raises(InputError, match="cannot read image"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(("content", "reason"), [(b"hello", "not an image"), (b"", "not an image")])
def test_text_named_jpg_is_one_clear_error(tmp_path, content, reason):
    path = tmp_path / "note.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot decode .*note\.jpg.*{reason}"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_truncated_file_is_one_clear_error(noise, kind):
    whole = encoded(noise, kind)
    with pytest.raises(InputError, match=r"cannot decode half as an image"):
        decode(whole[: len(whole) // 2], "half")


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"cannot read image .*none\.png: No such file"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("size", [(53, 37), (37, 53), (40, 40), (20, 61)])
@pytest.mark.parametrize(("crop", "resize"), [(16, None), (16, 21), (37, None)])
def test_fit_equals_torchvision(noise, size, crop, resize):
    image = noise.resize(size)
    other = transforms.Compose([transforms.Resize(resize or crop), transforms.CenterCrop(crop)])(image)
    assert fit(image, crop, resize).equal(to_tensor(other))


def test_fit_refuses_a_crop_larger_than_the_short_side(noise):
    with pytest.raises(InputError, match="at least the crop size 32; got 16"):
        fit(noise, 32, 16)


def boxes_of(edges: list[list[float]], size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.tensor(edges), format="XYXY", canvas_size=(size[1], size[0]))  # pyright: ignore[reportCallIssue]


def test_boxes_follow_by_hand():
    """A 400x200 image becomes 100x50, and the crop of 40 starts at 30, 5."""
    boxes = boxes_of([[160.0, 40.0, 240.0, 120.0], [0.0, 0.0, 200.0, 200.0]], (400, 200))
    expected = torch.tensor([[10.0, 5.0, 30.0, 25.0], [0.0, 0.0, 20.0, 40.0]])
    torch.testing.assert_close(fitted(boxes, 40, 50).as_subclass(torch.Tensor), expected)


def test_boxes_and_masks_land_on_the_pixels_that_they_held():
    canvas = np.zeros((90, 180, 3), np.uint8)
    canvas[30:60, 66:111] = 255
    image = fit(Image.fromarray(canvas), 30)
    box = fitted(boxes_of([[66.0, 30.0, 111.0, 60.0]], (180, 90)), 30)[0].round().int().tolist()
    bright = image[0] > 127
    place = bright.nonzero()
    assert box == [*place.amin(0).flip(0).tolist(), *(place.amax(0) + 1).flip(0).tolist()]
    mask = tv_tensors.Mask(torch.from_numpy(canvas[None, :, :, 0] > 0))
    assert fitted(mask, 30)[0].equal(bright)


def test_a_stack_of_pages_is_refused_and_a_thumbnail_behind_a_photograph_passed_over():
    first, second = Image.new("RGB", (6, 4), (9, 8, 7)), Image.new("RGB", (6, 4), (1, 2, 3))
    thumbnail = second.resize((3, 2))
    with pytest.raises(InputError, match=r"cannot decode cells\.tif as an image: it is a stack of pages of one size"):
        decode(encoded(first, "TIFF", save_all=True, append_images=[second]), "cells.tif")
    read = decode(encoded(first, "TIFF", save_all=True, append_images=[thumbnail]), "camera.tif")
    assert (read.size, read.getpixel((0, 0))) == ((6, 4), (9, 8, 7))
