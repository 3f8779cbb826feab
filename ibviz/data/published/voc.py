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
LAYOUT = "VOCdevkit/VOCYEAR/ with JPEGImages/, Annotations/ and ImageSets/, and for masks SegmentationObject/"
OWN: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
UNTESTED: dict[Split, str] = {"train": "train", "test": "val"}  # where the annotated test was never published


class Shapes(NamedTuple):
    """Where the masks of an image are, and how many objects they tell apart."""

    file: Path
    objects: int


def list_voc(year: str, root: Path, split: Split, *, masks: bool) -> Listing | None:
    """Images with an object that is not difficult; the label is the class of the largest of these, by its box.

    2007 has a test split; of 2012, val is the test and validation is held out of train. With masks these are the fewer
    images of the segmentation task. The archives are downloaded where they are not there.
    """
    inside = Path("VOCdevkit") / f"VOC{year}"
    folder = folder_with("ImageSets", (root, root / f"VOC{year}", root / inside))
    if folder is None:
        with failed(f"Pascal VOC {year}", root, LAYOUT):
            folder = fetched(root / f"voc{year}", partial(fetch_voc, year)) / inside
    lists = folder / "ImageSets" / ("Segmentation" if masks else "Main")
    name = (OWN if (lists / "test.txt").is_file() else UNTESTED).get(split)
    if name is None:
        return None
    lines = read_text(lists / f"{name}.txt", LAYOUT).splitlines()
    scenes = [_scene(folder, line.split()[0]) for line in lines if line.strip()]
    return list_scenes(scenes, CLASSES, lists / f"{name}.txt", _masks if masks else None)


def _scene(folder: Path, name: str) -> Scene:
    file = inside(folder / "Annotations", f"{name}.xml")
    text = read_text(file, LAYOUT)
    with parsing(f"{file} is no annotation of VOC's 20 classes"):
        objects = ElementTree.fromstring(text).findall("object")
        boxes = [_box(one) for one in objects]
        labels = [CLASSES.index(one.findtext("name", "").strip()) for one in objects]
    difficult = [one.findtext("difficult", "0").strip() == "1" for one in objects]
    shapes = Shapes(folder / "SegmentationObject" / f"{name}.png", len(boxes))
    return Scene(folder / "JPEGImages" / f"{name}.jpg", f"{name}.jpg", boxes, labels, difficult, shapes)


def _box(element: ElementTree.Element) -> Box:
    """First and last pixel, counted from 1, become half-open edges."""
    x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    return x0 - 1, y0 - 1, x1, y1


def _masks(shapes: Shapes, image: Image.Image) -> Masks:  # noqa: ARG001 - the file has the image's size
    """The palette's index is the object's number, from 1; 255 is the rim between objects."""
    stored = decode_stored(read_file(shapes.file), str(shapes.file))
    if stored.mode not in ("L", "P"):
        raise InputError(f"mask {shapes.file} should hold a number of 8 bits a pixel; its mode is {stored.mode}")
    numbers = torch.from_numpy(np.array(stored))
    return numbers[None] == torch.arange(1, shapes.objects + 1)[:, None, None]
