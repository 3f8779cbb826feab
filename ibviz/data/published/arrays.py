"""CIFAR-10, CIFAR-100, SVHN and STL-10, which torchvision reads as one array."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tarfile import is_tarfile
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ibviz.data.download import failed, fetch_file, unpack_archive
from ibviz.data.listing import Indices, Listing, Sample, Split, checked_listing


class Arrays(NamedTuple):
    """Pixels of shape (n, h, w, 3), labels and class names."""

    pixels: Any
    labels: Any
    class_names: tuple[str, ...]


def list_arrays(name: str, root: Path, split: Split) -> Listing | None:
    """List the data set's train or test split; None for validation, which it does not have."""
    if split == "validation":
        return None
    with failed(name, root, "torchvision's files"):
        pixels, labels, class_names = READERS[name](root, split)
    names = tuple(f"{split}-{row:05d}" for row in range(len(labels)))
    samples = partial(_samples, pixels)
    return checked_listing(
        Listing(torch.tensor(labels, dtype=torch.int64), class_names, names, samples), f"{name} in {root}"
    )


def _samples(pixels: Any, rows: Indices) -> Iterator[Sample]:
    for row in rows.tolist():
        yield Sample(partial(_image, pixels, row))


def _image(pixels: Any, row: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[row]))


def _stored(read: Callable[..., Any], root: Path, archive: tuple[str, str, str]) -> Any:
    """Read a data set under `root` by torchvision, after downloading its archive (address, name, MD5) if necessary."""
    try:
        return read(root, download=False)
    except RuntimeError:  # missing or damaged
        address, name, md5 = archive
        fetch_file(address, md5, root / name)
        if is_tarfile(root / name):
            unpack_archive(root / name)  # torchvision would extract entries outside the folder
        return read(root, download=False)


def _cifar(kind: str, root: Path, split: Split) -> Arrays:
    from torchvision import datasets

    cifar = getattr(datasets, kind)
    stored = _stored(partial(cifar, train=split == "train"), root, (cifar.url, cifar.filename, cifar.tgz_md5))
    return Arrays(stored.data, stored.targets, tuple(stored.classes))


def _svhn(root: Path, split: Split) -> Arrays:
    from torchvision.datasets import SVHN

    address, name, md5 = SVHN.split_list[split]
    stored = _stored(partial(SVHN, split=split), root, (address, name, md5))
    return Arrays(stored.data.transpose(0, 2, 3, 1), stored.labels, tuple("0123456789"))


def _stl10(root: Path, split: Split) -> Arrays:
    from torchvision.datasets import STL10

    stored = _stored(partial(STL10, split=split), root, (STL10.url, STL10.filename, STL10.tgz_md5))
    return Arrays(stored.data.transpose(0, 2, 3, 1), stored.labels, tuple(stored.classes))


READERS: dict[str, Callable[[Path, Split], Arrays]] = {
    "cifar10": partial(_cifar, "CIFAR10"),
    "cifar100": partial(_cifar, "CIFAR100"),
    "svhn": _svhn,
    "stl10": _stl10,
}
