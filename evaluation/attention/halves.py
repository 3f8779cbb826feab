"""Cut a data set of Parquet files in halves by class: settings are found on one, and reported on the other.

usage: python evaluation/attention/halves.py DATA OUT

DATA holds train.parquet and validation.parquet with columns image, label and objects, and class names in the schema, as
Tiny ImageNet has them on the Hugging Face Hub. OUT/tuning gets the classes of even number, OUT/reported those of odd
number, OUT/all both; the validation images are the test images there, for training keeps some of its own back.
OUT/all-tuning and OUT/all-reported hold the test images of each half with the numbers of all classes, for networks
trained on OUT/all; OUT/all-tuning-small and OUT/all-reported-small those of them whose boxes take less than a quarter
of the image, as in the difficult images of Zhang et al. (2018).
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HALVES = {"tuning": 0, "reported": 1}
FILES = {"train": "train.parquet", "validation": "test.parquet"}
GROUP = 500  # rows a row group
AREA = 64 * 64  # pixels of an image


def cut(data: Path, out: Path) -> None:
    for split, file in FILES.items():
        table = pq.read_table(data / f"{split}.parquet")
        names = json.loads((table.schema.metadata or {})[b"class_names"])
        write(out / "all" / file, table, names)
        for half, parity in HALVES.items():
            kept = table.filter([label % 2 == parity for label in table["label"].to_pylist()])
            write(out / half / file, renumbered(kept), names[parity::2])
            if split == "validation":
                write(out / f"all-{half}" / file, kept, names)
                write(out / f"all-{half}-small" / file, small(kept), names)


def small(table: pa.Table) -> pa.Table:
    """Images whose boxes take less than a quarter of the image."""
    areas = (sum(w * h for _, _, w, h in boxes["bbox"]) for boxes in table["objects"].to_pylist())
    return table.filter([0 < area < AREA / 4 for area in areas])


def renumbered(table: pa.Table) -> pa.Table:
    """Labels and categories of objects by their place among the classes of a half."""
    labels = pa.array([label // 2 for label in table["label"].to_pylist()], pa.int64())
    objects = [
        {**boxes, "category": [number // 2 for number in boxes["category"]]} for boxes in table["objects"].to_pylist()
    ]
    columns = {
        "image": table["image"],
        "label": labels,
        "objects": pa.array(objects, table.schema.field("objects").type),
    }
    return pa.table(columns)


def write(path: Path, table: pa.Table, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = table.replace_schema_metadata({"class_names": json.dumps(names)})
    pq.write_table(stated, path, row_group_size=GROUP, compression="none")
    print(f"{path}: {table.num_rows} images of {len(names)} classes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    cut(Path(sys.argv[1]), Path(sys.argv[2]))
