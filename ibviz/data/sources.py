"""Where images come from: the embedded digits, torchvision's CIFAR, image folders and Parquet files."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from ibviz.config import DataConfig
from ibviz.data import synthetic
from ibviz.data.folder import LAYOUT, has_splits, list_folder, split_folder
from ibviz.data.image_set import ImageSet
from ibviz.data.listing import Indices, Listing, Sample, hold_out, limited, load
from ibviz.data.parquet import list_parquet, split_files
from ibviz.errors import InputError, unknown

Split = Literal["train", "validation", "test"]
Lister = Callable[[Split], Listing | None]  # None: there is no such split

DIGITS: dict[Split, int] = {"train": 12_000, "validation": 1000, "test": 1000}
DOWNLOADS = Path.home() / ".cache" / "ibviz"
LAYOUTS = {
    "folder": LAYOUT,
    "parquet": "ROOT/**/train*.parquet, val*.parquet, test*.parquet or ROOT/**/{train,validation,test}/*.parquet",
    "cifar10": "torchvision's files",
    "cifar100": "torchvision's files",
}
TEST_SHARE = 0.1  # of a folder without splits


def load_split(config: DataConfig, split: Split, root: Path | None) -> ImageSet:
    """One split of the source that `config` names; `root` is where its files lie, or go when downloaded.

    Without a validation split, `validation_share` of train is held out, chosen by seed, and train lacks exactly these.
    Without a test split, test is the validation split: model choice has then seen it. `limit` counts training images
    after the hold-out.

    >>> load_split(DataConfig(source="digits", limit=30), "train", None).images.shape
    torch.Size([30, 3, 48, 48])
    """
    if split not in DIGITS:
        raise unknown("split", split, list(DIGITS))
    _check_sizes(config)
    return SOURCES[config.source](config, split, root)


def _check_sizes(config: DataConfig) -> None:
    if config.resize is not None and (config.image_size is None or config.resize < config.image_size):
        raise InputError(
            "resize is the short side before the crop to image_size and must be at least image_size;"
            f" got resize {config.resize}, image_size {config.image_size}"
        )


def _digits(config: DataConfig, split: Split, root: Path | None) -> ImageSet:  # noqa: ARG001 - embedded, needs no root
    if {config.image_size, config.resize} - {None, synthetic.SIDE}:
        raise InputError(
            f"digits are {synthetic.SIDE} pixels wide; got image_size {config.image_size}, resize {config.resize}:"
            " leave them out"
        )
    count = DIGITS[split]
    if split == "train":
        count = min(count, config.limit or count)
    return synthetic.digits(split, count=count, seed=config.seed)


def _cifar(kind: str, config: DataConfig, split: Split, root: Path | None) -> ImageSet:
    root = root or DOWNLOADS
    return _resolve(config, split, root, partial(_list_cifar, kind, root))


def _list_cifar(kind: str, root: Path, split: Split) -> Listing | None:
    if split == "validation":
        return None
    stored = _download(kind, root, train=split == "train")
    names = tuple(stored.classes)
    return Listing(torch.tensor(stored.targets), names, partial(_array_samples, stored.data, split))


def _download(kind: str, root: Path, *, train: bool) -> Any:
    from torchvision import datasets  # noqa: PLC0415 - slow to import

    try:
        return getattr(datasets, kind)(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{kind} is not under {root} and its download failed: {error}; put torchvision's files there,"
            " or use the source parquet or folder"
        ) from error


def _array_samples(pixels: Any, split: Split, indices: Indices) -> Iterator[Sample]:
    for index in indices.tolist():
        yield Sample(Image.fromarray(pixels[index]), f"{split}-{index:05d}")


def _folder(config: DataConfig, split: Split, root: Path | None) -> ImageSet:
    root = _existing(root, "folder")
    if has_splits(root):
        return _resolve(config, split, root, partial(_list_split_folder, root))
    listing = list_folder(root, root)
    rest, test = hold_out(len(listing.labels), TEST_SHARE, config.seed)
    if split == "test":
        return load(listing, test, config.image_size, config.resize)
    return _kept_or_held(config, split, listing, rest)


def _list_split_folder(root: Path, split: Split) -> Listing | None:
    folder = split_folder(root, split)
    return None if folder is None else list_folder(folder, split_folder(root, "train") or folder)


def _parquet(config: DataConfig, split: Split, root: Path | None) -> ImageSet:
    root = _existing(root, "parquet")
    return _resolve(config, split, root, partial(_list_split_parquet, root))


def _list_split_parquet(root: Path, split: Split) -> Listing | None:
    files = split_files(root, split)
    return list_parquet(files) if files else None


def _existing(root: Path | None, source: str) -> Path:
    if root is None:
        raise InputError(f"source {source} needs the path of its files (--data); expected {LAYOUTS[source]}")
    if not root.is_dir():
        raise InputError(f"no folder {root} for source {source}; expected {LAYOUTS[source]}")
    return root


def _resolve(config: DataConfig, split: Split, root: Path, find: Lister) -> ImageSet:
    """Load the split itself, or what stands in for it."""
    own = find(split)
    if own is None and split == "test":
        own = find("validation")
    if own is not None and split != "train":
        return load(own, _all(own), config.image_size, config.resize)
    train = find("train") if split == "validation" else own
    if train is None:
        raise _no_split(config.source, split, root)
    if split == "train" and find("validation") is not None:
        return load(train, limited(_all(train), config.limit, config.seed), config.image_size, config.resize)
    return _kept_or_held(config, split, train, _all(train))


def _all(listing: Listing) -> Indices:
    return torch.arange(len(listing.labels))


def _no_split(source: str, split: Split, root: Path) -> InputError:
    there = ", ".join(sorted(one.name for one in root.iterdir())[:8]) if root.is_dir() else ""
    return InputError(
        f"no {split} split of source {source} in {root}; expected {LAYOUTS[source]}; found {there or 'nothing'}"
    )


def _kept_or_held(config: DataConfig, split: Split, listing: Listing, candidates: Indices) -> ImageSet:
    kept, held = hold_out(len(candidates), config.validation_share, config.seed)
    chosen = candidates[held] if split == "validation" else limited(candidates[kept], config.limit, config.seed)
    return load(listing, chosen, config.image_size, config.resize)


SOURCES: dict[str, Callable[[DataConfig, Split, Path | None], ImageSet]] = {
    "digits": _digits,
    "cifar10": partial(_cifar, "CIFAR10"),
    "cifar100": partial(_cifar, "CIFAR100"),
    "folder": _folder,
    "parquet": _parquet,
}
