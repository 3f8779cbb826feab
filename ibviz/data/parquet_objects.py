"""Objects of the rows of Parquet files: boxes, masks and classes in one struct of lists for each image."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict

from ibviz.data.mask_files import extents, read_masks
from ibviz.data.objects import Objects, annotate, box_corners
from ibviz.errors import InputError
from ibviz.reading import validated

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_CLASSES = 2**20


class Record(BaseModel):
    """Objects of a row: lists with one entry per object; null means none."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    bbox: list[list[float]] | None = None
    """x, y, width and height in pixels of the stored image."""
    mask: list[bytes] | None = None
    """Encoded images (PNG) in the size of the stored image, black outside the object."""
    category: list[Any] | None = None
    """Class of the object, an integer as in the column of labels."""
    imagenet: list[Any] | None = None
    """Instead of `category`: a list of the object's classes."""
    difficult: list[bool | int | None] | None = None
    """True for an object that is not judged."""


def has_field(kind: "pa.DataType", name: str) -> bool:
    """Return True if a type is a struct with a field of this name."""
    from pyarrow import types

    return types.is_struct(kind) and name in [kind.field(index).name for index in range(kind.num_fields)]


def check_objects(kind: "pa.DataType", file: Path, *, masks: bool) -> None:
    """Refuse a column of objects in which no boxes or masks are found, or no masks if they are asked for."""
    wanted = ("mask",) if masks else ("bbox", "mask")
    if not any(has_field(kind, name) for name in wanted):
        raise InputError(
            f"{file}: its column objects holds {kind}, in which no {'masks' if masks else 'boxes'} are found; expected "
            "a struct of lists for each image, such as {'bbox': [[x, y, width, height]], 'category': [3]}, masks as "
            "{'mask': [PNG bytes]}; write it so, or leave it out"
        )


def read_objects(record: Any, label: int, image: Image.Image, *, masked: bool = False) -> Objects:
    """Read the objects of a row of class `label` from its lists, see `Record`; `masked` also keeps the masks.

    Without `bbox`, the boxes are those around the masks.
    """
    held = validated(
        Record, record, "the column objects should hold lists: bbox of four numbers each, and as many of others"
    )
    masks = read_masks(held.mask or [], image, "the column objects") if masked or held.bbox is None else None
    boxes = extents(masks) if held.bbox is None and masks is not None else [box_corners(box) for box in held.bbox or []]
    if masked and masks is not None and len(masks) != len(boxes):
        raise InputError(f"the column objects has {len(boxes)} boxes, but {len(masks)} masks; each object has one")
    classes, difficult = _classes(held, label, len(boxes)), [bool(flag) for flag in held.difficult or ()]
    if len(classes) != len(boxes) or len(difficult) not in (0, len(boxes)):
        raise InputError(
            f"the column objects has {len(boxes)} boxes, but {len(classes)} categories and "
            f"{len(difficult)} marks of difficulty"
        )
    return annotate(image, boxes, classes, difficult=difficult, masks=masks if masked else None)


def _classes(record: Record, label: int, count: int) -> list[int]:
    """Return one class per object: the row's label if it is among the object's classes or if none are given."""
    categories = record.imagenet or record.category or []
    if not any(isinstance(category, int | list) for category in categories):
        return [label] * count
    listed = [category if isinstance(category, list) else [category] for category in categories]
    return [label if label in classes else _first_class(classes) for classes in listed]


def _first_class(classes: list[Any]) -> int:
    """Return the first of an object's classes; -1 if there is none."""
    first = classes[0] if classes else None
    return first if isinstance(first, int) and 0 <= first < _MOST_CLASSES else -1
