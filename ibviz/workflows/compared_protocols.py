"""One method's maps of a source of images judged under every protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ibviz.attribution.catalogue import checked_options, method_of
from ibviz.attribution.methods import explain
from ibviz.benchmark.class_match import match_classes
from ibviz.benchmark.comparison import compare_protocols, comparison_text
from ibviz.data.image_set import ImageSet, regions, to_float
from ibviz.errors import InputError
from ibviz.models.loading import Classifier
from ibviz.types import Labels
from ibviz.workflows.image_source import read_source


def compare_protocols_on(
    source: Path, model: Classifier, method: str, options: Mapping[str, Any], *, limit: int | None = None
) -> str:
    """Judge one method's maps of the images at `source` under every protocol, and return the tables as text.

    Args:
        source: An image, a folder of images, or a folder of Parquet files.
        model: The model to explain.
        method: The name of the method.
        options: The options of the method.
        limit: The largest number of images.
    """
    checked_options(method_of(method), options)
    given = read_source(source, model, limit).images
    images = to_float(given.images).to(next(model.parameters()).device)
    maps = explain(model, images, method, **options)
    compared = compare_protocols(model, images, maps, labels=known_labels(given, model), regions=regions(given))
    return comparison_text(compared, len(images))


def known_labels(given: ImageSet, model: Classifier) -> Labels | None:
    """Return the labels in the model's classes; None if the data has other classes."""
    try:
        return match_classes(given, model).labels
    except InputError:
        return None
