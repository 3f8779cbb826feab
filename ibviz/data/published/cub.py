"""CUB-200-2011 (Wah 2011): birds with one box each, and segmentations from a separate archive."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ibviz.data.decode import read_image
from ibviz.data.download import failed, fetch_archive, fetched
from ibviz.data.listing import Listing, Split
from ibviz.data.objects import box_corners
from ibviz.data.published.scene import Scene, folder_with, inside, list_scenes, read_text
from ibviz.errors import InputError
from ibviz.types import Masks

_FOLDER = "CUB_200_2011"
_LAYOUT = f"{_FOLDER}/ with images.txt, bounding_boxes.txt and images/, and for masks segmentations/ in it or beside it"
_LISTS = ("images", "image_class_labels", "bounding_boxes", "train_test_split")


def list_cub(root: Path, split: Split, *, masks: bool) -> Listing | None:
    """List the archive's train or test split, after downloading it if necessary; None for validation."""
    if split == "validation":
        return None
    folder = folder_with("images.txt", (root, root / _FOLDER))
    if folder is None:
        with failed("CUB-200-2011", root, _LAYOUT):
            folder = fetched(root / "cub", partial(fetch_archive, "cub")) / _FOLDER
    classes = tuple(name.split(".", 1)[-1].replace("_", " ") for name in _table(folder, "classes").values())
    segmentations = _segmentations(folder) if masks else None
    scenes = _birds(folder, "1" if split == "train" else "0", segmentations)
    return list_scenes(scenes, classes, folder, _mask if masks else None)


def _table(folder: Path, name: str) -> dict[str, str]:
    """Read a list file as a dictionary from the number at the start of each line to the rest of it."""
    lines = read_text(folder / f"{name}.txt", _LAYOUT).splitlines()
    pairs = (line.strip().partition(" ") for line in lines if line.strip())
    return {number: rest for number, _, rest in pairs}


def _birds(folder: Path, wanted: str, segmentations: Path | None) -> list[Scene]:
    images, labels, boxes, split = (_table(folder, name) for name in _LISTS)
    birds = []
    try:
        for number in (number for number, kind in split.items() if kind == wanted):
            name, label = images[number], int(labels[number]) - 1
            mask = None if segmentations is None else inside(segmentations, name).with_suffix(".png")
            box = box_corners([float(edge) for edge in boxes[number].split()])
            birds.append(Scene(inside(folder / "images", name), name, [box], [label], [False], mask))
    except (KeyError, ValueError) as error:
        raise InputError(f"the lists of {folder} disagree or are cut off: {error}; expected {_LAYOUT}") from error
    return birds


def _segmentations(folder: Path) -> Path:
    beside = folder_with("segmentations", (folder, folder.parent))
    if beside is None:
        raise InputError(f"no segmentations in {folder} or beside it; put them there or leave masks out")
    return beside / "segmentations"


def _mask(file: Path, _: Image.Image) -> Masks:
    """Read the pixels that at least half of the annotators marked."""
    return torch.from_numpy(np.array(read_image(file).convert("L")) >= 128)[None]
