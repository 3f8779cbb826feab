"""Listings of images that are not decoded yet, and their decoding into an `ImageSet`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from ibviz.data.decode import to_tensor
from ibviz.data.image_set import Fault, ImageSet
from ibviz.data.objects import AnnotatedImage, Objects, View, apply_view, labelled_object, visible_objects
from ibviz.errors import InputError
from ibviz.progress import progress

Indices = Int64[Tensor, "_"]
Split = Literal["train", "validation", "test"]
TOLERATED_SHARE = 0.01  # fraction of a split's images that may be unreadable


class Sample(NamedTuple):
    """Functions that decode one image and then annotate it."""

    image: Callable[[], Image.Image]  # raises an InputError if it cannot be read
    objects: Callable[[Image.Image], Objects] | None = None


class Listing(NamedTuple):
    """Labels and names of images that are not decoded yet, and access to them."""

    labels: Int64[Tensor, " n"]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    samples: Callable[[Indices], Iterator[Sample]]  # of distinct rows in ascending order
    clusters: tuple[str, ...] | None = None  # as in `ImageSet`


class Part(NamedTuple):
    """Rows of a listing that make up a split, in ascending order."""

    listing: Listing
    rows: Indices


class ImageObjects(NamedTuple):
    """Objects of one image as the network sees it."""

    objects: Objects
    target: int | None  # row of the largest object of the image's class


class DecodedImage(NamedTuple):
    """One image as the network sees it, with its objects if annotated."""

    pixels: Tensor
    annotation: ImageObjects | None


def checked_listing(listing: Listing, where: str) -> Listing:
    """Return the listing with names that UTF-8 can hold.

    Raises:
        InputError: If it is empty, or a label is neither -1 (no label) nor the index of a class name.

    >>> checked_listing(Listing(torch.tensor([2]), ("cat", "dog"), ("x.png",), iter), "pets")
    Traceback (most recent call last):
    ibviz.errors.InputError: pets: labels must be -1 (none) to 1, one per class name; got 2 to 2
    """
    if not len(listing.labels):
        raise InputError(f"{where}: no images found; expected at least one")
    low, high, last = int(listing.labels.min()), int(listing.labels.max()), len(listing.class_names) - 1
    if low < -1 or high > last:
        raise InputError(f"{where}: labels must be -1 (none) to {last}, one per class name; got {low} to {high}")
    if listing.clusters is not None and len(listing.clusters) != len(listing.labels):
        raise InputError(
            f"{where}: clusters name the cluster of each image: expected {len(listing.labels)} names, got "
            f"{len(listing.clusters)}"
        )
    return listing._replace(
        names=tuple(map(writable, listing.names)), class_names=tuple(map(writable, listing.class_names))
    )


def writable(name: str) -> str:
    r"""Return a name that UTF-8 can hold; undecodable bytes of a file name become escapes.

    >>> writable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="backslashreplace").decode()
    return name


def load_part(part: Part, view: View) -> ImageSet:
    """Decode a split into memory; corrupt images are left out and listed, and more than 1 % of them are an error."""
    images = decoded(part, view, show=True)
    check_faults(images.faults, len(part.rows))
    return images


def decoded(part: Part, view: View, *, show: bool = False) -> ImageSet:
    """Decode a split as `load_part` does, however many images are corrupt; `show` adds a progress bar.

    >>> black = Sample(lambda: Image.new("RGB", (9, 9)))
    >>> pair = Listing(torch.tensor([0, 1]), ("a", "b"), ("x", "y"), lambda rows: (black for _ in rows))
    >>> decoded(Part(pair, torch.tensor([1])), View(None)).images.shape
    torch.Size([1, 3, 9, 9])
    """
    listing, rows = part
    images, kept, annotations, faults = torch.empty(0, 3, 0, 0, dtype=torch.uint8), [], [], []
    results = progress(decode_rows(part, view), "reading images", total=len(rows), show=show)
    for row, result in zip(rows.tolist(), results, strict=True):
        if isinstance(result, Fault):
            faults.append(result)
            continue
        if not kept:
            images = torch.empty(len(rows), *result.pixels.shape, dtype=torch.uint8)
        images[len(kept)] = _same_size(result.pixels, images, listing.names[row])
        kept.append(row)
        annotations.append(result.annotation)
    names = tuple(listing.names[row] for row in kept)
    clusters = None if listing.clusters is None else tuple(listing.clusters[row] for row in kept)
    image_set = ImageSet(
        images[: len(kept)], listing.labels[kept], listing.class_names, names, faults=tuple(faults), clusters=clusters
    )
    return _annotated(image_set, annotations)


