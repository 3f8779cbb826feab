"""One method's maps of a source of images judged under every protocol."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibviz.attribution.catalogue import checked_options, method_of
from ibviz.attribution.methods import explain
from ibviz.benchmark.class_match import match_classes
from ibviz.benchmark.comparison import Comparison, compare_protocols, comparison_text, outcome_sheet
from ibviz.benchmark.tables import NEEDS
from ibviz.data.image_set import ImageSet, regions, to_float
from ibviz.errors import InputError
from ibviz.figures import dots
from ibviz.files import ensure_folder, remove_abandoned, replacing
from ibviz.models.loading import Classifier
from ibviz.table_formats import csv_rows, latex_of
from ibviz.types import Labels
from ibviz.workflows.image_source import read_source

_STEM = "protocols"  # of the files


def compare_protocols_on(
    source: Path,
    model: Classifier,
    method: str,
    options: Mapping[str, Any],
    *,
    limit: int | None = None,
    out: Path | None = None,
) -> str:
    """Judge one method's maps of the images at `source` under every protocol, and return the tables as text.

    Args:
        source: An image, a folder of images, or a folder of Parquet files.
        model: The model to explain.
        method: The name of the method.
        options: The options of the method.
        limit: The largest number of images.
        out: Folder for `protocols.csv`, `protocols.tex` and a figure; None: nothing is written.
    """
    checked_options(method_of(method), options)
    given = read_source(source, model, limit).images
    images = to_float(given.images).to(next(model.parameters()).device)
    maps = explain(model, images, method, **options)
    compared = compare_protocols(model, images, maps, labels=known_labels(given, model), regions=regions(given))
    text = comparison_text(compared, len(images))
    if out is not None:
        ensure_folder(out)
        remove_abandoned(out)
        _write(compared, out, method_of(method).label, len(images), text)
    return text


def _write(compared: Comparison, out: Path, label: str, count: int, text: str) -> None:
    """Write the tables, and a figure with a row for each choice that was changed."""
    rows = [("preset", outcome) for outcome in compared.presets] + [("change", outcome) for outcome in compared.moves]
    header = ["kind", *compared.presets[0]._fields]
    cells = [[kind, *(None if value != value else value for value in outcome)] for kind, outcome in rows]
    sheets = [
        outcome_sheet(compared.presets, f"{label} under each preset, means over {count} images"),
        outcome_sheet(compared.moves, "The default with one choice changed"),
    ]
    contents = {
        "csv": csv_rows(header, cells),
        "tex": "\n\n".join([NEEDS, *map(latex_of, sheets)]) + "\n",
        "txt": text + "\n",
    }
    for suffix, content in contents.items():
        with replacing(out / f"{_STEM}.{suffix}") as beside:
            beside.write_text(content, encoding="utf-8")
    default = compared.presets[0]
    moved = {outcome.name: math.nan if math.isnan(outcome.moved) else outcome.srg for outcome in compared.moves}
    drawn = dots(
        {default.name: default.srg, **moved},
        reference=default.name,
        axis="SRG",
        missing="in another unit",
        title=f"{label}: the default with one choice changed",
        record={"images": count, "protocol": default.hash},
    )
    for suffix in (".png", ".pdf"):
        drawn.save(out / f"{_STEM}{suffix}")


def known_labels(given: ImageSet, model: Classifier) -> Labels | None:
    """Return the labels in the model's classes; None if the data has other classes."""
    try:
        return match_classes(given, model).labels
    except InputError:
        return None
