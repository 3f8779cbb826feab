"""Parquet files as on the Hugging Face Hub, with columns of encoded images, labels and optional boxes."""

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
from pydantic import BaseModel, Field

from ibviz.data.decode import decode
from ibviz.data.listing import Indices, Listing, Sample, checked_listing
from ibviz.data.parquet_objects import check_objects, has_field, read_objects
from ibviz.errors import InputError
from ibviz.reading import parsing, validated

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = {"train": "train", "validation": "val", "test": "test"}  # "val" also matches valid and validation
FOLDERS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
LABELS = ("label", "labels", "fine_label")
CLUSTER = "cluster"
_ROWS_AT_ONCE = 256  # bounds memory
_MOST_CLASSES = 2**20
_MOST_ROWS = 2**25


class Columns(NamedTuple):
    """Names of the columns that are read."""

    image: str
    label: str
    objects: str | None  # a struct of lists, one entry per object: see `Record`
    cluster: str | None  # text or integers that name groups of dependent images
    masks: bool = False  # also read the masks of objects


class Group(NamedTuple):
    """A row group and its rows of the split, from `first` (included) to `after` (excluded)."""

    file: Path
    number: int
    first: int
    after: int


def split_files(root: Path, split: str) -> list[Path]:
    """List the Parquet files of a split at any depth, sorted by path; validation may be called val or valid.

    The split follows from the name of the file, as in `data/train-00000-of-00001.parquet`, or from that of its folder,
    as in `default/train/0000.parquet`.

    >>> split_files(Path("nowhere"), "train")
    []
    """
    return sorted(file for file in root.rglob("*.parquet") if _split_of(file.relative_to(root)) == split)


def _split_of(file: Path) -> str | None:
    if file.name.startswith("."):
        return None
    named = next((split for split, prefix in PREFIX.items() if file.name.startswith(prefix)), None)
    return named or FOLDERS.get(file.parent.name)


def list_parquet(files: list[Path], *, masks: bool = False) -> Listing:
    """List the rows of `files`, which must have the same columns; a null label becomes -1, no label.

    An object belongs to the row's class if its category, an integer, is the row's label, or if its list of class
    indices in `imagenet` contains the label. Without either, all objects belong to the row's class.
    """
    schema = _schema(files[0])
    columns, groups = _common_columns(files, masks), _groups(files)
    if groups and groups[-1].after > _MOST_ROWS:
        raise InputError(f"{files[0]}: a split should have at most {_MOST_ROWS:,} rows; got {groups[-1].after:,}")
    labels = [-1 if label is None else label for file in files for label in _column(file, columns.label)]
    most = max(labels, default=-1)
    if most >= _MOST_CLASSES:
        raise InputError(f"{files[0]}: labels in column {columns.label} should be below {_MOST_CLASSES:,}; got {most}")
    names = _class_names(schema, columns.label, files[0]) or tuple(map(str, range(most + 1)))
    paths = _paths(files, columns)
    samples = partial(_samples, groups, columns, labels, paths)
    listing = Listing(torch.tensor(labels, dtype=torch.int64), names, paths, samples, _clusters(files, columns))
    return checked_listing(listing, str(files[0]))


def _clusters(files: list[Path], columns: Columns) -> tuple[str, ...] | None:
    """Read the cluster of each row; a row without one is an error."""
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
    """Read the names of the images without their bytes; unnamed images are numbered."""
    stored = [(image or {}).get("path") for file in files for image in _column(file, columns.image, "path")]
    return tuple(path or f"row_{row:06d}" for row, path in enumerate(stored))


def _reading(file: Path) -> AbstractContextManager[None]:
    return parsing(f"cannot read {file} as Parquet")


def _schema(file: Path) -> "pa.Schema":
    import pyarrow.parquet as pq

    with _reading(file):
        return pq.read_schema(file)


