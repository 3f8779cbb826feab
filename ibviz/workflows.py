"""Whole jobs of the command line, from files to files: explain pictures, run a suite with its figures, the demo."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibviz.attribution.methods import CONTROLS, METHODS, Explanation, bind, explain, options_of, predict
from ibviz.benchmark.compare_protocols import compare_protocols, page
from ibviz.benchmark.suite import SuiteRun, run_suite
from ibviz.config import DataConfig, Recipe, SuiteConfig
from ibviz.data.decode import fit, read_image
from ibviz.data.folder import SUFFIXES, image_files
from ibviz.data.image_set import select, to_float
from ibviz.data.listing import load as decode
from ibviz.data.sources import find_part, load_images, view_of
from ibviz.errors import InputError
from ibviz.figures import curves, panel
from ibviz.files import ensure_folder
from ibviz.models.checkpoint import write_tensors
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import Classifier, load
from ibviz.progress import progress
from ibviz.training.loop import train, validate
from ibviz.training.supply import supply
from ibviz.types import AttentionMap, Images

COLUMNS = 6  # pictures side by side in a figure
ALL = "all"
Unfit = Callable[[str, InputError], object]  # hears of a method, and why it does not fit the model


def refuse(method: str, error: InputError) -> None:
    """A method that was asked for by name has to fit the model."""
    del method
    raise error


def load_on(name: str, weights: Path | None, device: str) -> Classifier:
    """Load a classifier onto a device; `auto` is the first GPU, or the CPU where there is none."""
    model = load(name, weights=weights).to(memory_format=torch.channels_last)  # convolutions prefer it
    try:
        return model.to("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def choose_methods(names: str, layer: str | None, *, trained: bool) -> dict[str, dict[str, Any]]:
    """Methods from a list with commas, with the layer where one is given; by default those that fit the model.

    "all" stands for every method that is no control.

    >>> choose_methods("grad_cam,uniform", "stem", trained=True)
    {'grad_cam': {'layer': 'stem'}, 'uniform': {}}
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    usual = [*(["attention"] if trained else []), "grad_cam", "integrated_gradients"]
    if chosen == [ALL]:
        chosen = [name for name, method in METHODS.items() if not method.control]
    methods: dict[str, dict[str, Any]] = {name: {} for name in chosen or usual}
    if layer is None:
        return methods
    with_layer = [name for name in methods if name in METHODS and "layer" in options_of(name)]
    if not with_layer:
        raise InputError(f"--layer is for methods at a layer, such as grad_cam, of which there is none among "
                         f"{', '.join(methods)}; add one or leave --layer out")  # fmt: skip
    return methods | {name: {"layer": layer} for name in with_layer}


