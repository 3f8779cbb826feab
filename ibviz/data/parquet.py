"""Parquet files as on the Hugging Face Hub: an image column of bytes, a label column, perhaps boxes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ibviz.data.decode import decode
from ibviz.data.listing import Box, Indices, Listing, Sample, checked
from ibviz.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = {"train": "train", "validation": "val", "test": "test"}  # val: also valid and validation
FOLDERS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
LABELS = ("label", "labels", "fine_label")
BATCH = 256  # rows held at once


class Columns(NamedTuple):
    """Names of the columns that matter."""

    image: str
    label: str
    objects: str | None  # with `bbox`: lists of x, y, width, height in pixels of the stored image


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

    A row's box is that of the object whose category is its label, if categories are integers (or `imagenet` lists
    class indices for each object), else that of the largest object.
    """
    schema = _schema(files[0])
    columns = _common_columns(files)
    labels = [-1 if label is None else label for file in files for label in _column(file, columns.label)]
    names = _class_names(schema, columns.label) or tuple(str(number) for number in range(max([*labels, -1]) + 1))
    listing = Listing(torch.tensor(labels, dtype=torch.int64), names, partial(_samples, files, columns, labels))
    return checked(listing, str(files[0]))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # Arrow checks text only as it becomes Python's
        raise InputError(f"cannot read {file} as Parquet: {error}") from error


def _schema(file: Path) -> "pa.Schema":
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    with _reading(file):
        return pq.read_schema(file)


def _column(file: Path, name: str) -> list[Any]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    with _reading(file):
        return pq.read_table(file, columns=[name])[name].to_pylist()


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
    from pyarrow import types  # noqa: PLC0415 - slow to import

    image = next((one.name for one in schema if _has_field(one.type, "bytes")), None)
    integers = [one.name for one in schema if types.is_integer(one.type)]
    label = next((name for name in LABELS if name in integers), integers[0] if len(integers) == 1 else None)
    if image is None or label is None:
        raise InputError(
            f"{file}: expected a struct column with a field `bytes` and an integer column named {' or '.join(LABELS)}"
            f" (or only one integer column); its columns are {', '.join(f'{one.name}: {one.type}' for one in schema)}"
        )
    boxed = "objects" in schema.names and _has_field(schema.field("objects").type, "bbox")
    return Columns(image, label, "objects" if boxed else None)


def _has_field(kind: "pa.DataType", name: str) -> bool:
    from pyarrow import types  # noqa: PLC0415 - slow to import

    return types.is_struct(kind) and name in [kind.field(index).name for index in range(kind.num_fields)]


def _class_names(schema: "pa.Schema", label: str) -> tuple[str, ...] | None:
    metadata = schema.metadata or {}
    if b"class_names" in metadata:
        return tuple(json.loads(metadata[b"class_names"]))
    hub = json.loads(metadata.get(b"huggingface", b"{}"))
    names = hub.get("info", {}).get("features", {}).get(label, {}).get("names")
    return tuple(names) if names else None


def _samples(files: list[Path], columns: Columns, labels: list[int], indices: Indices) -> Iterator[Sample]:
    wanted, row = set(indices.tolist()), 0
    for file, batch in _batches(files, columns):
        here = [one for one in range(len(batch)) if row + one in wanted]
        with _reading(file):
            records = batch.take(here).to_pylist()
        for one, record in zip(here, records, strict=True):
            yield _sample(record, columns, row + one, labels[row + one])
        row += len(batch)


def _batches(files: list[Path], columns: Columns) -> Iterator[tuple[Path, "pa.RecordBatch"]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    names = [columns.image, *([columns.objects] if columns.objects else [])]
    for file in files:
        with _reading(file), pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BATCH, columns=names):
                yield file, batch


def _sample(record: dict[str, Any], columns: Columns, row: int, label: int) -> Sample:
    image = record[columns.image] or {}
    name = image.get("path") or f"row_{row:06d}"
    if not image.get("bytes"):
        raise InputError(f"{name} (row {row}) has no bytes in column {columns.image}; embed the image files")
    box = labelled_box(record[columns.objects] or {}, label) if columns.objects else None
    return Sample(decode(image["bytes"], name), name, box)


def labelled_box(objects: dict[str, Any], label: int) -> Box | None:
    """Edges of the largest object of the label, or of the largest one where categories are not integers.

    >>> labelled_box({"bbox": [[0, 0, 9, 9], [1, 2, 3, 4]], "category": [5, 7]}, 7)
    (1.0, 2.0, 4.0, 6.0)
    """
    boxes = objects.get("bbox") or []
    classes = objects.get("imagenet") or objects.get("category") or []
    if any(isinstance(one, int | list) for one in classes):
        boxes = [
            box for box, one in zip(boxes, classes, strict=True) if label in (one if isinstance(one, list) else [one])
        ]
    if not boxes:
        return None
    x, y, width, height = map(float, max(boxes, key=lambda box: box[2] * box[3]))
    return x, y, x + width, y + height
