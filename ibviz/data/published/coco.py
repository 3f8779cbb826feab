"""COCO (Lin 2014) as a classification task with the boxes of all objects."""

import json
from collections import defaultdict
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import BaseModel, Field, FiniteFloat

from ibviz.data.listing import Listing, Split
from ibviz.data.objects import SLACK, corners
from ibviz.data.published.scene import Scene, inside, list_scenes
from ibviz.errors import InputError
from ibviz.reading import parsing, read_bytes, validated
from ibviz.types import Masks

MOST_BYTES = 2**31  # of an instances file; that of train 2017 has 0.45 GB
LONGEST = 2**22  # pixels along an outline, each of which is kept while it is drawn

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


class Category(BaseModel):
    """A class."""

    id: int
    name: str


class Photograph(BaseModel):
    """An image."""

    id: int
    file_name: str


class RunLengths(BaseModel):
    """A mask as COCO writes crowds: rows and columns, and lengths of runs, column by column, as numbers or packed."""

    size: tuple[int, int]
    counts: list[Annotated[int, Field(ge=0, lt=2**31)]] | str


class Annotation(BaseModel):
    """An object."""

    image_id: int
    category_id: int
    bbox: list[FiniteFloat]
    iscrowd: int = 0
    segmentation: list[list[FiniteFloat]] | RunLengths | None = None


class Instances(BaseModel):
    """What is read of an instances file."""

    images: list[Photograph]
    annotations: list[Annotation]
    categories: list[Category]


def _scenes(file: Path, images: Path, *, masks: bool) -> tuple[tuple[str, ...], list[Scene]]:
    failure = f"{file} is no COCO instances file"
    encoded = read_bytes(file, most=MOST_BYTES)
    with parsing(failure, f"expected {LAYOUT}"):
        content = json.loads(encoded)
    held = validated(Instances, content, failure)
    categories = sorted(held.categories, key=attrgetter("id"))
    numbers = {one.id: number for number, one in enumerate(categories)}
    objects = defaultdict(list)
    for one in held.annotations:
        if one.category_id not in numbers:
            raise InputError(
                f"{failure}: an annotation of image {one.image_id} is of category {one.category_id}, which is not there"
            )
        objects[one.image_id].append(one)
    scenes = [_scene(inside(images, one.file_name), objects[one.id], numbers, masks) for one in held.images]
    return tuple(one.name for one in categories), scenes


def _scene(file: Path, objects: list[Annotation], numbers: dict[int, int], masks: bool) -> Scene:
    return Scene(
        file,
        file.name,
        [corners(one.bbox) for one in objects],
        [numbers[one.category_id] for one in objects],
        [bool(one.iscrowd) for one in objects],
        [one.segmentation for one in objects] if masks else None,
    )


def _masks(shapes: list[Any], image: Image.Image) -> Masks:
    """Pixels of each object from its polygons or run lengths."""
    masks = torch.zeros(len(shapes), image.height, image.width, dtype=torch.bool)
    for row, shape in enumerate(shapes):
        masks[row] = torch.from_numpy(_drawn(shape, image)).bool()
    return masks


def _drawn(shape: list[list[float]] | RunLengths | None, image: Image.Image) -> Any:
    """Draw one mask; all is checked before pycocotools sees it, whose C code writes where it is told to."""
    coder = _pycocotools()
    if shape is None:
        raise InputError("an object has no mask (segmentation); leave masks out")
    if isinstance(shape, list):
        _check_polygons(shape, image)
        return coder.decode(coder.merge(coder.frPyObjects(shape, image.height, image.width)))
    counts = _runs(shape.counts) if isinstance(shape.counts, str) else shape.counts
    if shape.size != (image.height, image.width) or sum(counts) != image.height * image.width:
        raise InputError(
            f"a mask of {shape.size} pixels (rows, columns) in runs of {sum(counts)} is not of the "
            f"image, which has {(image.height, image.width)}"
        )
    return coder.decode(coder.frPyObjects({"size": list(shape.size), "counts": counts}, image.height, image.width))


def _check_polygons(polygons: list[list[float]], image: Image.Image) -> None:
    """Refuse what is no polygon, and what reaches further outside than annotators' rounding does."""
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise InputError(f"a polygon needs x and y of at least three corners; got {len(polygon)} numbers")
        for edge, limit in ((polygon[0::2], image.width), (polygon[1::2], image.height)):
            if min(edge) < -SLACK or max(edge) > limit + SLACK:
                raise InputError(
                    f"a polygon reaches from {min(edge):g} to {max(edge):g}, outside the image of "
                    f"{image.width}x{image.height} pixels"
                )
        places = list(zip(polygon[0::2], polygon[1::2], strict=True))
        length = sum(max(abs(x - u), abs(y - v)) for (x, y), (u, v) in pairwise(places))
        if length > LONGEST:
            raise InputError(f"the outline of a polygon is {length:,.0f} pixels long, more than {LONGEST:,}")
    if not polygons:
        raise InputError("a mask has no polygon")


def _runs(packed: str) -> list[int]:
    """Unpack the lengths of runs from COCO's text, as `rleFrString` of its API does, whose C code trusts its input.

    A letter has six bits, of which one says that more follow; from the fourth run on, its difference to the run two
    before it is stored.

    >>> _runs("321")
    [3, 2, 1]
    """
    runs: list[int] = []
    value = shift = 0
    for letter in packed:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise InputError(f"run lengths of a mask hold {letter!r} where there is no such letter")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) * bool(bits & 0x10)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or any(run < 0 for run in runs):
        raise InputError("run lengths of a mask are cut off or below zero")
    return runs


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError("COCO's masks need pycocotools: pip install 'ibviz[coco]', or leave masks out") from error
    return mask
