"""What a split offers before anything is decoded, and the one way from there to an `ImageSet`."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from ibviz.data.decode import fit, fit_boxes, to_tensor
from ibviz.data.image_set import ImageSet
from ibviz.errors import InputError
from ibviz.progress import progress

Indices = Int64[Tensor, "_"]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


class Sample(NamedTuple):
    """One decoded image in its own size; the box in its pixels."""

    image: Image.Image
    name: str
    box: Box | None = None


class Listing(NamedTuple):
    """Labels of a whole split, and how to decode the images at ascending indices one after the other."""

    labels: Int64[Tensor, " n"]
    class_names: tuple[str, ...]
    samples: Callable[[Indices], Iterator[Sample]]


def checked(listing: Listing, where: str) -> Listing:
    """The listing itself, unless it is empty or a label has no class name; -1 means no label.

    >>> checked(Listing(torch.tensor([2]), ("cat", "dog"), iter), "pets")
    Traceback (most recent call last):
    ibviz.errors.InputError: pets: labels must be -1 (none) to 1, one per class name; got 2 to 2
    """
    if not len(listing.labels):
        raise InputError(f"{where}: no images found; expected at least one")
    low, high, last = int(listing.labels.min()), int(listing.labels.max()), len(listing.class_names) - 1
    if low < -1 or high > last:
        raise InputError(f"{where}: labels must be -1 (none) to {last}, one per class name; got {low} to {high}")
    return listing


def load(listing: Listing, indices: Indices, image_size: int | None, resize: int | None = None) -> ImageSet:
    """Decode the images at ascending `indices` into one tensor; `image_size` None keeps their common size.

    `resize` is the short side before the centre crop to `image_size`, by default the same.

    >>> black = Image.new("RGB", (9, 9))
    >>> pair = Listing(torch.tensor([0, 1]), ("a", "b"), lambda indices: (Sample(black, str(one)) for one in indices))
    >>> load(pair, torch.tensor([1]), None).images.shape
    torch.Size([1, 3, 9, 9])
    """
    images, names = torch.empty(0), []
    boxes = torch.full((len(indices), 4), torch.nan)
    for row, sample in enumerate(progress(listing.samples(indices), "reading images", total=len(indices))):
        pixels, boxes[row] = _placed(sample, image_size, resize)
        if row == 0:
            images = torch.empty(len(indices), *pixels.shape, dtype=torch.uint8)
        images[row] = _same_size(pixels, images, sample.name)
        names.append(sample.name)
    known = None if boxes.isnan().all() else boxes
    return ImageSet(images, listing.labels[indices], listing.class_names, tuple(names), None, known)


def _placed(sample: Sample, image_size: int | None, resize: int | None) -> tuple[Tensor, Tensor]:
    box = torch.tensor([sample.box or (torch.nan,) * 4], dtype=torch.float32)
    if image_size is None:
        return to_tensor(sample.image), box[0]
    return fit(sample.image, image_size, resize), fit_boxes(box, sample.image.size, image_size, resize)[0]


def _same_size(pixels: Tensor, images: Tensor, name: str) -> Tensor:
    height, width = images.shape[-2:]
    if pixels.shape != images.shape[1:]:
        raise InputError(
            f"images must all have one size: {name} is {pixels.shape[2]}x{pixels.shape[1]} pixels, those before it"
            f" {width}x{height}; set image_size to resize and crop them"
        )
    return pixels


def hold_out(count: int, share: float, seed: int) -> tuple[Indices, Indices]:
    """Indices kept and held out at random, both ascending; at least one on each side.

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
    """At most `limit` of `indices`, chosen at random, in their order.

    >>> len(limited(torch.arange(9), 4, seed=0))
    4
    """
    if limit is None or limit >= len(indices):
        return indices
    return indices[_shuffled(len(indices), seed)[:limit].sort().values]


def _shuffled(count: int, seed: int) -> Indices:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
