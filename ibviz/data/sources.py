"""Where images come from: embedded digits, published data sets, the Hugging Face Hub, image folders, Parquet files."""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ibviz.config import DataConfig
from ibviz.data import synthetic
from ibviz.data.download import failed, fetch_parquet, fetched
from ibviz.data.folder import FOLDER_LAYOUT, has_splits, list_folder, split_folder
from ibviz.data.image_set import ImageSet, select
from ibviz.data.image_stream import ImageStream
from ibviz.data.listing import Listing, Part, Split, decoded, hold_out, limited, load_part
from ibviz.data.objects import View
from ibviz.data.parquet import list_parquet, split_files
from ibviz.data.published.arrays import READERS, list_arrays
from ibviz.data.published.coco import list_coco
from ibviz.data.published.cub import list_cub
from ibviz.data.published.tiny_imagenet import list_tiny_imagenet
from ibviz.data.published.voc import list_voc
from ibviz.errors import InputError, unknown
from ibviz.types import Labels

Lister = Callable[[Split], Listing | None]  # None: there is no such split

DIGITS: dict[Split, int] = {"train": 12_000, "validation": 1000, "test": 1000}
DOWNLOADS = Path.home() / ".cache" / "ibviz"
LAYOUTS = {
    "folder": FOLDER_LAYOUT,
    "parquet": "ROOT/**/train*.parquet, val*.parquet, test*.parquet or ROOT/**/{train,validation,test}/*.parquet",
}
LAYOUTS["hub"] = LAYOUTS["parquet"]
REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)+")
MASKED = ("cub", "voc2007", "voc2012", "coco")
TEST_SHARE = 0.1  # of a folder without splits


def load_split(config: DataConfig, split: Split, root: Path | None) -> ImageSet | ImageStream:
    """One split of the source that `config` names, in memory, or decoded as it is read where `stream` is set.

    `root` is where its files lie, or go when downloaded. Without a validation split, `validation_share` of train is
    held out, chosen by seed, and train lacks exactly these. Without a test split, test is the validation split: model
    choice has then seen it. `limit` counts training images after the hold-out. Images that cannot be read are left out
    and listed in `faults`; more than 1 % of them is an error.

    >>> load_split(DataConfig(source="digits", limit=30), "train", None).images.shape
    torch.Size([30, 3, 48, 48])
    """
    if not config.stream:
        return load_images(config, split, root)
    if config.source == "digits":
        raise InputError("digits are drawn into memory: leave stream out")
    return ImageStream(find_part(config, split, root), view_of(config))


def load_images(
    config: DataConfig, split: Split, root: Path | None, *, count: int | None = None, seed: int = 0
) -> ImageSet:
    """A split as in `load_split`, always in memory; at most `count` images, chosen by `seed`, and no others decoded.

    >>> load_images(DataConfig(source="digits", limit=30), "train", None, count=4).labels
    tensor([3, 4, 3, 7])
    """
    if config.source == "digits":
        whole = _digits(config, split)
        return select(whole, limited(torch.arange(len(whole.labels)), count, seed))
    part = find_part(config, split, root)
    return load_part(part._replace(rows=limited(part.rows, count, seed)), view_of(config))


class Chosen(NamedTuple):
    """Images chosen from a split, of which nothing is decoded before it is read."""

    labels: Labels
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    read: Callable[[int, int], ImageSet]  # numbers from, up to; corrupt images are left out and listed


def choose_images(
    config: DataConfig, split: Split, root: Path | None, *, count: int | None = None, seed: int = 0
) -> Chosen:
    """The images that `load_images` would load, to be read a few at a time: memory does not grow with their number.

    >>> choose_images(DataConfig(), "test", None, count=9).read(2, 5).images.shape
    torch.Size([3, 3, 48, 48])
    """
    if config.source == "digits":
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


def find_part(config: DataConfig, split: Split, root: Path | None) -> Part:
    """The images of a split before anything is decoded; not for digits, which are drawn."""
    _check(config, split)
    return SOURCES[config.source](config, split, root)


