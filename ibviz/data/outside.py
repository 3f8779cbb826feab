"""Data sets from the user's code, in the form of torchvision and PyTorch, turned into listings of images."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image

from ibviz.data.listing import Indices, Listing, Sample, checked_listing
from ibviz.data.objects import Objects, annotate
from ibviz.errors import InputError

_EXPECTED = "expected (image, label) or (image, label, boxes), with a Pillow image and a whole number"


def list_dataset(dataset: Any, name: str) -> Listing:
    """Return a data set of items (image, label) or (image, label, boxes) as a listing.

    Labels are read from `targets` if the data set has them, otherwise from its items. Class names are read from
    `classes`, otherwise they are numbers. Boxes are x0, y0, x1, y1 in pixels, all of the image's class.

    Raises:
        InputError: The data set has no length or items, or items of another form.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise InputError(f"{name} gives {type(dataset).__name__}; expected a data set with a length and items, or None")
    targets = getattr(dataset, "targets", None)
    labels = (
        [int(label) for label in targets]
        if targets is not None
        else [_item(dataset, row, name)[1] for row in range(len(dataset))]
    )
    classes = getattr(dataset, "classes", None) or [str(label) for label in range(max(labels, default=0) + 1)]

    def samples(rows: Indices) -> Iterator[Sample]:
        for row in rows.tolist():
            image, label, *boxes = _item(dataset, row, name)
            yield Sample(
                lambda image=image: image.convert("RGB"), partial(_objects, boxes[0], label) if boxes else None
            )

    names = tuple(str(row) for row in range(len(labels)))
    return checked_listing(Listing(torch.tensor(labels), tuple(map(str, classes)), names, samples), name)


def _item(dataset: Any, row: int, name: str) -> tuple[Any, ...]:
    item = dataset[row]
    if not isinstance(item, tuple | list) or len(item) not in (2, 3) or not isinstance(item[0], Image.Image):
        came = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
        raise InputError(f"item {row} of {name} is {came}; {_EXPECTED}")
    return (item[0], int(item[1]), *item[2:])


def _objects(boxes: Any, label: int, image: Image.Image) -> Objects:
    edges = [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes]
    return annotate(image, edges, [label] * len(edges))
