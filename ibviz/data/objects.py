"""Annotated objects of an image: boxes and masks that are transformed with its pixels."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from ibviz.data.decode import fitted
from ibviz.errors import InputError
from ibviz.types import Boxes, Grid, Labels, Masks

Box = tuple[float, float, float, float]  # x0, y0, x1, y1: half-open edges in pixels
SLACK = 1.0  # pixels by which a box may exceed its image, since annotators round


class Objects(NamedTuple):
    """Annotated objects of one image, one per row, in pixels of that image.

    Boxes are a `tv_tensors.BoundingBoxes` (XYXY) and masks a `tv_tensors.Mask`, so that torchvision's transforms move
    them with the image. A label is an index of the class names, -1 any other class. Difficult objects (VOC's flag,
    COCO's crowds) are not evaluated.
    """

    boxes: Boxes
    labels: Labels
    difficult: Bool[Tensor, " b"]
    masks: Masks | None = None


class AnnotatedImage(NamedTuple):
    """A decoded image and, if annotated, its objects."""

    image: Image.Image
    objects: Objects | None = None


class View(NamedTuple):
    """Resize and crop that turn an image into the network's input.

    The short side is resized to `resize` (default `size`), then the centre of `size` is cropped. With `crop` "box", the
    box of the labelled object is first resized to a square of `resize` regardless of its shape, as the authors do on
    CUB. With `size` None, images are left as they are.
    """

    size: int | Grid | None = None  # side of a square, or height and width
    resize: int | None = None
    crop: Literal["image", "box"] = "image"


def annotate(
    image: Image.Image,
    boxes: Sequence[Box],
    labels: Sequence[int],
    *,
    difficult: Sequence[bool] = (),
    masks: Masks | None = None,
) -> Objects:
    """Create the objects of an image; boxes without area are left out.

    Args:
        image: The image as it is stored.
        boxes: Edges x0, y0, x1, y1 of each object in pixels, half-open.
        labels: Class of each object.
        difficult: Flag of each object that is not evaluated; none by default.
        masks: Pixels of each object.

    Raises:
        InputError: If a box reaches beyond the image by more than a pixel.

    >>> annotate(Image.new("RGB", (9, 6)), [(1.0, 1.0, 4.0, 5.0), (2.0, 2.0, 2.0, 3.0)], [7, 8]).labels
    tensor([7])
    """
    from torchvision import tv_tensors

    width, height = image.size
    inside = [_clipped(box, width, height) for box in boxes]
    real = [row for row, box in enumerate(inside) if _area(box) > 0]
    edges = [inside[row] for row in real]
    return Objects(
        tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue] - its signature is hidden
            torch.tensor(edges, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        torch.tensor([labels[row] for row in real], dtype=torch.int64),
        torch.tensor([bool(difficult) and difficult[row] for row in real], dtype=torch.bool),
        None if masks is None else tv_tensors.Mask(masks[real]),
    )


def _area(box: Sequence[float]) -> float:
    x0, y0, x1, y1 = box
    return max(x1 - x0, 0.0) * max(y1 - y0, 0.0)


def box_corners(box: Sequence[int | float]) -> Box:
    """Convert a box from x, y, width and height to its edges x0, y0, x1, y1.

    >>> box_corners([1.0, 2.0, 3.0, 4.0])
    (1.0, 2.0, 4.0, 6.0)
    """
    if len(box) != 4:
        raise InputError(f"a box needs four numbers, x, y, width and height; got {list(box)}")
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height


def _clipped(box: Box, width: int, height: int) -> list[float]:
    limits = list(zip(box, (width, height) * 2, strict=True))
    if not all(-SLACK <= edge <= limit + SLACK for edge, limit in limits):
        x0, y0, x1, y1 = box
        raise InputError(
            f"a box reaches outside the image of {width}x{height} pixels: x {x0:g} to {x1:g}, y {y0:g} to {y1:g};"
            " boxes count in pixels of the stored image: correct or remove it"
        )
    return [min(max(edge, 0.0), float(limit)) for edge, limit in limits]


def labelled_object(objects: Objects, label: int) -> int | None:
    """Row of the largest object of class `label` that is not difficult; None if there is none.

    >>> boxes = [(0.0, 0.0, 9.0, 9.0), (1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 4.0, 5.0)]
    >>> labelled_object(annotate(Image.new("RGB", (9, 9)), boxes, [5, 7, 7]), 7)
    2
    """
    facts = zip(objects.boxes.tolist(), objects.labels.tolist(), objects.difficult.tolist(), strict=True)
    areas = [0.0 if hard or object_label != label else _area(box) for box, object_label, hard in facts]
    return areas.index(max(areas)) if label >= 0 and any(areas) else None


def transformed(picture: AnnotatedImage, move: Callable[[Any], Any]) -> AnnotatedImage:
    """Apply one of torchvision's functional transforms to image, boxes and masks alike.

    >>> from torchvision.transforms.v2.functional import horizontal_flip
    >>> image = Image.new("RGB", (9, 6))
    >>> annotated = AnnotatedImage(image, annotate(image, [(1.0, 1.0, 4.0, 5.0)], [0]))
    >>> transformed(annotated, horizontal_flip).objects.boxes.tolist()
    [[5.0, 1.0, 8.0, 5.0]]
    """
    image, objects = picture
    if objects is None:
        return AnnotatedImage(move(image))
    masks = None if objects.masks is None else move(objects.masks)
    return AnnotatedImage(move(image), objects._replace(boxes=move(objects.boxes), masks=masks))


def apply_view(picture: AnnotatedImage, view: View, target: int | None = None) -> AnnotatedImage:
    """Resize and crop an image as `view` says; `target` is the row of its labelled object. All objects are kept."""
    if view.crop == "box":
        if picture.objects is None or target is None:
            raise InputError('no box of its class to crop to: leave the image out, or set crop = "image"')
        box, side = picture.objects.boxes[target].tolist(), view.resize or view.size
        assert isinstance(side, int)  # boxes become squares
        picture = transformed(picture, partial(_cut, box, picture.image.size, side))
    return picture if view.size is None else transformed(picture, partial(fitted, size=view.size, resize=view.resize))


def _cut(box: list[float], size: tuple[int, int], side: int, thing: Any) -> Any:
    from torchvision.transforms.v2 import functional

    left, top = (min(round(edge), most - 1) for edge, most in zip(box[:2], size, strict=True))
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    return functional.resized_crop(thing, top, left, bottom - top, right - left, [side, side])


def visible_objects(objects: Objects) -> Objects:
    """Select the objects that the crop did not remove entirely."""
    from torchvision import tv_tensors

    visible = [_area(box) > 0 for box in objects.boxes.tolist()]
    if all(visible):
        return objects
    rows = torch.tensor(visible)
    boxes = tv_tensors.wrap(objects.boxes[rows], like=objects.boxes)  # pyright: ignore[reportCallIssue] - as above
    masks = None if objects.masks is None else tv_tensors.Mask(objects.masks[rows])
    return Objects(boxes, objects.labels[rows], objects.difficult[rows], masks)
