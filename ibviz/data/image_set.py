"""Images of one split in memory, with labels and annotated objects."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from ibviz.data.objects import Objects
from ibviz.data.regions import object_regions, rasterise
from ibviz.types import Boxes, Grid, Images, Labels, Masks, Pixels

IMAGES_AT_ONCE = 1024  # images whose values are counted at once; bounds memory


class Fault(NamedTuple):
    """An image that was skipped, and the reason."""

    name: str
    reason: str


class ImageSet(NamedTuple):
    """Images of one size with labels, names and, if annotated, boxes, masks and objects.

    Label -1 means no label. Boxes are half-open pixel edges of the image as the model sees it: the pixel in column c
    spans [c, c + 1). An image without a box has a row of NaN. `boxes` and `masks` describe one object per image, the
    largest of its class; `objects` holds all annotated objects. `faults` lists images of the split that could not be
    read. `clusters` names groups of dependent images, such as those of one background or patient; intervals and tests
    count clusters, not images.
    """

    images: Pixels
    labels: Labels
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    masks: Masks | None = None
    boxes: Boxes | None = None
    objects: tuple[Objects | None, ...] | None = None
    faults: tuple[Fault, ...] = ()
    clusters: tuple[str, ...] | None = None


def skipped(faults: Sequence[Fault]) -> str:
    """Summarise skipped images in one line: their number and the first ten names.

    >>> skipped([Fault("cat/7.jpg", "cannot decode cat/7.jpg")])
    '1 image skipped, unreadable: cat/7.jpg'
    """
    names = ", ".join(fault.name for fault in faults[:10]) + (", ..." if len(faults) > 10 else "")
    return f"{len(faults)} image{'s' if len(faults) != 1 else ''} skipped, unreadable: {names}"


def select(image_set: ImageSet, indices: Int[Tensor, " k"]) -> ImageSet:
    """Take the images at `indices`, in that order.

    >>> images = ImageSet(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), torch.tensor([4, 7]), (), ("a", "b"))
    >>> select(images, torch.tensor([1])).names
    ('b',)
    """
    return image_set._replace(
        images=image_set.images[indices],
        labels=image_set.labels[indices],
        names=tuple(image_set.names[index] for index in indices.tolist()),
        masks=None if image_set.masks is None else image_set.masks[indices],
        boxes=None if image_set.boxes is None else image_set.boxes[indices],
        objects=None if image_set.objects is None else tuple(image_set.objects[index] for index in indices.tolist()),
        clusters=None if image_set.clusters is None else tuple(image_set.clusters[index] for index in indices.tolist()),
    )


def to_float(pixels: Pixels) -> Images:
    """Convert stored bytes to floats in [0, 1].

    >>> to_float(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).max()
    tensor(1.)
    """
    return pixels.float() / 255


def statistics(pixels: Pixels) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and population deviation of each channel over all pixels in [0, 1], to 4 decimals.

    Exact, as computed from counts of the 256 values. The deviation of a constant channel is 0: check before dividing.

    >>> statistics(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2))
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    return moments(value_counts(pixels))


def value_counts(pixels: Pixels) -> Int64[Tensor, "3 256"]:
    """Count the 256 values of each channel; counts of batches can be summed.

    >>> value_counts(torch.full((1, 3, 2, 2), 7, dtype=torch.uint8))[:, 7]
    tensor([4, 4, 4])
    """
    counts = torch.zeros(3, 256, dtype=torch.int64, device=pixels.device)
    for part in pixels.split(IMAGES_AT_ONCE):
        counts += torch.stack([part[:, channel].flatten().bincount(minlength=256) for channel in range(3)])
    return counts


def moments(counts: Int64[Tensor, "3 256"]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and population deviation of each channel in [0, 1] from counts of its values, to 4 decimals.

    >>> moments(torch.ones(3, 256, dtype=torch.int64))[0]
    (0.5, 0.5, 0.5)
    """
    share = counts.double() / counts.sum(1, keepdim=True)
    values = torch.linspace(0, 1, 256, dtype=torch.float64, device=counts.device)
    mean = (share * values).sum(1, keepdim=True)
    deviation = (share * (values - mean) ** 2).sum(1).sqrt()
    rounded = ([round(value, 4) for value in moment.flatten().tolist()] for moment in (mean, deviation))
    (r, g, b), (dr, dg, db) = rounded
    return (r, g, b), (dr, dg, db)


def regions(image_set: ImageSet) -> Masks | None:
    """Return the pixels of all objects of each image's class that are not difficult; None without annotations.

    The pixels are those of the masks if there are any, otherwise those whose centre lies in a box. Labels must be
    numbered as in the data set.

    >>> pixels = torch.zeros(1, 3, 2, 3, dtype=torch.uint8)
    >>> boxed = ImageSet(pixels, torch.tensor([0]), ("a",), ("x",), boxes=torch.tensor([[1.0, 0.0, 3.0, 1.0]]))
    >>> regions(boxed).int()
    tensor([[[0, 1, 1],
             [0, 0, 0]]], dtype=torch.int32)
    """
    images, labels, masks, boxes = image_set.images, image_set.labels.tolist(), image_set.masks, image_set.boxes
    size = (images.shape[2], images.shape[3])
    if image_set.objects is None:
        return rasterise(boxes, size) if masks is None and boxes is not None else masks
    pairs = zip(image_set.objects, labels, strict=True)
    return torch.stack([_class_region(objects, label, size, masked=masks is not None) for objects, label in pairs])


def _class_region(objects: Objects | None, label: int, size: Grid, *, masked: bool) -> Bool[Tensor, "h w"]:
    shapes = None if objects is None else objects.masks if masked else objects.boxes
    if objects is None or shapes is None or label < 0:
        return torch.zeros(size, dtype=torch.bool)
    keep = [(objects.labels == label) & ~objects.difficult]
    [region] = object_regions([shapes], keep=keep)  # pyright: ignore[reportArgumentType] - `Objects` are tv_tensors
    return region
