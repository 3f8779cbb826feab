"""Data sets that torchvision downloads, checks and reads as one array: CIFAR, SVHN, STL-10."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ibviz.data.download import failed
from ibviz.data.listing import Indices, Listing, Sample, Split, checked


class Arrays(NamedTuple):
    """Pixels n x h x w x 3, labels and class names."""

    pixels: Any
    labels: Any
    class_names: tuple[str, ...]


def list_arrays(name: str, root: Path, split: Split) -> Listing | None:
    """The data set's own train or test split; there is no other."""
    if split == "validation":
        return None
    with failed(name, root, "torchvision's files"):
        pixels, labels, class_names = READERS[name](root, split)
    names = tuple(f"{split}-{row:05d}" for row in range(len(labels)))
    samples = partial(_samples, pixels)
    return checked(Listing(torch.tensor(labels, dtype=torch.int64), class_names, names, samples), f"{name} in {root}")


def _samples(pixels: Any, rows: Indices) -> Iterator[Sample]:
    for row in rows.tolist():
        yield Sample(partial(_image, pixels, row))


def _image(pixels: Any, row: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[row]))


def _cifar(kind: str, root: Path, split: Split) -> Arrays:
    from torchvision import datasets  # noqa: PLC0415 - slow to import

    stored = getattr(datasets, kind)(root, train=split == "train", download=True)
    return Arrays(stored.data, stored.targets, tuple(stored.classes))


def _svhn(root: Path, split: Split) -> Arrays:
    from torchvision.datasets import SVHN  # noqa: PLC0415 - slow to import

    stored = SVHN(root, split=split, download=True)
    return Arrays(stored.data.transpose(0, 2, 3, 1), stored.labels, tuple("0123456789"))


def _stl10(root: Path, split: Split) -> Arrays:
    from torchvision.datasets import STL10  # noqa: PLC0415 - slow to import

    stored = STL10(root, split=split, download=True)
    return Arrays(stored.data.transpose(0, 2, 3, 1), stored.labels, tuple(stored.classes))


READERS: dict[str, Callable[[Path, Split], Arrays]] = {
    "cifar10": partial(_cifar, "CIFAR10"),
    "cifar100": partial(_cifar, "CIFAR100"),
    "svhn": _svhn,
    "stl10": _stl10,
}
