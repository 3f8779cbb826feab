"""Exploration of anchors in a notebook: a widget on a model and images, or on the folder of a result."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from ibviz.anchors.batches import require_attention
from ibviz.attribution.door import admitted
from ibviz.attribution.methods import explain, predict
from ibviz.benchmark.ranking import Frame
from ibviz.benchmark.results import Results, read_results
from ibviz.data.decode import decode, to_tensor
from ibviz.data.image_set import ImageSet, to_float
from ibviz.errors import InputError
from ibviz.figures.report import Picture, Prediction, Report, ReportComparison, ReportModel
from ibviz.models.classifier import IBClassifier
from ibviz.reading import AnyPath
from ibviz.types import AttentionMap, Boxes, Given, Images, Labels
from ibviz.workflows.compared_protocols import known_labels
from ibviz.workflows.image_source import read_source
from ibviz.workflows.report import pictures_of, subjects_of

if TYPE_CHECKING:
    from ibviz.workflows.explorer import Explorer


class Exhibit(NamedTuple):
    """Contents of a widget: pictures with maps, the same as tensors, and the model that can be asked again."""

    report: Report
    images: Images
    boxes: Boxes | None = None
    model: IBClassifier | None = None
    image_set: ImageSet | None = None


def explore(
    model: nn.Module | Results | AnyPath,
    images: ImageSet | Given | AnyPath | None = None,
    *,
    boxes: Boxes | None = None,
    labels: Labels | None = None,
) -> "Explorer":
    """Return a widget that lights the cells of chosen anchors and intervenes on them, for Jupyter and its like.

    Args:
        model: A network with trained attention and anchors; or a result of `ibviz evaluate` or its folder, whose stored
            pictures and maps are shown without interventions.
        images: Images of the network, as an `ImageSet` or `(b, 3, h, w)` in [0, 1], which are kept in 256 steps; or the
            path of an image, a folder of images, or a folder of Parquet files, fitted to the network's size.
        boxes: The object of each image as x0, y0, x1, y1 in pixels; those of an `ImageSet` if not given.
        labels: The true class of each image; those of an `ImageSet` if not given.

    Returns:
        A widget of `anywidget`. What was picked is in its `anchors`, `image` and `effect`, and `figure()` draws it.

    Raises:
        InputError: There are no images, no anchors, or `anywidget` is not installed.

    >>> from ibviz.models.loading import load
    >>> from ibviz.data.synthetic import digits
    >>> widget = explore(load("digits"), digits("test", count=4, seed=0))
    >>> widget.anchors = [18, 19]
    >>> widget.intervene("drop").change.n
    4
    """
    try:
        from ibviz.workflows.explorer import Explorer
    except ImportError as error:
        raise InputError("ibviz.explore needs anywidget; install it: pip install 'ibviz[notebooks]'") from error
    if isinstance(model, Results | str | Path):
        if images is not None:
            raise InputError("a result brings its own images; leave images out, or explore a model")
        return Explorer(exhibit_of_result(model if isinstance(model, Results) else read_results(model)))
    return Explorer(exhibit_of_model(model, images, boxes, labels))


def exhibit_of_model(
    model: nn.Module, images: ImageSet | Given | AnyPath | None, boxes: Boxes | None, labels: Labels | None
) -> Exhibit:
    """Return what is shown of a model: its attention over images, and what it predicts."""
    trained = require_attention(model)
    if trained.quantizer is None:
        raise InputError(
            "this network's attention is continuous: it has no anchors to pick; train it with anchors = 20"
        )
    given = _image_set(trained, images, boxes, labels)
    floats = to_float(given.images)
    shown = floats.to(next(trained.parameters()).device)
    maps, probabilities = explain(trained, shown, "attention"), predict(trained, shown)
    assert isinstance(maps, AttentionMap)
    maps = AttentionMap(**{name: part.cpu() for name, part in vars(maps).items()})  # quantised, so that none is None
    names, best = trained.spec.class_names, probabilities.max(1)
    rows = list(zip(best.indices.tolist(), best.values.tolist(), given.labels.tolist(), strict=True))
    answers = [Prediction(names[row], share, None if label < 0 else row == label) for row, share, label in rows]
    edges = [None] * len(rows) if given.boxes is None else [_edges(box) for box in given.boxes]
    pictures = [
        Picture(name, pixels.permute(1, 2, 0).numpy(), None if label < 0 else given.class_names[label], box)
        for name, pixels, label, box in zip(given.names, given.images, given.labels.tolist(), edges, strict=True)
    ]
    subject = ReportModel(answers, {"Attention": maps})
    return Exhibit(_report(pictures, {"model": subject}), floats, given.boxes, trained, given)


def exhibit_of_result(results: Results) -> Exhibit:
    """Return what is shown of a result: its stored pictures, and those of its maps that have anchors."""
    kept: Frame = results.images[results.images["picture"].notna()]
    if not len(kept):
        raise InputError(f"{results.folder} keeps no pictures, which are explored; run the suite with pictures = 200")
    subjects = {
        name: subject._replace(maps=maps)
        for name, subject in subjects_of(results, kept["image"].tolist()).items()
        if (maps := {method: own for method, own in subject.maps.items() if _has_index(own)})
    }
    if not subjects:
        raise InputError(f"{results.folder} keeps no attention with anchors, which are explored; see `ibviz report`")
    pictures = pictures_of(kept, results.circumstances)
    pixels = torch.stack(
        [to_tensor(decode(png, name)) for png, name in zip(kept["picture"], kept["name"], strict=True)]
    )
    boxes = torch.tensor([[torch.nan] * 4 if picture.box is None else list(picture.box) for picture in pictures])
    return Exhibit(_report(pictures, subjects), to_float(pixels), None if boxes.isnan().all() else boxes)


def _has_index(maps: object) -> bool:
    return isinstance(maps, AttentionMap) and maps.index is not None


def _edges(box: torch.Tensor) -> list[float] | None:
    return None if box.isnan().any() else box.tolist()


def _report(pictures: list[Picture], subjects: dict[str, ReportModel]) -> Report:
    comparisons = [ReportComparison(name, "", {}, [], {}, {}) for name in subjects]
    return Report("Anchors", "", pictures, subjects, comparisons)


def _read(source: Path, model: IBClassifier) -> ImageSet:
    """Return the images at a path, with labels in the network's classes as far as they are known."""
    given = read_source(source, model, None).images
    labels = known_labels(given, model)
    unknown = torch.full((len(given.images),), -1)
    return given._replace(labels=unknown if labels is None else labels, class_names=model.spec.class_names)


def _image_set(
    model: IBClassifier, images: ImageSet | Given | AnyPath | None, boxes: Boxes | None, labels: Labels | None
) -> ImageSet:
    """Return images with names, labels and boxes, whatever form they came in."""
    if isinstance(images, str | Path):
        images = _read(Path(images), model)
    if images is None or not len(images.images if isinstance(images, ImageSet) else images):
        raise InputError("there is nothing to explore without images; give some: ibviz.explore(model, images)")
    if isinstance(images, ImageSet):
        own = images
    else:
        pixels = (admitted(model, images).cpu() * 255).round().to(torch.uint8)
        names = tuple(f"image {number}" for number in range(len(pixels)))
        own = ImageSet(pixels, torch.full((len(pixels),), -1), model.spec.class_names, names)
    own = own if boxes is None else own._replace(boxes=boxes)
    own = own if labels is None else own._replace(labels=labels)
    for what, given in (("boxes", own.boxes), ("labels", own.labels)):
        if given is not None and len(given) != len(own.images):
            raise InputError(f"{what} are one per image: expected {len(own.images)}; got {len(given)}")
    return own
