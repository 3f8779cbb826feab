"""What a split offers before anything is decoded, and the one way from there to an `ImageSet`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from ibviz.data.decode import to_tensor
from ibviz.data.image_set import Fault, ImageSet
from ibviz.data.objects import Objects, Picture, View, labelled, seen, visible
from ibviz.errors import InputError
from ibviz.progress import progress

Indices = Int64[Tensor, "_"]
Split = Literal["train", "validation", "test"]
TOLERATED = 0.01  # share of a split's images that may be unreadable


class Sample(NamedTuple):
    """How to decode one image, and how to annotate it once it is decoded; neither has happened yet."""

    image: Callable[[], Image.Image]  # an InputError says why it cannot be read
    objects: Callable[[Image.Image], Objects] | None = None


class Listing(NamedTuple):
    """Labels and names of many images, and how to decode those at ascending, different rows one after the other."""

    labels: Int64[Tensor, " n"]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    samples: Callable[[Indices], Iterator[Sample]]
    clusters: tuple[str, ...] | None = None  # as those of `ImageSet`


class Part(NamedTuple):
    """The rows of a listing that make up a split, ascending."""

    listing: Listing
    rows: Indices


class Note(NamedTuple):
    """The objects of one image as the network sees it, and which of them has its label."""

    objects: Objects
    target: int | None


class Row(NamedTuple):
    """One row as the network sees it."""

    pixels: Tensor
    note: Note | None


def checked(listing: Listing, where: str) -> Listing:
    """The listing with names that can be written; refused if it is empty or a label has no class name (-1: no label).

    >>> checked(Listing(torch.tensor([2]), ("cat", "dog"), ("x.png",), iter), "pets")
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
    r"""Return a name as UTF-8 can hold it; bytes of a file's name that are no text become escapes.

    >>> writable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="backslashreplace").decode()
    return name


def load(part: Part, view: View) -> ImageSet:
    """Decode a split into one tensor, its corrupt images left out and listed; more than 1 % of them is an error."""
    found = decoded(part, view, show=True)
    tolerate(found.faults, len(part.rows))
    return found


def decoded(part: Part, view: View, *, show: bool = False) -> ImageSet:
    """Decode rows as `load` does, however many of them are corrupt; with a progress bar where it is to be shown.

    >>> black = Sample(lambda: Image.new("RGB", (9, 9)))
    >>> pair = Listing(torch.tensor([0, 1]), ("a", "b"), ("x", "y"), lambda rows: (black for _ in rows))
    >>> decoded(Part(pair, torch.tensor([1])), View(None)).images.shape
    torch.Size([1, 3, 9, 9])
    """
    listing, rows = part
    images, kept, notes, faults = torch.empty(0, 3, 0, 0, dtype=torch.uint8), [], [], []
    seen = progress(look(part, view), "reading images", total=len(rows), show=show)
    for row, found in zip(rows.tolist(), seen, strict=True):
        if isinstance(found, Fault):
            faults.append(found)
            continue
        if not kept:
            images = torch.empty(len(rows), *found.pixels.shape, dtype=torch.uint8)
        images[len(kept)] = _same_size(found.pixels, images, listing.names[row])
        kept.append(row)
        notes.append(found.note)
    names = tuple(listing.names[row] for row in kept)
    shared = None if listing.clusters is None else tuple(listing.clusters[row] for row in kept)
    whole = ImageSet(
        images[: len(kept)], listing.labels[kept], listing.class_names, names, faults=tuple(faults), clusters=shared
    )
    return _annotated(whole, notes)


def look(part: Part, view: View, *, annotated: bool = True) -> Iterator[Row | Fault]:
    """Each row of a split as the network sees it, or why it cannot be read; a wrong annotation is an error.

    Not `annotated` leaves the objects out.
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
            yield _row(Picture(image, objects), int(listing.labels[row]), view)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error


def _row(picture: Picture, label: int, view: View) -> Row:
    target = None if picture.objects is None else labelled(picture.objects, label)
    image, objects = seen(picture, view, target)
    return Row(to_tensor(image), None if objects is None else Note(objects, target))


def tolerate(faults: Sequence[Fault], count: int) -> None:
    """Nothing while at most 1 % of `count` images are unreadable, else an error that names the first three.

    >>> tolerate([Fault("a.png", "cannot decode a.png")], 100)
    """
    if len(faults) > TOLERATED * count:
        first = "; ".join(fault.reason for fault in faults[:3])
        more = "; ..." if len(faults) > 3 else ""
        raise InputError(f"{len(faults)} of {count} images cannot be read, more than {TOLERATED:.0%}: {first}{more}")


def _annotated(images: ImageSet, notes: list[Note | None]) -> ImageSet:
    """The images with their objects, and with the box and mask of the labelled one."""
    boxes = torch.full((len(notes), 4), torch.nan)
    masks = torch.zeros(len(notes), *images.images.shape[2:], dtype=torch.bool)
    for row, note in enumerate(notes):
        if note is not None and note.target is not None:
            box = note.objects.boxes[note.target].as_subclass(Tensor)
            boxes[row] = box if (box[2:] > box[:2]).all() else torch.nan
            if note.objects.masks is not None:
                masks[row] = note.objects.masks[note.target]
    masked = any(note is not None and note.objects.masks is not None for note in notes)
    return images._replace(
        boxes=None if boxes.isnan().all() else boxes,
        masks=masks if masked else None,
        objects=tuple(note and visible(note.objects) for note in notes) if any(notes) else None,
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
