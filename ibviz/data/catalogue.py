"""The table of data sources: how each lists its images, and its annotations, layout and description."""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ibviz.data.config import DataConfig
from ibviz.data.download import failed, fetch_parquet, fetched
from ibviz.data.folder import FOLDER_LAYOUT, has_splits, list_folder, split_folder
from ibviz.data.listing import Listing, Part, Split, hold_out, limited
from ibviz.data.mask_files import mask_folder, with_masks
from ibviz.data.outside import list_dataset
from ibviz.data.parquet import list_parquet, split_files
from ibviz.data.published.arrays import list_arrays
from ibviz.data.published.coco import list_coco
from ibviz.data.published.cub import list_cub
from ibviz.data.published.tiny_imagenet import list_tiny_imagenet
from ibviz.data.published.voc import list_voc
from ibviz.errors import InputError, unknown
from ibviz.extensions import check_signature, first_line, is_outside, load_outside

Lister = Callable[[Split], Listing | None]  # None if there is no such split

DOWNLOADS = Path.home() / ".cache" / "ibviz"
PARQUET_FILES = "ROOT/**/train*.parquet, val*.parquet, test*.parquet or ROOT/**/{train,validation,test}/*.parquet"
REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)+")
TEST_SHARE = 0.1  # share held out for testing from a folder without splits


class Source(NamedTuple):
    """A data source: the function that lists its images, and its properties.

    `find` takes a `DataConfig`, a split and the folder of the files, and returns the images of the split, not yet
    decoded; it is None for images that are drawn.
    """

    find: Callable[[DataConfig, Split, Path | None], Part] | None
    description: str
    layout: str = "the files of its publisher, which are downloaded if they are missing"
    annotated: bool = False  # images have boxes of objects
    masks: bool = False  # images have masks of objects
    mirrored: bool = True  # a mirrored image has the same class
    local: bool = False  # files of the user's own, never downloaded


def source_of(name: str) -> Source:
    """Return the source of that name, or one from the user's code (`file.py:name`, a `Source` or a function).

    A function takes a split ("train", "validation" or "test") and the folder of the files. It returns a data set like
    those of torchvision, of pairs (image, label), with class names in `classes`, or None if there is no such split.

    Raises:
        InputError: The name is unknown, or the object cannot be called in this way.

    >>> source_of("cub").masks
    True
    """
    if name in SOURCES:
        return SOURCES[name]
    if not is_outside(name):
        raise unknown("source", name, list(SOURCES))
    given = load_outside(name)
    if isinstance(given, Source):
        return given
    check_signature(name, given, least=2, most=2)
    return Source(partial(_from_function, name, given), first_line(given), layout="the files that its code reads")


def _published(lister: Callable[..., Listing | None], config: DataConfig, split: Split, root: Path | None) -> Part:
    root = root or DOWNLOADS
    masks = {"masks": config.masks} if SOURCES[config.source].masks else {}
    return _resolve(config, split, root, partial(lister, root, **masks))


def _of_arrays(name: str, description: str) -> Source:
    return Source(partial(_published, partial(list_arrays, name)), description)


def _hub(config: DataConfig, split: Split, root: Path | None) -> Part:
    repository = config.repository or ""
    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"source hub needs repository = OWNER/NAME or OWNER/NAME/FOLDER; got {config.repository}")
    root = root or DOWNLOADS
    with failed(f"{repository} of the Hugging Face Hub", root, "its Parquet files"):
        place = fetched(root / repository.replace("/", "--"), partial(fetch_parquet, repository))
    return _parquet(config, split, place)


def _folder(config: DataConfig, split: Split, root: Path | None) -> Part:
    root = _existing(root, config.source)
    masks = mask_folder(root) if config.masks else None
    if has_splits(root):
        return _resolve(config, split, root, partial(_list_split_folder, root, masks))
    listing = list_folder(root, root)
    listing = listing if masks is None else with_masks(listing, masks)
    rest, test = hold_out(len(listing.labels), TEST_SHARE, config.seed)
    return Part(listing, test) if split == "test" else _kept_or_held(config, split, Part(listing, rest))


def _list_split_folder(root: Path, masks: Path | None, split: Split) -> Listing | None:
    folder = split_folder(root, split)
    if folder is None:
        return None
    listing = list_folder(folder, split_folder(root, "train") or folder)
    return listing if masks is None else with_masks(listing, masks / folder.name)