def view_of(config: DataConfig) -> View:
    """What a network sees of the images.

    >>> view_of(DataConfig(image_size=32))
    View(size=32, resize=None, crop='image')
    """
    return View(config.image_size, config.resize, config.crop)


def _check(config: DataConfig, split: Split) -> None:
    if split not in DIGITS:
        raise unknown("split", split, list(DIGITS))
    if config.resize is not None and (config.image_size is None or config.resize < config.image_size):
        raise InputError(
            "resize is the short side before the crop to image_size and must be at least image_size;"
            f" got resize {config.resize}, image_size {config.image_size}"
        )
    if config.crop == "box" and config.image_size is None:
        raise InputError('crop = "box" needs image_size: boxes differ in size')
    if config.background != "photographs" and config.source != "digits":
        raise InputError(f"only digits have a background to choose; leave background out for source {config.source}")
    if config.masks and config.source not in MASKED:
        raise InputError(f"source {config.source} has no masks to read; those that have: {', '.join(MASKED)}")


def _digits(config: DataConfig, split: Split) -> ImageSet:
    _check(config.model_copy(update={"masks": False}), split)
    if {config.image_size, config.resize} - {None, synthetic.SIDE} or config.crop != "image":
        raise InputError(
            f"digits are {synthetic.SIDE} pixels wide; got image_size {config.image_size}, resize {config.resize},"
            f" crop {config.crop}: leave them out"
        )
    count = DIGITS[split]
    if split == "train":
        count = min(count, config.limit or count)
    return synthetic.digits(split, count=count, seed=config.seed, background=config.background)


def _published(lister: Callable[..., Listing | None], config: DataConfig, split: Split, root: Path | None) -> Part:
    root = root or DOWNLOADS
    masks = {"masks": config.masks} if config.source in MASKED else {}
    return _resolve(config, split, root, partial(lister, root, **masks))


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
    if has_splits(root):
        return _resolve(config, split, root, partial(_list_split_folder, root))
    listing = list_folder(root, root)
    rest, test = hold_out(len(listing.labels), TEST_SHARE, config.seed)
    return Part(listing, test) if split == "test" else _kept_or_held(config, split, Part(listing, rest))


def _list_split_folder(root: Path, split: Split) -> Listing | None:
    folder = split_folder(root, split)
    return None if folder is None else list_folder(folder, split_folder(root, "train") or folder)


def _parquet(config: DataConfig, split: Split, root: Path | None) -> Part:
    root = _existing(root, config.source)
    return _resolve(config, split, root, partial(_list_split_parquet, root))


def _list_split_parquet(root: Path, split: Split) -> Listing | None:
    files = split_files(root, split)
    return list_parquet(files) if files else None


def _existing(root: Path | None, source: str) -> Path:
    if root is None:
        raise InputError(f"source {source} needs the path of its files (--data); expected {LAYOUTS[source]}")
    if not os.path.isdir(root):
        raise InputError(f"no folder {root} for source {source}; expected {LAYOUTS[source]}")
    return root


def _resolve(config: DataConfig, split: Split, root: Path, find: Lister) -> Part:
    """The split itself, or what stands in for it."""
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
    there = ", ".join(sorted(one.name for one in root.iterdir())[:8]) if root.is_dir() else ""
    return InputError(
        f"no {split} split of source {source} in {root}; expected {LAYOUTS[source]}; found {there or 'nothing'}"
    )


def _kept_or_held(config: DataConfig, split: Split, part: Part) -> Part:
    kept, held = hold_out(len(part.rows), config.validation_share, config.seed)
    if split == "validation":
        return Part(part.listing, part.rows[held])
    return Part(part.listing, limited(part.rows[kept], config.limit, config.seed))


SOURCES: dict[str, Callable[[DataConfig, Split, Path | None], Part]] = {
    **{name: partial(_published, partial(list_arrays, name)) for name in READERS},
    "cub": partial(_published, list_cub),
    "voc2007": partial(_published, partial(list_voc, "2007")),
    "voc2012": partial(_published, partial(list_voc, "2012")),
    "coco": partial(_published, list_coco),
    "tiny_imagenet": partial(_published, list_tiny_imagenet),
    "hub": _hub,
    "folder": _folder,
    "parquet": _parquet,
}
