"""Images with annotated objects on disk: the reader that CUB, Tiny ImageNet, VOC and COCO share."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from ibviz.data.decode import read_image
from ibviz.data.listing import Indices, Listing, Sample, checked_listing
from ibviz.data.objects import Box, Objects, annotate
from ibviz.errors import InputError
from ibviz.reading import parsing, read_bytes
from ibviz.types import Masks

DrawMasks = Callable[[Any, Image.Image], Masks]  # turns the `shapes` of a scene into one mask per object

MOST_MASKED = 2**31  # pixels of all masks of an image, one byte each


class Scene(NamedTuple):
    """An image file and its objects, before anything is decoded."""

    file: Path
    name: str
    boxes: list[Box]
    labels: list[int]
    difficult: list[bool]
    shapes: Any = None  # from which its masks are drawn

    def label(self) -> int | None:
        """Class of the largest object that is not difficult, which is the label of the image; None if there is none.

        >>> boxes = [(0.0, 0.0, 9.0, 9.0), (0.0, 0.0, 2.0, 2.0), (0.0, 0.0, 3.0, 3.0)]
        >>> Scene(Path("a.jpg"), "a", boxes, [4, 5, 6], [True, False, False]).label()
        6
        """
        areas = [max(x1 - x0, 0) * max(y1 - y0, 0) for x0, y0, x1, y1 in self.boxes]
        rows = [row for row, hard in enumerate(self.difficult) if not hard and areas[row] > 0]
        return self.labels[max(rows, key=areas.__getitem__)] if rows else None


def list_scenes(
    scenes: list[Scene], class_names: tuple[str, ...], where: Path, draw: DrawMasks | None = None
) -> Listing:
    """List the scenes that have a label, with masks if `draw` is given.

    Args:
        scenes: Images and their objects.
        class_names: Names of all classes.
        where: Source of the labels, for the error message.
        draw: Function that draws the masks of a scene.
    """
    labels = [scene.label() for scene in scenes]
    kept = [scene for scene, label in zip(scenes, labels, strict=True) if label is not None]
    known = [label for label in labels if label is not None]
    if known and not 0 <= min(known) <= max(known) < len(class_names):
        raise InputError(
            f"{where}: labels must be -1 (none) to {len(class_names) - 1}, one per class name; got "
            f"{min(known)} to {max(known)}"
        )
    numbers = torch.tensor(known, dtype=torch.int64)
    names = tuple(scene.name for scene in kept)
    return checked_listing(Listing(numbers, class_names, names, partial(_samples, kept, draw)), str(where))


def _samples(scenes: list[Scene], draw: DrawMasks | None, rows: Indices) -> Iterator[Sample]:
    for row in rows.tolist():
        yield Sample(partial(read_image, scenes[row].file), partial(_objects, scenes[row], draw))


def _objects(scene: Scene, draw: DrawMasks | None, image: Image.Image) -> Objects:
    if draw is not None and len(scene.boxes) * image.width * image.height > MOST_MASKED:
        raise InputError(
            f"masks of {len(scene.boxes):,} objects on {image.width}x{image.height} pixels are more than "
            f"{MOST_MASKED:,} pixels; leave masks out, or the image"
        )
    masks = None if draw is None else draw(scene.shapes, image)
    if masks is not None and masks.shape[1:] != (image.height, image.width):
        height, width = masks.shape[1:]
        raise InputError(f"its mask is {width}x{height} pixels, the image {image.width}x{image.height}")
    return annotate(image, scene.boxes, scene.labels, difficult=scene.difficult, masks=masks)


def read_text(file: Path, layout: str) -> str:
    """Read an annotation file; the error of a missing one shows the expected layout."""
    if not os.path.isfile(file):
        raise InputError(f"cannot read {file}: No such file; expected {layout}")
    encoded = read_bytes(file)
    with parsing(f"cannot read {file}", f"expected {layout}"):
        return encoded.decode()


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that an annotation names in `folder`; a path outside of it is an `InputError`.

    >>> inside(Path("images"), "cat/1.jpg").as_posix()
    'images/cat/1.jpg'
    """
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise InputError(f"an annotation names the image {name!r}, which is not in {folder}")
    return folder / name


def folder_with(mark: str, places: tuple[Path, ...]) -> Path | None:
    """Return the first of `places` that contains `mark`; None if none does.

    >>> folder_with("images.txt", (Path("nowhere"),))
    """
    return next((place for place in places if (place / mark).exists()), None)