def _column(file: Path, name: str, field: str | None = None) -> list[Any]:
    """Read a column, or one field of a struct column; its values are None if there is no such field."""
    import pyarrow.parquet as pq

    with _reading(file), pq.ParquetFile(file) as opened:
        table = opened.read(columns=[f"{name}.{field}" if field else name])
        return table[name].to_pylist() if table.num_columns else [None] * opened.metadata.num_rows


def _common_columns(files: list[Path], masks: bool) -> Columns:
    first, *others = (_columns(_schema(file), file, masks) for file in files)
    for file, columns in zip(files[1:], others, strict=True):
        if columns != first:
            raise InputError(
                f"{file}: all files of a split need the same columns; expected {first._asdict()} as in {files[0]},"
                f" got {columns._asdict()}"
            )
    return first


def _columns(schema: "pa.Schema", file: Path, masks: bool) -> Columns:
    from pyarrow import types

    if len(set(schema.names)) < len(schema.names):
        raise InputError(f"{file} has two columns of one name; its columns are {', '.join(schema.names)}")
    image = next((field.name for field in schema if _has_bytes(field.type)), None)
    integers = [field.name for field in schema if types.is_integer(field.type) and field.name != CLUSTER]
    label = next((name for name in LABELS if name in integers), integers[0] if len(integers) == 1 else None)
    if image is None or label is None:
        present = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise InputError(
            f"{file}: expected a struct column with a field `bytes` and an integer column named {' or '.join(LABELS)}"
            f" (or only one integer column); its columns are {present}"
        )
    if "objects" in schema.names:
        check_objects(schema.field("objects").type, file, masks=masks)
    elif masks:
        raise InputError(f"{file} has no column objects with masks; add one, or leave masks out")
    objects, cluster = (name if name in schema.names else None for name in ("objects", CLUSTER))
    return Columns(image, label, objects, cluster, masks)


def _has_bytes(kind: "pa.DataType") -> bool:
    """Return True for a struct whose field `bytes` holds bytes and whose field `path`, if any, holds text."""
    from pyarrow import types

    if not has_field(kind, "bytes"):
        return False
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    binary = types.is_binary(fields["bytes"]) or types.is_large_binary(fields["bytes"])
    path = fields.get("path")
    return binary and (path is None or types.is_string(path) or types.is_large_string(path) or types.is_null(path))


class HubMetadata(BaseModel):
    """Metadata that the Hub adds to a schema; only the class names are read."""

    class Info(BaseModel):
        """Description of a data set."""

        features: dict[str, Any] = {}  # by column

    info: Info = Info()


class ClassNames(BaseModel):
    """Names of all classes in the order of their labels."""

    names: tuple[str, ...] = Field(max_length=_MOST_CLASSES)


def _class_names(schema: "pa.Schema", label: str, file: Path) -> tuple[str, ...] | None:
    metadata, failure = schema.metadata or {}, f"{file} names its classes in no way that is known"
    with parsing(failure):
        own, hub = (json.loads(metadata.get(key, b"{}")) for key in (b"class_names", b"huggingface"))
    if b"class_names" in metadata:
        return validated(ClassNames, {"names": own}, failure).names
    feature = validated(HubMetadata, hub, failure).info.features.get(label)
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
            objects = record[columns.objects] or {} if columns.objects else None
            yield Sample(
                partial(_decode, content, names[row], row),
                None if objects is None else partial(read_objects, objects, labels[row], masked=columns.masks),
            )


def _batches(
    groups: tuple[Group, ...], columns: Columns, wanted: list[int]
) -> Iterator[tuple[Path, int, "pa.RecordBatch"]]:
    """Read the row groups that hold wanted rows in batches, each with its file and the number of its first row."""
    import pyarrow.parquet as pq

    names = [columns.image, *([columns.objects] if columns.objects else [])]
    needed = [group for group in groups if bisect_left(wanted, group.first) < bisect_left(wanted, group.after)]
    for file, file_groups in groupby(needed, key=attrgetter("file")):
        with _reading(file), pq.ParquetFile(file) as opened:
            for group in file_groups:
                first = group.first
                for batch in opened.iter_batches(_ROWS_AT_ONCE, row_groups=[group.number], columns=names):
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
