"""COCO (Lin 2014) as a classification task with the boxes of all objects."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ibviz.data.listing import Listing, Split
from ibviz.data.objects import corners
from ibviz.data.published.scene import Scene, list_scenes, read_text
from ibviz.errors import InputError
from ibviz.types import Masks

FILES: dict[Split, str] = {"train": "train", "test": "val"}  # the archive's own test has no annotations
LAYOUT = "annotations/instances_train2017.json and instances_val2017.json, and the folders train2017/ and val2017/"


def list_coco(root: Path, split: Split, *, masks: bool) -> Listing | None:
    """Images with an object that is no crowd; the label is the class of the largest of these, by its box.

    Crowds, which no evaluation counts, are the difficult objects. val is the test, validation is held out of train.
    Masks need pycocotools.
    """
    if split == "validation":
        return None
    if masks:
        _pycocotools()
    found = sorted((root / "annotations").glob(f"instances_{FILES[split]}*.json"))
    if not found:
        raise InputError(f"no COCO annotations under {root}; expected {LAYOUT}, from cocodataset.org")
    classes, scenes = _scenes(found[0], root / found[0].stem.removeprefix("instances_"), masks=masks)
    return list_scenes(scenes, classes, found[0], _masks if masks else None)


def _scenes(file: Path, images: Path, *, masks: bool) -> tuple[tuple[str, ...], list[Scene]]:
    try:
        content = json.loads(read_text(file, LAYOUT))
        categories = sorted(content["categories"], key=lambda one: one["id"])
        numbers = {one["id"]: number for number, one in enumerate(categories)}
        objects = defaultdict(list)
        for one in content["annotations"]:
            objects[one["image_id"]].append(one)
        scenes = [_scene(images / one["file_name"], objects[one["id"]], numbers, masks) for one in content["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no COCO instances file: {type(error).__name__} {error}") from error
    return tuple(one["name"] for one in categories), scenes


def _scene(file: Path, objects: list[dict[str, Any]], numbers: dict[int, int], masks: bool) -> Scene:
    return Scene(
        file,
        file.name,
        [corners(one["bbox"]) for one in objects],
        [numbers[one["category_id"]] for one in objects],
        [bool(one.get("iscrowd", 0)) for one in objects],
        [one["segmentation"] for one in objects] if masks else None,
    )


def _masks(shapes: list[Any], image: Image.Image) -> Masks:
    """Pixels of each object from its polygons or run lengths."""
    masks = torch.zeros(len(shapes), image.height, image.width, dtype=torch.bool)
    for row, shape in enumerate(shapes):
        masks[row] = torch.from_numpy(_drawn(shape, image)).bool()
    return masks


def _drawn(shape: Any, image: Image.Image) -> Any:
    coder = _pycocotools()
    if isinstance(shape, list):
        shape = coder.merge(coder.frPyObjects(shape, image.height, image.width))
    elif isinstance(shape["counts"], list):
        shape = coder.frPyObjects(shape, image.height, image.width)
    return coder.decode(shape)


def _pycocotools() -> Any:
    try:
        from pycocotools import mask  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InputError("COCO's masks need pycocotools: pip install 'ibviz[coco]', or leave masks out") from error
    return mask
