import io

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
