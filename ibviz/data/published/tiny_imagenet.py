"""Tiny ImageNet (Stanford CS231n) in the folders of its archive: 64 px, 200 classes, one box an image."""

from collections.abc import Iterator
from pathlib import Path

from ibviz.data.listing import Listing, Split
from ibviz.data.published.scene import Scene, folder_with, inside, list_scenes, read_text
from ibviz.errors import InputError

FOLDER = "tiny-imagenet-200"
LAYOUT = f"{FOLDER}/ with wnids.txt, train/ID/images/ and ID_boxes.txt, val/images/ and val_annotations.txt"


def list_tiny_imagenet(root: Path, split: Split) -> Listing | None:
    """Train, and the labelled val as test, since the archive's own test has no labels; validation is held out of train.

    Classes are the lines of wnids.txt, in their order, under their first name in words.txt.
    """
    if split == "validation":
        return None
    folder = folder_with("wnids.txt", (root, root / FOLDER))
    if folder is None:
        raise InputError(f"no Tiny ImageNet under {root}; expected {LAYOUT}")
    ids = read_text(folder / "wnids.txt", LAYOUT).split()
    scenes = list(_train(folder, ids) if split == "train" else _val(folder, ids))
    return list_scenes(scenes, _class_names(folder, ids), folder)


def _class_names(folder: Path, ids: list[str]) -> tuple[str, ...]:
    if not (folder / "words.txt").is_file():
        return tuple(ids)
    lines = read_text(folder / "words.txt", LAYOUT).splitlines()
    words = {one: names for one, _, names in (line.partition("\t") for line in lines)}
    names = tuple(words.get(one, one).split(",")[0] for one in ids)
    return names if len(set(names)) == len(names) else tuple(ids)


def _train(folder: Path, ids: list[str]) -> Iterator[Scene]:
    for label, one in enumerate(ids):
        place = inside(folder / "train", one)
        for line in _lines(place / f"{one}_boxes.txt"):
            name, *edges = line.split()
            yield _scene(inside(place / "images", name), edges, label)


def _val(folder: Path, ids: list[str]) -> Iterator[Scene]:
    for line in _lines(folder / "val" / "val_annotations.txt"):
        name, one, edges = line.split()[0], "".join(line.split()[1:2]), line.split()[2:]
        if one not in ids:
            raise InputError(f"{folder / 'val'}: {name} is of {one}, which wnids.txt lacks")
        yield _scene(inside(folder / "val" / "images", name), edges, ids.index(one))


def _lines(file: Path) -> list[str]:
    return [line for line in read_text(file, LAYOUT).splitlines() if line.strip()]


def _scene(file: Path, edges: list[str], label: int) -> Scene:
    """First and last pixel of the box become half-open edges."""
    try:
        x0, y0, x1, y1 = map(float, edges)
    except ValueError as error:
        raise InputError(f"{file}: its box should be four numbers, is {' '.join(edges)!r}") from error
    return Scene(file, file.name, [(x0, y0, x1 + 1, y1 + 1)], [label], [False])
