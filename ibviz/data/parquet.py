"""Parquet files as on the Hugging Face Hub: an image column of bytes, a label column, perhaps boxes."""

import json
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from ibviz.data.decode import decode
from ibviz.data.listing import Indices, Listing, Sample, checked
from ibviz.data.objects import Objects, annotate, corners
from ibviz.errors import InputError
from ibviz.reading import parsing, validated

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = {"train": "train", "validation": "val", "test": "test"}  # val: also valid and validation
FOLDERS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
LABELS = ("label", "labels", "fine_label")
CLUSTER = "cluster"
BATCH = 256  # rows held at once
MOST_CLASSES = 2**20
MOST_ROWS = 2**25


class Columns(NamedTuple):
    """Names of the columns that matter."""

    image: str
    label: str
    objects: str | None  # with `bbox`: lists of x, y, width, height in pixels of the stored image
    cluster: str | None  # what images share: text or integers


class Group(NamedTuple):
    """A row group, and which rows of the split it holds: `first` up to, but not with, `after`."""

    file: Path
    number: int
    first: int
    after: int


def split_files(root: Path, split: str) -> list[Path]:
    """Parquet files of a split anywhere under `root`, in order of their paths; validation may be called val or valid.

    The name of the file tells the split, as in `data/train-00000-of-00001.parquet`, else that of its folder, as in
    `default/train/0000.parquet`.

    >>> split_files(Path("nowhere"), "train")
    []
    """
    return sorted(file for file in root.rglob("*.parquet") if _split_of(file.relative_to(root)) == split)


def _split_of(file: Path) -> str | None:
    if file.name.startswith("."):
        return None
    named = next((split for split, prefix in PREFIX.items() if file.name.startswith(prefix)), None)
    return named or FOLDERS.get(file.parent.name)


def list_parquet(files: list[Path]) -> Listing:
    """Rows of `files`, whose columns must be the same; a label that is null counts as -1, none.

    Objects count in the row's class where their category is its label, if categories are integers (or `imagenet` lists
    class indices for each object); where categories say nothing, all of them do.
    """
    schema = _schema(files[0])
    columns, groups = _common_columns(files), _groups(files)
    if groups and groups[-1].after > MOST_ROWS:
        raise InputError(f"{files[0]}: a split should have at most {MOST_ROWS:,} rows; got {groups[-1].after:,}")
    labels = [-1 if label is None else label for file in files for label in _column(file, columns.label)]
    most = max(labels, default=-1)
    if most >= MOST_CLASSES:
        raise InputError(f"{files[0]}: labels in column {columns.label} should be below {MOST_CLASSES:,}; got {most}")
    names = _class_names(schema, columns.label, files[0]) or tuple(map(str, range(most + 1)))
    paths = _paths(files, columns)
    samples = partial(_samples, groups, columns, labels, paths)
    listing = Listing(torch.tensor(labels, dtype=torch.int64), names, paths, samples, _clusters(files, columns))
    return checked(listing, str(files[0]))


def _clusters(files: list[Path], columns: Columns) -> tuple[str, ...] | None:
    """The cluster of each row by name; a row without one is an error, for nobody knows what it shares."""
    if columns.cluster is None:
        return None
    stored = {file: _column(file, columns.cluster) for file in files}
    for file, values in stored.items():
        if None in values:
            raise InputError(
                f"{file}: row {values.index(None)} has no {CLUSTER}; name that of every image, or leave the column out"
            )
    return tuple(str(value) for values in stored.values() for value in values)


def _paths(files: list[Path], columns: Columns) -> tuple[str, ...]:
    """Names of the images, read without their bytes; numbers where there are none."""
    stored = [(image or {}).get("path") for file in files for image in _column(file, columns.image, "path")]
    return tuple(path or f"row_{row:06d}" for row, path in enumerate(stored))


def _reading(file: Path) -> AbstractContextManager[None]:
    return parsing(f"cannot read {file} as Parquet")


def _schema(file: Path) -> "pa.Schema":
    import pyarrow.parquet as pq

    with _reading(file):
        return pq.read_schema(file)


def _column(file: Path, name: str, field: str | None = None) -> list[Any]:
    """Values of a column, or of one field of a struct without its others; None where there is no such field."""
    import pyarrow.parquet as pq

    with _reading(file), pq.ParquetFile(file) as opened:
        table = opened.read(columns=[f"{name}.{field}" if field else name])
        return table[name].to_pylist() if table.num_columns else [None] * opened.metadata.num_rows


def _common_columns(files: list[Path]) -> Columns:
    first, *others = (_columns(_schema(file), file) for file in files)
    for file, columns in zip(files[1:], others, strict=True):
        if columns != first:
            raise InputError(
                f"{file}: all files of a split need the same columns; expected {first._asdict()} as in {files[0]},"
                f" got {columns._asdict()}"
            )
    return first


def _columns(schema: "pa.Schema", file: Path) -> Columns:
    from pyarrow import types

    if len(set(schema.names)) < len(schema.names):
        raise InputError(f"{file} has two columns of one name; its columns are {', '.join(schema.names)}")
    image = next((one.name for one in schema if _has_bytes(one.type)), None)
    integers = [one.name for one in schema if types.is_integer(one.type) and one.name != CLUSTER]
    label = next((name for name in LABELS if name in integers), integers[0] if len(integers) == 1 else None)
    if image is None or label is None:
        raise InputError(
            f"{file}: expected a struct column with a field `bytes` and an integer column named {' or '.join(LABELS)}"
            f" (or only one integer column); its columns are {', '.join(f'{one.name}: {one.type}' for one in schema)}"
        )
    boxed = "objects" in schema.names and _has_field(schema.field("objects").type, "bbox")
    return Columns(image, label, "objects" if boxed else None, CLUSTER if CLUSTER in schema.names else None)