def _parquet(config: DataConfig, split: Split, root: Path | None) -> Part:
    root = _existing(root, config.source)
    return _resolve(config, split, root, partial(_list_split_parquet, root, config.masks))


def _list_split_parquet(root: Path, masks: bool, split: Split) -> Listing | None:
    files = split_files(root, split)
    return list_parquet(files, masks=masks) if files else None


def _existing(root: Path | None, source: str) -> Path:
    if root is None:
        raise InputError(f"source {source} needs the path of its files (--data); expected {source_of(source).layout}")
    if not os.path.isdir(root):
        raise InputError(f"no folder {root} for source {source}; expected {source_of(source).layout}")
    return root


def _resolve(config: DataConfig, split: Split, root: Path, find: Lister) -> Part:
    """Return the split itself; if it is missing, validation replaces test, and a part of train replaces validation."""
    own = find(split)
    if own is None and split == "test":
        own = find("validation")
    if own is not None and split != "train":
        return _whole(own)
    train = find("train") if split == "validation" else own
    if train is None:
        raise _no_split(config.source, split, root)
    if split == "train" and find("validation") is not None:
        return Part(train, limited(_whole(train).rows, config.limit, config.seed))
    return _kept_or_held(config, split, _whole(train))


def _whole(listing: Listing) -> Part:
    return Part(listing, torch.arange(len(listing.labels)))


def _no_split(source: str, split: Split, root: Path) -> InputError:
    there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) if root.is_dir() else ""
    return InputError(
        f"no {split} split of source {source} in {root}; expected {source_of(source).layout}; "
        f"found {there or 'nothing'}"
    )


def _kept_or_held(config: DataConfig, split: Split, part: Part) -> Part:
    kept, held = hold_out(len(part.rows), config.validation_share, config.seed)
    if split == "validation":
        return Part(part.listing, part.rows[held])
    return Part(part.listing, limited(part.rows[kept], config.limit, config.seed))


def _from_function(
    name: str, function: Callable[..., Any], config: DataConfig, split: Split, root: Path | None
) -> Part:
    def find(wanted: Split) -> Listing | None:
        dataset = function(wanted, root)
        return None if dataset is None else list_dataset(dataset, name)

    return _resolve(config, split, root or Path(), find)


SOURCES: dict[str, Source] = {
    "digits": Source(
        None,
        "drawn digits on photographs or dead leaves",
        layout="nothing: they are drawn",
        annotated=True,
        mirrored=False,
    ),
    "cifar10": _of_arrays("cifar10", "CIFAR-10: 32 px, 10 classes"),
    "cifar100": _of_arrays("cifar100", "CIFAR-100: 32 px, 100 classes"),
    "svhn": _of_arrays("svhn", "SVHN: house numbers, 32 px, 10 digits")._replace(mirrored=False),
    "stl10": _of_arrays("stl10", "STL-10: 96 px, 10 classes"),
    "cub": Source(partial(_published, list_cub), "CUB-200-2011: birds, 200 classes", annotated=True, masks=True),
    "voc2007": Source(
        partial(_published, partial(list_voc, "2007")), "Pascal VOC 2007: 20 classes", annotated=True, masks=True
    ),
    "voc2012": Source(
        partial(_published, partial(list_voc, "2012")), "Pascal VOC 2012: 20 classes", annotated=True, masks=True
    ),
    "coco": Source(partial(_published, list_coco), "COCO 2017: 80 classes", annotated=True, masks=True),
    "tiny_imagenet": Source(
        partial(_published, list_tiny_imagenet), "Tiny ImageNet: 64 px, 200 classes", annotated=True
    ),
    "hub": Source(
        _hub, "a data set of the Hugging Face Hub in Parquet files", layout=PARQUET_FILES, annotated=True, masks=True
    ),
    "folder": Source(
        _folder, "a folder with a folder of images per class", layout=FOLDER_LAYOUT, masks=True, local=True
    ),
    "parquet": Source(
        _parquet,
        "Parquet files with images, labels and perhaps objects",
        PARQUET_FILES,
        annotated=True,
        masks=True,
        local=True,
    ),
}
