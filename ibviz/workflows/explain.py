"""Explanations of image files as panels and exact maps; and one method judged under every protocol."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from warnings import warn

import torch

from ibviz.attribution.catalogue import METHODS, Explanation, checked_options, method_of
from ibviz.attribution.map_files import save_maps
from ibviz.attribution.methods import explain, predict
from ibviz.benchmark.class_match import match_classes
from ibviz.benchmark.comparison import compare_protocols, comparison_text
from ibviz.data.config import DataConfig
from ibviz.data.decode import read_image
from ibviz.data.folder import IMAGE_SUFFIXES, image_files
from ibviz.data.image_set import ImageSet, regions, skipped, to_float
from ibviz.data.listing import Listing, Part, Sample, decoded, writable
from ibviz.data.listing import load_part as decode
from ibviz.data.objects import View
from ibviz.data.sources import find_part, view_of
from ibviz.errors import InputError
from ibviz.figures import panel
from ibviz.files import ensure_folder, remove_abandoned
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.types import Images, Labels
from ibviz.workflows.captions import PICTURES_PER_ROW, class_caption
from ibviz.workflows.model import describe

ALL_METHODS = "all"
Unfit = Callable[[str, InputError], object]  # called with a method that does not fit the model, and the reason


def raise_unfit(_method: str, error: InputError) -> None:
    """Raise the error; for methods that the user named, which have to fit the model."""
    raise error


def check_methods(names: str) -> None:
    """Refuse an unknown method in a list with commas, before a network is loaded.

    >>> check_methods("grad_cam, all")
    """
    for name in _listed(names):
        if name != ALL_METHODS:
            method_of(name)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def choose_methods(names: str, layer: str | None, *, trained: bool) -> dict[str, dict[str, Any]]:
    """Return methods from a comma-separated list, with the layer as an option of those that take one.

    An empty list stands for the usual methods of the model; "all" stands for all methods but controls.

    >>> choose_methods("grad_cam,uniform", "stem", trained=True)
    {'grad_cam': {'layer': 'stem'}, 'uniform': {}}
    """
    chosen = _listed(names)
    usual = [*(["attention"] if trained else []), "grad_cam", "integrated_gradients"]
    if chosen == [ALL_METHODS]:
        chosen = [name for name, method in METHODS.items() if not method.control]
    methods: dict[str, dict[str, Any]] = {name: {} for name in chosen or usual}
    if layer is None:
        return methods
    with_layer = [name for name in methods if "layer" in method_of(name).options]
    if not with_layer:
        raise InputError(
            f"--layer is for methods at a layer, such as grad_cam, of which there is none among "
            f"{', '.join(methods)}; add one or leave --layer out"
        )
    return methods | {name: {"layer": layer} for name in with_layer}


def explain_files(
    source: Path,
    model: Classifier,
    methods: Mapping[str, Mapping[str, Any]],
    out: Path,
    *,
    limit: int | None = None,
    unfit: Unfit = raise_unfit,
) -> list[Path]:
    """Explain an image, a folder of images, or the test split of a folder of Parquet files.

    Each page of at most six columns is written as `panel-NN.png`, `.pdf`, a sidecar `.json`, and `maps-NN.safetensors`
    with the exact maps. The predicted class is explained, and also the runner-up if a method depends on the class.

    Args:
        source: The image or folder.
        model: The model to explain.
        methods: Methods with their options.
        out: The folder for panels and maps.
        limit: The largest number of images.
        unfit: Called for methods that do not fit the model, which are then left out; by default it raises the error.

    Returns:
        The paths of the PNG panels.

    Raises:
        InputError: There are no readable images, or options are not valid.
    """
    for method, options in methods.items():
        checked_options(method_of(method), options)
    given = read_source(source, model, limit)
    names, pixels = given.names, given.images
    ensure_folder(out)
    remove_abandoned(out)
    device = next(model.parameters()).device
    classes = 1 if all(method_of(name).target_free for name in methods) else min(2, len(model.spec.class_names))
    common = {
        "source": str(source),
        "model": describe(model),
        "target": ["predicted class", "runner-up"][:classes],
        "skipped": [fault.name for fault in given.faults],
        "fit": f"short side to {model.spec.resize or model.spec.size}, centre crop {model.spec.size}",
    }
    written, left = [], dict(methods)
    pages = range(0, len(names), PICTURES_PER_ROW // classes)
    for number, start in enumerate(progress(pages, "pages", show=len(pages) > 1), 1):
        shown = slice(start, start + PICTURES_PER_ROW // classes)
        images = to_float(pixels[shown]).to(device)
        maps, captions = explain_images(model, images, left, classes=classes, unfit=unfit)
        left = {name: options for name, options in left.items() if method_of(name).label in maps}
        options_of = {name: dict(options) for name, options in left.items()}
        record = common | {"methods": options_of, "images": list(names[shown])}
        stem = out / f"panel-{number:02d}"
        drawn = panel(images.repeat_interleave(classes, 0), maps, captions=captions, record=record)
        drawn.save(stem.with_suffix(".png"))
        drawn.save(stem.with_suffix(".pdf"))
        save_maps(out / f"maps-{number:02d}.safetensors", maps, record)
        written.append(stem.with_suffix(".png"))
    return written


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
    given = read_source(source, model, limit)
    images = to_float(given.images).to(next(model.parameters()).device)
    maps = explain(model, images, method, **options)
    compared = compare_protocols(model, images, maps, labels=_labels(given, model), regions=regions(given))
    return comparison_text(compared, len(images))


def _labels(given: ImageSet, model: Classifier) -> Labels | None:
    """Return the labels in the model's classes; None if the data has other classes."""
    try:
        return match_classes(given, model).labels
    except InputError:
        return None


