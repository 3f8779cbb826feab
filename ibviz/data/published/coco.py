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
from ibviz.data.objects import SLACK, box_corners
from ibviz.data.published.scene import Scene, inside, list_scenes
from ibviz.errors import InputError
from ibviz.reading import parsing, read_bytes, validated
from ibviz.types import Masks

_MOST_BYTES = 2**31  # per instances file; that of train 2017 has 0.45 GB
_LONGEST_OUTLINE = 2**22  # pixels along an outline, all of which are in memory while it is drawn

_FILES: dict[Split, str] = {"train": "train", "test": "val"}  # the archive's test split has no annotations
_LAYOUT = "annotations/instances_train2017.json and instances_val2017.json, and the folders train2017/ and val2017/"


def list_coco(root: Path, split: Split, *, masks: bool) -> Listing | None:
    """List the images with an object that is no crowd, labelled by the class of the largest such object.

    Size is that of the box. Crowds, which COCO does not evaluate either, are difficult objects. The archive's val is
    the test split; validation is held out of train. Masks need pycocotools.
    """
    if split == "validation":
        return None
    if masks:
        _pycocotools()
    file = min((root / "annotations").glob(f"instances_{_FILES[split]}*.json"), default=None)
    if file is None:
        raise InputError(f"no COCO annotations under {root}; expected {_LAYOUT}, from cocodataset.org")
    classes, scenes = _scenes(file, root / file.stem.removeprefix("instances_"), masks=masks)
    return list_scenes(scenes, classes, file, _masks if masks else None)


class Category(BaseModel):
    """A class."""

    id: int
    name: str


class Photograph(BaseModel):
    """An image."""

    id: int
    file_name: str


class RunLengths(BaseModel):
    """Run-length encoded mask of a crowd, column by column."""

    size: tuple[int, int]  # rows, columns
    counts: list[Annotated[int, Field(ge=0, lt=2**31)]] | str  # lengths of runs, plain or compressed


class Annotation(BaseModel):
    """An object."""

    image_id: int
    category_id: int
    bbox: list[FiniteFloat]
    iscrowd: int = 0
    segmentation: list[list[FiniteFloat]] | RunLengths | None = None


class Instances(BaseModel):
    """Contents of an instances file, as far as they are used."""

    images: list[Photograph]
    annotations: list[Annotation]
    categories: list[Category]


def _scenes(file: Path, images: Path, *, masks: bool) -> tuple[tuple[str, ...], list[Scene]]:
    failure = f"{file} is no COCO instances file"
    encoded = read_bytes(file, most=_MOST_BYTES)
    with parsing(failure, f"expected {_LAYOUT}"):
        content = json.loads(encoded)
    held = validated(Instances, content, failure)
    categories = sorted(held.categories, key=attrgetter("id"))
    numbers = {category.id: number for number, category in enumerate(categories)}
    objects = defaultdict(list)
    for annotation in held.annotations:
        if annotation.category_id not in numbers:
            raise InputError(
                f"{failure}: an annotation of image {annotation.image_id} is of category {annotation.category_id}, "
                "which is not there"
            )
        objects[annotation.image_id].append(annotation)
    scenes = [_scene(inside(images, image.file_name), objects[image.id], numbers, masks) for image in held.images]
    return tuple(category.name for category in categories), scenes


def _scene(file: Path, objects: list[Annotation], numbers: dict[int, int], masks: bool) -> Scene:
    return Scene(
        file,
        file.name,
        [box_corners(annotation.bbox) for annotation in objects],
        [numbers[annotation.category_id] for annotation in objects],
        [bool(annotation.iscrowd) for annotation in objects],
        [annotation.segmentation for annotation in objects] if masks else None,
    )


def _masks(shapes: list[Any], image: Image.Image) -> Masks:
    """Draw the mask of each object from its polygons or run lengths."""
    masks = torch.zeros(len(shapes), image.height, image.width, dtype=torch.bool)
    for row, shape in enumerate(shapes):
        masks[row] = torch.from_numpy(_drawn(shape, image)).bool()
    return masks


def _drawn(shape: list[list[float]] | RunLengths | None, image: Image.Image) -> Any:
    """Draw one mask; the shape is checked first, because the C code of pycocotools does not check bounds."""
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
    """Raise `InputError` for anything but polygons, and for polygons more than a pixel outside the image."""
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise InputError(f"a polygon needs x and y of at least three corners; got {len(polygon)} numbers")
        for edge, limit in ((polygon[0::2], image.width), (polygon[1::2], image.height)):
            if min(edge) < -SLACK or max(edge) > limit + SLACK:
                raise InputError(
                    f"a polygon reaches from {min(edge):g} to {max(edge):g}, outside the image of "
                    f"{image.width}x{image.height} pixels"
                )
        points = list(zip(polygon[0::2], polygon[1::2], strict=True))
        length = sum(max(abs(x - u), abs(y - v)) for (x, y), (u, v) in pairwise(points))
        if length > _LONGEST_OUTLINE:
            raise InputError(f"the outline of a polygon is {length:,.0f} pixels long, more than {_LONGEST_OUTLINE:,}")
    if not polygons:
        raise InputError("a mask has no polygon")


def _runs(packed: str) -> list[int]:
    """Decode COCO's compressed run lengths as `rleFrString` of its API does, but with checks.

    Each character holds six bits, one of which says that more characters follow. From the fourth run on, the difference
    to the run two before is stored.

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
