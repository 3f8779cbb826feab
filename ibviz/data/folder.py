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
from ibviz.data.listing import Indices, Listing, Sample, checked_listing
from ibviz.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Suffixes of image formats that are not read from folders.
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
FOLDER_LAYOUT = f"ROOT/{{train,validation,test}}/CLASS/FILE or ROOT/CLASS/FILE, FILE one of {' '.join(IMAGE_SUFFIXES)}"


def has_splits(root: Path) -> bool:
    """Return True if `root` holds the folder of any split.

    >>> has_splits(Path("."))
    False
    """
    return any(split_folder(root, split) for split in SPLIT_FOLDERS)


def split_folder(root: Path, split: str) -> Path | None:
    """Find the folder of a split under any of its names; None if there is none.

    >>> split_folder(Path("nowhere"), "train")
    """
    return next((root / name for name in SPLIT_FOLDERS[split] if (root / name).is_dir()), None)


def image_files(folder: Path) -> list[Path]:
    """List image files at any depth, recognised by suffix and sorted by path; hidden files and folders are skipped.

    A warning lists images with other suffixes, and special files that have the name of an image.

    >>> image_files(Path("nowhere"))
    []
    """
    inside = (path.relative_to(folder) for path in folder.rglob("*"))
    visible = sorted(path for path in inside if not any(part.startswith(".") for part in path.parts))
    kinds = {path: _kind(path.name, folder / path) for path in visible}
    _list_unused(folder, [str(path) for path, kind in kinds.items() if kind == "unused"])
    return [folder / path for path, kind in kinds.items() if kind == "image"]


def list_folder(folder: Path, classes_from: Path) -> Listing:
    """List the images in the class folders of `folder`; the sorted class folders of `classes_from` are the classes.

    A warning lists images that are not used, as in `image_files`. A class none of whose files is used is an error, and
    so is an empty one in `classes_from`.

    >>> list_folder(Path("nowhere"), Path("nowhere"))
    Traceback (most recent call last):
    ibviz.errors.InputError: no folder nowhere
    """
    class_names = tuple(path.name for path in _class_folders(classes_from))
    classes = {path.name: _images(path) for path in _class_folders(folder)}
    files = tuple(file for images in classes.values() for file in images)
    if not files:
        raise InputError(f"no images in {folder}; expected {FOLDER_LAYOUT}")
    _list_misplaced(folder, sorted(entry.name for entry in os.scandir(folder) if _is_image(entry.name)))
    for name in classes:
        _check_class(folder / name, bool(classes[name]), may_be_empty=folder != classes_from)
    unknown = {name for name, images in classes.items() if images} - set(class_names)
    if unknown:
        raise InputError(
            f"{folder} has classes that {classes_from} lacks: {', '.join(sorted(unknown))}; rename or add them"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = torch.tensor([numbers[name] for name, images in classes.items() for _ in images])
    return checked_listing(Listing(labels, class_names, files, partial(_samples, folder, files)), str(folder))


def _samples(folder: Path, files: tuple[str, ...], rows: Indices) -> Iterator[Sample]:
    for row in rows.tolist():
        yield Sample(partial(read_image, folder / files[row]))


def _images(folder: Path) -> list[str]:
    """List the image files directly in a class folder as CLASS/FILE; `scandir`, because there may be a million."""
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
        warn(
            f"images in {folder} lie where none are read: {first}; expected {FOLDER_LAYOUT}", UserWarning, stacklevel=2
        )


def _check_class(folder: Path, has_images: bool, *, may_be_empty: bool) -> None:
    """Raise `InputError` for a class without images."""
    names = [] if has_images else sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if not has_images and (names or not may_be_empty):
        held = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(
            f"class {folder.name!r} has no image: {folder} holds {held or 'nothing'}; expected {FOLDER_LAYOUT}: "
            "convert its images, or remove the folder"
        )


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _kind(name: str, path: Path) -> Literal["image", "unused", "other"]:
    """Classify a file: an image to read, an image that is not used, or something else."""
    if not _is_image(name):
        return "unused" if os.path.splitext(name)[1].lower() in OTHER_SUFFIXES else "other"
    try:
        return "image" if S_ISREG(path.stat().st_mode) else "unused"
    except OSError:
        return "image"  # a dangling link, for example, which is reported when it is read


def _list_unused(folder: Path, names: Sequence[str]) -> None:
    """Warn of images that are not used, naming the first five."""
    if names:
        first = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warn(
            f"{len(names)} with the name of an image in {folder} are not used, being no regular file or not one of "
            f"{' '.join(IMAGE_SUFFIXES)}: {first}",
            UserWarning,
            stacklevel=2,
        )


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
