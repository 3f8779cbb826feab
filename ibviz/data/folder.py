"""Image folders: ROOT/SPLIT/CLASS/FILE, or ROOT/CLASS/FILE without splits."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Literal
from warnings import warn

import torch

from ibviz.data.decode import read_image
from ibviz.data.listing import Indices, Listing, Sample, checked
from ibviz.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Images by their suffix, but of kinds that are not read from folders.
OTHER_SUFFIXES = (
    ".avif",
    ".dcm",
    ".dng",
    ".gif",
    ".heic",
    ".heif",
    ".jfif",
    ".jp2",
    ".jxl",
    ".nii",
    ".npy",
    ".pgm",
    ".pnm",
    ".ppm",
    ".psd",
    ".svg",
    ".tga",
    ".tif",
    ".tiff",
)
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
LAYOUT = f"ROOT/{{train,validation,test}}/CLASS/FILE or ROOT/CLASS/FILE, FILE one of {' '.join(SUFFIXES)}"


def has_splits(root: Path) -> bool:
    """Whether any split folder lies in `root`.

    >>> has_splits(Path("."))
    False
    """
    return any(split_folder(root, split) for split in SPLIT_FOLDERS)


def split_folder(root: Path, split: str) -> Path | None:
    """Folder of a split under any of its names, or None.

    >>> split_folder(Path("nowhere"), "train")
    """
    return next((root / name for name in SPLIT_FOLDERS[split] if (root / name).is_dir()), None)


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth, told by suffix, in order of their paths; hidden files and folders are skipped.

    A warning lists images of other suffixes, and what has the name of an image but is no regular file.

    >>> image_files(Path("nowhere"))
    []
    """
    inside = (path.relative_to(folder) for path in folder.rglob("*"))
    seen = sorted(path for path in inside if not any(part.startswith(".") for part in path.parts))
    kinds = {path: _kind(path.name, folder / path) for path in seen}
    _list_unused(folder, [str(path) for path, kind in kinds.items() if kind == "unused"])
    return [folder / path for path, kind in kinds.items() if kind == "image"]


def list_folder(folder: Path, classes_from: Path) -> Listing:
    """Images in the class folders of `folder`; the class folders of `classes_from`, sorted, are the classes.

    A warning lists images that are not used, as in `image_files`. A class none of whose files is used is an error, and
    so is one without files in `classes_from`.

    >>> list_folder(Path("nowhere"), Path("nowhere"))
    Traceback (most recent call last):
    ibviz.errors.InputError: no folder nowhere
    """
    class_names = tuple(one.name for one in _class_folders(classes_from))
    classes = {one.name: _images(one) for one in _class_folders(folder)}
    files = tuple(file for images in classes.values() for file in images)
    if not files:
        raise InputError(f"no images in {folder}; expected {LAYOUT}")
    _list_misplaced(folder, sorted(entry.name for entry in os.scandir(folder) if _is_image(entry.name)))
    for name in classes:
        _check_class(folder / name, bool(classes[name]), may_be_empty=folder != classes_from)
    strange = {name for name, images in classes.items() if images} - set(class_names)
    if strange:
        raise InputError(
            f"{folder} has classes that {classes_from} lacks: {', '.join(sorted(strange))}; rename or add them"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = torch.tensor([numbers[name] for name, images in classes.items() for _ in images])
    return checked(Listing(labels, class_names, files, partial(_samples, folder, files)), str(folder))


def _samples(folder: Path, files: tuple[str, ...], rows: Indices) -> Iterator[Sample]:
    for row in rows.tolist():
        yield Sample(partial(read_image, folder / files[row]))


def _images(folder: Path) -> list[str]:
    """The image files that lie in a class folder itself, as CLASS/FILE; by `scandir`, as there may be a million."""
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    names = sorted((entry.name, entry.is_file()) for entry in entries)
    kinds = {name: "image" if regular and _is_image(name) else _kind(name, folder / name) for name, regular in names}
    _list_unused(folder, [name for name, kind in kinds.items() if kind == "unused"])
    images = [f"{folder.name}/{name}" for name, kind in kinds.items() if kind == "image"]
    if images:  # or else the class is refused
        deeper = (f"{entry.name}/" for entry in entries if entry.is_dir() and _holds_images(entry))
        _list_misplaced(folder, sorted(deeper))
    return images


def _holds_images(folder: os.DirEntry[str]) -> bool:
    with os.scandir(folder) as entries:
        return any(_is_image(entry.name) and not entry.name.startswith(".") for entry in entries)


def _list_misplaced(folder: Path, names: Sequence[str]) -> None:
    """Warn of images that lie beside the class folders or below them, by their names or folders."""
    if names:
        first = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warn(f"images in {folder} lie where none are read: {first}; expected {LAYOUT}", UserWarning, stacklevel=2)


def _check_class(folder: Path, has_images: bool, *, may_be_empty: bool) -> None:
    """Refuse a class without images, which would be learned from nothing, or judged on nothing."""
    names = [] if has_images else sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if not has_images and (names or not may_be_empty):
        held = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(
            f"class {folder.name!r} has no image: {folder} holds {held or 'nothing'}; expected {LAYOUT}: "
            "convert its images, or remove the folder"
        )


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _kind(name: str, path: Path) -> Literal["image", "unused", "other"]:
    """Whether a file is an image to read, one that is not used, or something else."""
    if not _is_image(name):
        return "unused" if os.path.splitext(name)[1].lower() in OTHER_SUFFIXES else "other"
    try:
        return "image" if S_ISREG(path.stat().st_mode) else "unused"
    except OSError:
        return "image"  # a link that leads nowhere, say: whoever reads it says why it cannot


def _list_unused(folder: Path, names: Sequence[str]) -> None:
    """Warn of images that are not used, by their names."""
    if names:
        first = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warn(
            f"{len(names)} with the name of an image in {folder} are not used, being no regular file or not one of "
            f"{' '.join(SUFFIXES)}: {first}",
            UserWarning,
            stacklevel=2,
        )


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
