"""Image folders: ROOT/SPLIT/CLASS/FILE, or ROOT/CLASS/FILE without splits."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from ibviz.data.decode import read_image
from ibviz.data.listing import Indices, Listing, Sample, checked
from ibviz.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
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

    >>> image_files(Path("nowhere"))
    []
    """
    inside = (one.relative_to(folder) for one in folder.rglob("*") if one.suffix.lower() in SUFFIXES)
    shown = (folder / one for one in inside if not any(part.startswith(".") for part in one.parts))
    return sorted(one for one in shown if not one.is_dir())


def list_folder(folder: Path, classes_from: Path) -> Listing:
    """Images in the class folders of `folder`; the class folders of `classes_from`, sorted, are the classes.

    >>> list_folder(Path("nowhere"), Path("nowhere"))
    Traceback (most recent call last):
    ibviz.errors.InputError: no folder nowhere
    """
    class_names = tuple(one.name for one in _class_folders(classes_from))
    files = [(one.name, file) for one in _class_folders(folder) for file in _images(one)]
    strange = {name for name, _ in files} - set(class_names)
    if strange:
        raise InputError(
            f"{folder} has classes that {classes_from} lacks: {', '.join(sorted(strange))}; rename or add them"
        )
    if not files:
        raise InputError(f"no images in {folder}; expected {LAYOUT}")
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = torch.tensor([numbers[name] for name, _ in files])
    names = tuple(f"{name}/{file}" for name, file in files)
    return checked(Listing(labels, class_names, names, partial(_samples, folder, names)), str(folder))


def _samples(folder: Path, names: tuple[str, ...], rows: Indices) -> Iterator[Sample]:
    for row in rows.tolist():
        yield Sample(partial(read_image, folder / names[row]))


def _images(folder: Path) -> list[str]:
    """Names of the image files that lie in the folder itself; by `scandir`, as there may be a million."""
    entries = (one for one in os.scandir(folder) if not one.name.startswith("."))
    return sorted(one.name for one in entries if _is_image(one.name) and not one.is_dir())


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
