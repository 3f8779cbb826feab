"""Splits of images, read from a source or drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ibviz.data import synthetic
from ibviz.data.catalogue import SOURCES, source_of
from ibviz.data.config import DataConfig
from ibviz.data.image_set import ImageSet, select
from ibviz.data.image_stream import ImageStream
from ibviz.data.listing import Part, Split, decoded, limited, load_part
from ibviz.data.objects import View
from ibviz.errors import InputError, unknown
from ibviz.reading import AnyPath
from ibviz.types import Labels

_DRAWN: dict[Split, int] = {"train": 12_000, "validation": 1000, "test": 1000}


def load_split(config: DataConfig, split: Split, root: AnyPath | None) -> ImageSet | ImageStream:
    """Return one split of a source, in memory, or decoded while it is read if `stream` is set.

    `root` is the folder of the files, or the folder for downloads. Without a validation split, `validation_share` of
    train is held out, chosen by seed, and removed from train. Without a test split, test is the validation split, which
    has then been used to choose the model. `limit` counts training images after the hold-out. Images that cannot be
    read are left out and listed in `faults`; if they are more than 1 %, an `InputError` is raised.

    >>> load_split(DataConfig(source="digits", limit=30), "train", None).images.shape
    torch.Size([30, 3, 48, 48])
    """
    if not config.stream:
        return load_images(config, split, root)
    if source_of(config.source).find is None:
        raise InputError(f"{config.source} are drawn into memory: leave stream out")
    return ImageStream(find_part(config, split, root), view_of(config))


def load_images(
    config: DataConfig, split: Split, root: AnyPath | None, *, count: int | None = None, seed: int = 0
) -> ImageSet:
    """Return a split as `load_split` does, always in memory; only the chosen images are decoded.

    Args:
        config: The source and the preprocessing.
        split: "train", "validation" or "test".
        root: The folder of the files, or the folder for downloads.
        count: The largest number of images; None for all.
        seed: The seed of the choice.

    >>> load_images(DataConfig(source="digits", limit=30), "train", None, count=4).labels
    tensor([3, 4, 3, 7])
    """
    if source_of(config.source).find is None:
        whole = _digits(config, split)
        return select(whole, limited(torch.arange(len(whole.labels)), count, seed))
    part = find_part(config, split, root)
    return load_part(part._replace(rows=limited(part.rows, count, seed)), view_of(config))


class Chosen(NamedTuple):
    """Images chosen from a split; each is decoded only when it is read."""

    labels: Labels
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    read: Callable[[int, int], ImageSet]  # from start to stop index; corrupt images are left out and listed


def choose_images(
    config: DataConfig, split: Split, root: AnyPath | None, *, count: int | None = None, seed: int = 0
) -> Chosen:
    """Return the images that `load_images` would load, to be read a few at a time, which bounds memory.

    Args:
        config: The source and the preprocessing.
        split: "train", "validation" or "test".
        root: The folder of the files, or the folder for downloads.
        count: The largest number of images; None for all.
        seed: The seed of the choice.

    >>> choose_images(DataConfig(), "test", None, count=9).read(2, 5).images.shape
    torch.Size([3, 3, 48, 48])
    """
    if source_of(config.source).find is None:
        drawn = load_images(config, split, root, count=count, seed=seed)
        return Chosen(
            drawn.labels, drawn.class_names, drawn.names, lambda start, stop: select(drawn, torch.arange(start, stop))
        )
    listing, rows = find_part(config, split, root)
    kept, view = limited(rows, count, seed), view_of(config)
    names = tuple(listing.names[row] for row in kept.tolist())
    return Chosen(
        listing.labels[kept],
        listing.class_names,
        names,
        lambda start, stop: decoded(Part(listing, kept[start:stop]), view),
    )


def find_part(config: DataConfig, split: Split, root: AnyPath | None) -> Part:
    """Return the images of a split, not yet decoded; not for digits, which are drawn."""
    _check(config, split)
    find = source_of(config.source).find
    assert find is not None, "drawn images have no files"
    return find(config, split, None if root is None else Path(root))


def check_source(config: DataConfig, split: Split, root: AnyPath | None) -> None:
    """Refuse settings and folders that `find_part` would refuse, as far as nothing is downloaded for it."""
    if source_of(config.source).local:
        find_part(config, split, root)
    else:
        _check(config, split)


def view_of(config: DataConfig) -> View:
    """Return the resizing and cropping of the images.

    >>> view_of(DataConfig(image_size=32))
    View(size=32, resize=None, crop='image')
    """
    return View(config.image_size, config.resize, config.crop)


def _check(config: DataConfig, split: Split) -> None:
    if split not in _DRAWN:
        raise unknown("split", split, list(_DRAWN))
    if config.resize is not None and (config.image_size is None or config.resize < config.image_size):
        raise InputError(
            "resize is the short side before the crop to image_size and must be at least image_size;"
            f" got resize {config.resize}, image_size {config.image_size}"
        )
    if config.crop == "box" and config.image_size is None:
        raise InputError('crop = "box" needs image_size: boxes differ in size')
    if config.background is not None and config.source != "digits":
        raise InputError(f"only digits have a background to choose; leave background out for source {config.source}")
    if config.masks and not source_of(config.source).masks:
        masked = ", ".join(name for name, source in SOURCES.items() if source.masks)
        raise InputError(f"source {config.source} has no masks to read; those that have: {masked}")


def _digits(config: DataConfig, split: Split) -> ImageSet:
    _check(config.model_copy(update={"masks": False}), split)
    if {config.image_size, config.resize} - {None, synthetic.SIDE} or config.crop != "image":
        raise InputError(
            f"digits are {synthetic.SIDE} pixels wide; got image_size {config.image_size}, resize {config.resize},"
            f" crop {config.crop}: leave them out"
        )
    count = _DRAWN[split]
    if split == "train":
        count = min(count, config.limit or count)
    return synthetic.digits(split, count=count, seed=config.seed, background=config.background or "leaves")