def read_source(source: Path, model: Classifier, limit: int | None) -> ImageSet:
    """Read the images at `source`, resized to the model's input, with labels and objects if Parquet files hold them.

    Images of a folder that cannot be read are left out, listed in a warning and in `faults`.
    """
    spec = model.spec
    folder = os.path.isdir(source)
    paths = image_files(source) if folder else [source]
    if not paths and list(source.rglob("*.parquet")):
        config = DataConfig(source="parquet", image_size=spec.side, resize=spec.resize)
        part = find_part(config, "test", source)
        return decode(part._replace(rows=part.rows[:limit]), view_of(config))
    if not paths:
        raise InputError(f"{source} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no Parquet files")
    given = decoded(_files(paths[:limit]), View(spec.side, spec.resize), show=folder)
    if not given.names:
        first, *others = given.faults
        raise InputError(first.reason + f"; {len(others)} others cannot be read either" * bool(others))
    if given.faults:
        warn(skipped(given.faults), UserWarning, stacklevel=2)
    return given


def _files(paths: Sequence[Path]) -> Part:
    """Return image files without labels as a split that is not decoded yet."""
    names = tuple(writable(path.name) for path in paths)
    listing = Listing(
        torch.full((len(paths),), -1),
        (),
        names,
        lambda rows: (Sample(partial(read_image, paths[row])) for row in rows.tolist()),
    )
    return Part(listing, torch.arange(len(paths)))


def explain_images(
    model: Classifier, images: Images, methods: Mapping[str, Mapping[str, Any]], *, classes: int = 1, unfit: Unfit
) -> tuple[dict[str, Explanation], list[str]]:
    """Explain the most probable classes of each image by several methods.

    Args:
        model: The model to explain.
        images: Images `(b, channels, h, w)` in [0, 1], on the model's device.
        methods: Methods with their options.
        classes: The number of classes per image.
        unfit: Called for methods that do not fit the model, which are then left out.

    Returns:
        Maps by method label, and captions, for `b * classes` pairs of an image and a class.
    """
    answers = predict(model, images)
    classes = min(classes, answers.shape[1])
    best = answers.topk(classes)
    places = torch.arange(len(images), device=images.device).repeat_interleave(classes)
    maps: dict[str, Explanation] = {}
    for name, options in progress(methods.items(), "methods", total=len(methods), show=len(methods) > 1):
        method = method_of(name)
        shown, targets = (
            (images, best.indices[:, 0]) if method.target_free else (images[places], best.indices.flatten())
        )
        try:
            explanation = explain(model, shown, name, targets=targets, **options)
        except InputError as error:
            unfit(name, error)
        else:
            maps[method.label] = explanation[places] if method.target_free else explanation
    named = [
        class_caption(model.spec.class_names[index], value)
        for index, value in zip(best.indices.flatten().tolist(), best.values.flatten().tolist(), strict=True)
    ]
    return maps, [name + "\n(runner-up)" * (row % classes > 0) for row, name in enumerate(named)]