def explain_files(
    source: Path,
    model: Classifier,
    methods: Mapping[str, Mapping[str, Any]],
    out: Path,
    *,
    limit: int | None = None,
    unfit: Unfit = refuse,
) -> list[Path]:
    """Explain an image, a folder of images or the test split of a folder of Parquet files; return the panels written.

    Each page of at most six columns becomes `panel-NN.png`, `.pdf`, a sidecar `.json`, and `maps-NN.safetensors` with
    the exact maps. The predicted class is explained and, where a method depends on the class, the runner-up beside it.
    `unfit` hears of methods that do not fit the model, which are then left out; by default it raises the error.
    """
    for method, options in methods.items():
        bind(method, options)
    names, pixels = read_source(source, model, limit)
    ensure_folder(out)
    device = next(model.parameters()).device
    classes = 1 if all(METHODS[name].target_free for name in methods) else min(2, len(model.spec.class_names))
    common = {
        "source": str(source),
        "model": describe(model),
        "target": ["predicted class", "runner-up"][:classes],
        "fit": f"short side to {model.spec.resize or model.spec.size}, centre crop {model.spec.size}",
    }
    written, left = [], dict(methods)
    pages = range(0, len(names), COLUMNS // classes)
    for number, start in enumerate(progress(pages, "explaining"), 1):
        shown = slice(start, start + COLUMNS // classes)
        images = to_float(pixels[shown]).to(device)
        maps, captions = explain_images(model, images, left, classes=classes, unfit=unfit)
        left = {name: options for name, options in left.items() if METHODS[name].label in maps}
        record = common | {"methods": {name: dict(one) for name, one in left.items()}, "images": list(names[shown])}
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
    """One method's maps of the images at `source` under every protocol, as two tables."""
    bind(method, options)
    _, pixels = read_source(source, model, limit)
    images = to_float(pixels).to(next(model.parameters()).device)
    presets, moves = compare_protocols(model, images, explain(model, images, method, **options))
    return page(presets, moves, len(images))


def read_source(source: Path, model: Classifier, limit: int | None) -> tuple[Sequence[str], Tensor]:
    """Names and pixels of the images at `source`, fitted to the model's input."""
    spec = model.spec
    paths = image_files(source) if source.is_dir() else [source]
    if not paths and list(source.rglob("*.parquet")):
        config = DataConfig(source="parquet", image_size=spec.size, resize=spec.resize)
        part = find_part(config, "test", source)
        split = decode(part._replace(rows=part.rows[:limit]), view_of(config))
        return split.names, split.images
    if not paths:
        raise InputError(f"{source} holds no images ({', '.join(SUFFIXES)}) and no Parquet files")
    paths = paths[:limit]
    fitted = [fit(read_image(path), spec.size, spec.resize) for path in progress(paths, "reading")]
    return [path.name for path in paths], torch.stack(fitted)


def explain_images(
    model: Classifier, images: Images, methods: Mapping[str, Mapping[str, Any]], *, classes: int = 1, unfit: Unfit
) -> tuple[dict[str, Explanation], list[str]]:
    """Maps under the methods' labels, and captions: for each image a row for each of its most probable `classes`."""
    best = predict(model, images).topk(classes)
    places = torch.arange(len(images), device=images.device).repeat_interleave(classes)
    maps: dict[str, Explanation] = {}
    for name, options in methods.items():
        method = METHODS[name]
        shown, targets = (
            (images, best.indices[:, 0]) if method.target_free else (images[places], best.indices.flatten())
        )
        try:
            found = explain(model, shown, name, targets=targets, **options)
        except InputError as error:
            unfit(name, error)
        else:
            maps[method.label] = _rows(found, places) if method.target_free else found
    named = [f"{model.spec.class_names[index]} {value:.2f}" for index, value in
             zip(best.indices.flatten().tolist(), best.values.flatten().tolist(), strict=True)]  # fmt: skip
    return maps, [name + "\n(runner-up)" * (row % classes > 0) for row, name in enumerate(named)]


def captions_of(model: Classifier, probabilities: Tensor, labels: Tensor | None = None) -> list[str]:
    """Predicted class and its probability; below it the true class where the prediction is wrong."""
    names, best = model.spec.class_names, probabilities.max(1)
    truth = best.indices.tolist() if labels is None else labels.tolist()
    return [
        f"{names[index]} {value:.2f}" + (f"\n(is {names[label]})" if index != label >= 0 else "")
        for index, value, label in zip(best.indices.tolist(), best.values.tolist(), truth, strict=True)
    ]


def save_maps(path: Path, maps: Mapping[str, Explanation], record: Mapping[str, Any]) -> None:
    """Keep maps exactly: anchor index and table where there are anchors, float32 otherwise."""
    tensors: dict[str, Tensor] = {}
    for name, explanation in maps.items():
        if isinstance(explanation, AttentionMap) and explanation.index is not None and explanation.anchors is not None:
            tensors |= {f"{name}/index": explanation.index.to(torch.int16), f"{name}/anchors": explanation.anchors}
        else:
            tensors[name] = explanation.mean if isinstance(explanation, AttentionMap) else explanation
    write_tensors(path, tensors, {"kind": "maps", "record": record})


def describe(model: Classifier) -> dict[str, Any]:
    """What a sidecar says of a model."""
    if isinstance(model, IBClassifier):
        return {"kind": "ibviz", **model.config.model_dump()}
    return {"kind": type(model.network).__name__, "size": model.spec.size}


def evaluate_suite(suite: SuiteConfig, model: Classifier, out: Path, *, root: Path | None = None) -> SuiteRun:
    """Run a suite, then draw a panel of its first images and the curves of all methods."""
    run = run_suite(suite, model, out, root=root)
    draw_panel(run, model, out / "panel")
    draw_curves(run, out / "curves")
    return run


def draw_panel(run: SuiteRun, model: Classifier, stem: Path) -> None:
    """The first images of a suite with every method that is no control, and the object outlined."""
    maps = {name: _rows(one, slice(COLUMNS)) for name, one in run.evaluation.maps.items() if name not in CONTROLS}
    chosen = select(run.images, torch.arange(min(COLUMNS, len(run.images.labels))))
    record = {
        "images": list(chosen.names),
        "chosen": "first of the suite's images",
        "model": describe(model),
        "protocol": run.evaluation.card.hash,
    }
    captions = captions_of(model, run.probabilities[:COLUMNS], chosen.labels)
    drawn = panel(to_float(chosen.images), maps, captions=captions, boxes=chosen.boxes, record=record)
    for suffix in (".png", ".pdf"):
        drawn.save(stem.with_suffix(suffix))


def _rows(explanation: Explanation, places: slice | Tensor) -> Explanation:
    if not isinstance(explanation, AttentionMap):
        return explanation[places]
    index = None if explanation.index is None else explanation.index[places]
    return AttentionMap(explanation.mean[places], explanation.deviation[places], index, explanation.anchors)


def draw_curves(run: SuiteRun, stem: Path) -> None:
    """Mean deletion and insertion curves with their bands, controls in grey."""
    pairs = run.evaluation.curves.items()
    names = ("deletion", "insertion")
    sides = {
        side: {name: (pair[index].fractions, pair[index].scores) for name, pair in pairs}
        for index, side in enumerate(names)
    }
    drawn = curves(sides, controls=list(CONTROLS), record={"protocol": run.evaluation.card.hash})
    for suffix in (".png", ".pdf"):
        drawn.save(stem.with_suffix(suffix))


def run_demo(out: Path, *, resume: bool, report: Callable[[dict[str, Any]], object]) -> tuple[float, SuiteRun]:
    """Train the embedded recipe into `out`, judge and draw the result; also its accuracy on all test images."""
    train(Recipe(), out, resume=resume, report=report)
    model = load_on(str(out), None, "auto")
    assert isinstance(model, IBClassifier)
    test = supply(load_images(DataConfig(), "test", None), next(model.parameters()).device)
    return validate(model, test)["accuracy"], evaluate_suite(SuiteConfig(), model, out / "results")
