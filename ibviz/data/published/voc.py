"""Pascal VOC 2007 and 2012 (Everingham 2010) as a classification task with the boxes of all objects."""

from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from ibviz.data.decode import decode_stored, read_file
from ibviz.data.download import failed, fetch_voc, fetched
from ibviz.data.listing import Listing, Split
from ibviz.data.objects import Box
from ibviz.data.published.scene import Scene, folder_with, inside, list_scenes, read_text
from ibviz.errors import InputError
from ibviz.reading import parsing
from ibviz.types import Masks

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_LAYOUT = "VOCdevkit/VOCYEAR/ with JPEGImages/, Annotations/ and ImageSets/, and for masks SegmentationObject/"
_LISTS: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
_LISTS_WITHOUT_TEST: dict[Split, str] = {"train": "train", "test": "val"}  # if the test annotations are unpublished


class Shapes(NamedTuple):
    """File of an image's masks, and the number of its objects."""

    file: Path
    objects: int


def list_voc(year: str, root: Path, split: Split, *, masks: bool) -> Listing | None:
    """List the images with an object that is not difficult, labelled by the class of the largest such object.

    Size is that of the box. 2007 has a test split; of 2012, val is the test split and validation is held out of train.
    With masks, only the images of the segmentation task are listed. The archives are downloaded if necessary.

    Args:
        year: "2007" or "2012".
        root: Folder of the archives or their contents.
        split: Split of the data set.
        masks: True to read the masks of the objects.
    """
    inside = Path("VOCdevkit") / f"VOC{year}"
    folder = folder_with("ImageSets", (root, root / f"VOC{year}", root / inside))
    if folder is None:
        with failed(f"Pascal VOC {year}", root, _LAYOUT):
            folder = fetched(root / f"voc{year}", partial(fetch_voc, year)) / inside
    lists = folder / "ImageSets" / ("Segmentation" if masks else "Main")
    name = (_LISTS if (lists / "test.txt").is_file() else _LISTS_WITHOUT_TEST).get(split)
    if name is None:
        return None
    lines = read_text(lists / f"{name}.txt", _LAYOUT).splitlines()
    scenes = [_scene(folder, line.split()[0]) for line in lines if line.strip()]
    return list_scenes(scenes, CLASSES, lists / f"{name}.txt", _masks if masks else None)


def _scene(folder: Path, name: str) -> Scene:
    file = inside(folder / "Annotations", f"{name}.xml")
    text = read_text(file, _LAYOUT)
    with parsing(f"{file} is no annotation of VOC's 20 classes"):
        objects = ElementTree.fromstring(text).findall("object")
        boxes = [_box(element) for element in objects]
        labels = [CLASSES.index(element.findtext("name", "").strip()) for element in objects]
    difficult = [element.findtext("difficult", "0").strip() == "1" for element in objects]
    shapes = Shapes(folder / "SegmentationObject" / f"{name}.png", len(boxes))
    return Scene(folder / "JPEGImages" / f"{name}.jpg", f"{name}.jpg", boxes, labels, difficult, shapes)


def _box(element: ElementTree.Element) -> Box:
    """Convert a box from first and last pixel, counted from 1, to half-open edges."""
    x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    return x0 - 1, y0 - 1, x1, y1


def _masks(shapes: Shapes, _: Image.Image) -> Masks:
    """Read one mask per object: palette indices number the objects from 1, and 255 is the rim between them."""
    stored = decode_stored(read_file(shapes.file), str(shapes.file))
    if stored.mode not in ("L", "P"):
        raise InputError(f"mask {shapes.file} should hold a number of 8 bits a pixel; its mode is {stored.mode}")
    numbers = torch.from_numpy(np.array(stored))
    return numbers[None] == torch.arange(1, shapes.objects + 1)[:, None, None]