def _has_bytes(kind: "pa.DataType") -> bool:
    """Whether this is a struct whose field `bytes` holds bytes, and whose `path`, if any, text."""
    from pyarrow import types

    if not _has_field(kind, "bytes"):
        return False
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    binary = types.is_binary(fields["bytes"]) or types.is_large_binary(fields["bytes"])
    path = fields.get("path")
    return binary and (path is None or types.is_string(path) or types.is_large_string(path) or types.is_null(path))


def _has_field(kind: "pa.DataType", name: str) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and name in [kind.field(index).name for index in range(kind.num_fields)]


class Features(BaseModel):
    """What the Hub writes beside a schema, as far as it is read: names of classes by column."""

    class Info(BaseModel):
        """Of a data set."""

        features: dict[str, Any] = {}

    info: Info = Info()


class ClassNames(BaseModel):
    """The names of all classes, in the order of their numbers."""

    names: tuple[str, ...] = Field(max_length=MOST_CLASSES)


def _class_names(schema: "pa.Schema", label: str, file: Path) -> tuple[str, ...] | None:
    metadata, failure = schema.metadata or {}, f"{file} names its classes in no way that is known"
    with parsing(failure):
        own, hub = (json.loads(metadata.get(key, b"{}")) for key in (b"class_names", b"huggingface"))
    if b"class_names" in metadata:
        return validated(ClassNames, {"names": own}, failure).names
    feature = validated(Features, hub, failure).info.features.get(label)
    if not isinstance(feature, dict) or not feature.get("names"):
        return None
    return validated(ClassNames, feature, failure).names


def _groups(files: list[Path]) -> tuple[Group, ...]:
    import pyarrow.parquet as pq

    groups, first = [], 0
    for file in files:
        with _reading(file):
            metadata = pq.read_metadata(file)
        for number in range(metadata.num_row_groups):
            groups.append(Group(file, number, first, first + metadata.row_group(number).num_rows))
            first = groups[-1].after
    return tuple(groups)


def _samples(
    groups: tuple[Group, ...], columns: Columns, labels: list[int], names: tuple[str, ...], rows: Indices
) -> Iterator[Sample]:
    wanted = rows.tolist()
    for file, first, batch in _batches(groups, columns, wanted):
        here = wanted[bisect_left(wanted, first) : bisect_left(wanted, first + len(batch))]
        if not here:
            continue
        with _reading(file):
            records = batch.take([row - first for row in here]).to_pylist()
        for row, record in zip(here, records, strict=True):
            content = (record[columns.image] or {}).get("bytes")
            found = partial(read_objects, record[columns.objects] or {}, labels[row]) if columns.objects else None
            yield Sample(partial(_decode, content, names[row], row), found)


def _batches(
    groups: tuple[Group, ...], columns: Columns, wanted: list[int]
) -> Iterator[tuple[Path, int, "pa.RecordBatch"]]:
    """Batches of the row groups that hold wanted rows, with the number of their first row."""
    import pyarrow.parquet as pq

    names = [columns.image, *([columns.objects] if columns.objects else [])]
    needed = [one for one in groups if bisect_left(wanted, one.first) < bisect_left(wanted, one.after)]
    for file, inside in groupby(needed, key=attrgetter("file")):
        with _reading(file), pq.ParquetFile(file) as opened:
            for group in inside:
                first = group.first
                for batch in opened.iter_batches(BATCH, row_groups=[group.number], columns=names):
                    yield file, first, batch
                    first += len(batch)
                if first < group.after:
                    said, held = group.after - group.first, first - group.first
                    raise InputError(
                        f"{file} is damaged: its row group {group.number} says that it has {said} rows, "
                        f"and holds {held}; restore it"
                    )


def _decode(content: bytes | None, name: str, row: int) -> Image.Image:
    if not content:
        raise InputError(f"{name} (row {row}) has no bytes in the image column; embed the image files")
    return decode(content, name)


class Record(BaseModel):
    """The objects of a row; null stands for nothing."""

    model_config = ConfigDict(strict=True)

    bbox: list[list[float]] | None = None  # x, y, width, height
    category: list[Any] | None = None
    imagenet: list[Any] | None = None
    difficult: list[bool | int | None] | None = None


def read_objects(record: Any, label: int, image: Image.Image) -> Objects:
    """Objects of a row of class `label`, from its lists `bbox`, `category` or `imagenet`, and `difficult`."""
    held = validated(
        Record, record, "the column objects should hold lists: bbox of four numbers each, and as many of others"
    )
    boxes = [corners(box) for box in held.bbox or []]
    classes, difficult = _classes(held, label, len(boxes)), [bool(one) for one in held.difficult or ()]
    if len(classes) != len(boxes) or len(difficult) not in (0, len(boxes)):
        raise InputError(
            f"the column objects has {len(boxes)} boxes, but {len(classes)} categories and "
            f"{len(difficult)} marks of difficulty"
        )
    return annotate(image, boxes, classes, difficult=difficult)


def _classes(record: Record, label: int, count: int) -> list[int]:
    """One class an object: the row's label where it is among those listed or where nothing is said."""
    said = record.imagenet or record.category or []
    if not any(isinstance(one, int | list) for one in said):
        return [label] * count
    listed = [one if isinstance(one, list) else [one] for one in said]
    return [label if label in classes else _number(classes) for classes in listed]


def _number(classes: list[Any]) -> int:
    """The first of an object's classes as a number; -1 if there is none."""
    first = classes[0] if classes else None
    return first if isinstance(first, int) and 0 <= first < MOST_CLASSES else -1
