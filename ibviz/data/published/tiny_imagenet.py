"""Tiny ImageNet (Stanford CS231n) in the folders of its archive: 64 px, 200 classes, one box per image."""

from collections.abc import Iterator
from pathlib import Path

from ibviz.data.listing import Listing, Split
from ibviz.data.published.scene import Scene, folder_with, inside, list_scenes, read_text
from ibviz.errors import InputError

_FOLDER = "tiny-imagenet-200"
_LAYOUT = f"{_FOLDER}/ with wnids.txt, train/ID/images/ and ID_boxes.txt, val/images/ and val_annotations.txt"


def list_tiny_imagenet(root: Path, split: Split) -> Listing | None:
    """List train, or the labelled val as test, because the archive's test split has no labels.

    Validation is held out of train. Classes are in the order of wnids.txt, each with its first name in words.txt.
    """
    if split == "validation":
        return None
    folder = folder_with("wnids.txt", (root, root / _FOLDER))
    if folder is None:
        raise InputError(f"no Tiny ImageNet under {root}; expected {_LAYOUT}")
    ids = read_text(folder / "wnids.txt", _LAYOUT).split()
    scenes = list(_train(folder, ids) if split == "train" else _val(folder, ids))
    return list_scenes(scenes, _class_names(folder, ids), folder)


def _class_names(folder: Path, ids: list[str]) -> tuple[str, ...]:
    if not (folder / "words.txt").is_file():
        return tuple(ids)
    lines = read_text(folder / "words.txt", _LAYOUT).splitlines()
    words = {wnid: names for wnid, _, names in (line.partition("\t") for line in lines)}
    names = tuple(words.get(wnid, wnid).split(",")[0] for wnid in ids)
    return names if len(set(names)) == len(names) else tuple(ids)


def _train(folder: Path, ids: list[str]) -> Iterator[Scene]:
    for label, wnid in enumerate(ids):
        class_folder = inside(folder / "train", wnid)
        for line in _lines(class_folder / f"{wnid}_boxes.txt"):
            name, *edges = line.split()
            yield _scene(inside(class_folder / "images", name), edges, label)


def _val(folder: Path, ids: list[str]) -> Iterator[Scene]:
    for line in _lines(folder / "val" / "val_annotations.txt"):
        name, wnid, edges = line.split()[0], "".join(line.split()[1:2]), line.split()[2:]
        if wnid not in ids:
            raise InputError(f"{folder / 'val'}: {name} is of {wnid}, which wnids.txt lacks")
        yield _scene(inside(folder / "val" / "images", name), edges, ids.index(wnid))


def _lines(file: Path) -> list[str]:
    return [line for line in read_text(file, _LAYOUT).splitlines() if line.strip()]


def _scene(file: Path, edges: list[str], label: int) -> Scene:
    """Create a scene of one object; the first and last pixel of its box become half-open edges."""
    try:
        x0, y0, x1, y1 = map(float, edges)
    except ValueError as error:
        raise InputError(f"{file}: its box should be four numbers, is {' '.join(edges)!r}") from error
    return Scene(file, file.name, [(x0, y0, x1 + 1, y1 + 1)], [label], [False])