def decode_rows(part: Part, view: View, *, annotated: bool = True) -> Iterator[DecodedImage | Fault]:
    """Decode the images of a split one by one, with their objects if `annotated`.

    Yields:
        The image as the network sees it, or a `Fault` if it cannot be read.

    Raises:
        InputError: If an annotation is wrong.
    """
    listing, rows = part
    for row, sample in zip(rows.tolist(), listing.samples(rows), strict=True):
        name = listing.names[row]
        try:
            image = sample.image()
        except InputError as error:
            yield Fault(name, str(error))
            continue
        try:
            objects = sample.objects(image) if annotated and sample.objects else None
            yield _viewed(AnnotatedImage(image, objects), int(listing.labels[row]), view)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error


def _viewed(picture: AnnotatedImage, label: int, view: View) -> DecodedImage:
    target = None if picture.objects is None else labelled_object(picture.objects, label)
    image, objects = apply_view(picture, view, target)
    return DecodedImage(to_tensor(image), None if objects is None else ImageObjects(objects, target))


def check_faults(faults: Sequence[Fault], count: int) -> None:
    """Raise `InputError`, naming the first three faults, if more than 1 % of `count` images are unreadable.

    >>> check_faults([Fault("a.png", "cannot decode a.png")], 100)
    """
    if len(faults) > TOLERATED_SHARE * count:
        first = "; ".join(fault.reason for fault in faults[:3])
        more = "; ..." if len(faults) > 3 else ""
        raise InputError(
            f"{len(faults)} of {count} images cannot be read, more than {TOLERATED_SHARE:.0%}: {first}{more}"
        )


def _annotated(images: ImageSet, annotations: list[ImageObjects | None]) -> ImageSet:
    """Add objects to images, and the box and mask of the object that has the image's label."""
    boxes = torch.full((len(annotations), 4), torch.nan)
    masks = torch.zeros(len(annotations), *images.images.shape[2:], dtype=torch.bool)
    for row, annotation in enumerate(annotations):
        if annotation is not None and annotation.target is not None:
            box = annotation.objects.boxes[annotation.target].as_subclass(Tensor)
            boxes[row] = box if (box[2:] > box[:2]).all() else torch.nan
            if annotation.objects.masks is not None:
                masks[row] = annotation.objects.masks[annotation.target]
    masked = any(annotation is not None and annotation.objects.masks is not None for annotation in annotations)
    objects = tuple(annotation and visible_objects(annotation.objects) for annotation in annotations)
    return images._replace(
        boxes=None if boxes.isnan().all() else boxes,
        masks=masks if masked else None,
        objects=objects if any(annotations) else None,
    )


def _same_size(pixels: Tensor, images: Tensor, name: str) -> Tensor:
    height, width = images.shape[-2:]
    if pixels.shape != images.shape[1:]:
        raise InputError(
            f"{name} is {pixels.shape[-1]}x{pixels.shape[-2]} pixels, those before it"
            f" {width}x{height}; set image_size to resize and crop them"
        )
    return pixels


def hold_out(count: int, share: float, seed: int) -> tuple[Indices, Indices]:
    """Split `count` indices at random into kept and held-out ones, both ascending and at least one each.

    >>> kept, held = hold_out(10, 0.2, seed=0)
    >>> len(kept), len(held)
    (8, 2)
    """
    if count < 2:
        raise InputError(f"holding out images needs at least 2; got {count}")
    held = min(max(round(count * share), 1), count - 1)
    order = _shuffled(count, seed)
    return order[held:].sort().values, order[:held].sort().values


def limited(indices: Indices, limit: int | None, seed: int) -> Indices:
    """Draw at most `limit` of `indices` at random, in their order.

    >>> len(limited(torch.arange(9), 4, seed=0))
    4
    """
    if limit is None or limit >= len(indices):
        return indices
    return indices[_shuffled(len(indices), seed)[:limit].sort().values]


def _shuffled(count: int, seed: int) -> Indices:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
