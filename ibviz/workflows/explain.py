"""Explanations of image files as panels and exact maps, with a command that makes the maps again."""

import json
import platform
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ibviz.attribution.catalogue import LAYER_RULES, METHODS, checked_options, method_of
from ibviz.attribution.map_files import save_maps
from ibviz.attribution.methods import predict
from ibviz.benchmark.setup import fingerprint, versions
from ibviz.data.image_set import to_float
from ibviz.errors import InputError
from ibviz.figures import Panel, panel
from ibviz.figures.settings import DEFAULT_TEMPLATE, find_template
from ibviz.files import ensure_folder, remove_abandoned
from ibviz.models.hooks import evaluating
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.types import Images
from ibviz.workflows.captions import FAMILIES, PICTURES_PER_ROW, error_note, shared_scales, without_zero
from ibviz.workflows.compared_protocols import known_labels
from ibviz.workflows.explained_classes import Unfit, captions_of_classes, choose_classes, maps_of_classes
from ibviz.workflows.image_source import SourceImages, crop_note, read_source
from ibviz.workflows.model import ModelSource, describe

ALL_METHODS = "all"
MOST_ROWS = 8  # of a panel of several images; of more, each image gets a page of its own, by family
_STEM = "panel"  # of the files of a page


def raise_unfit(_method: str, error: InputError) -> None:
    """Raise the error; for methods that the user named, which have to fit the model."""
    raise error


def check_methods(names: str, settings: Sequence[str] = ()) -> None:
    """Refuse an unknown method in a list with commas, or a wrong option of one, before a network is loaded.

    >>> check_methods("grad_cam, all", ["rise.error=0.2"])
    """
    for name in _listed(names):
        if name != ALL_METHODS:
            method_of(name)
    for name, options in read_options(settings).items():
        checked_options(method_of(name), options)


def read_options(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of methods from texts such as `rise.error=0.2`; values are TOML, other ones are text.

    >>> read_options(["rise.error=0.2", "rise.sampling=plain"])
    {'rise': {'error': 0.2, 'sampling': 'plain'}}
    """
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        method, dot, option = key.strip().rpartition(".")
        if not (equals and dot and option):
            raise InputError(f"--set takes METHOD.OPTION=VALUE, such as rise.error=0.2; got {setting!r}")
        options.setdefault(method, {})[option] = _value(text.strip())
    return options


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def choose_methods(
    names: str, layer: str | None, settings: Sequence[str] = (), *, trained: bool
) -> dict[str, dict[str, Any]]:
    """Return methods from a comma-separated list, with options, and the layer as an option of those that take one.

    An empty list stands for the usual methods of the model; "all" stands for all methods but controls.

    Args:
        names: Names of methods.
        layer: The layer; None to choose one.
        settings: Options as texts, such as `rise.error=0.2`.
        trained: True for a model with trained attention.

    >>> choose_methods("grad_cam,uniform", "stem", trained=True)
    {'grad_cam': {'layer': 'stem'}, 'uniform': {}}
    """
    chosen = _listed(names)
    usual = [*(["attention"] if trained else []), "grad_cam", "integrated_gradients"]
    if chosen == [ALL_METHODS]:
        chosen = [name for name, method in METHODS.items() if not method.control]
    methods: dict[str, dict[str, Any]] = {name: {} for name in chosen or usual}
    for name, options in read_options(settings).items():
        if name not in methods:
            raise InputError(f"--set names {name!r}, which is not among the methods {', '.join(methods)}; add it there")
        methods[name] = options
    if layer is None:
        return methods
    with_layer = [name for name in methods if "layer" in method_of(name).options]
    if not with_layer:
        raise InputError(
            f"--layer is for methods at a layer, such as grad_cam, of which there is none among "
            f"{', '.join(methods)}; add one or leave --layer out"
        )
    return methods | {name: methods[name] | {"layer": layer} for name in with_layer}


class Request(NamedTuple):
    """Images, methods and classes to explain, and the page to draw them for."""

    source: Path
    methods: Mapping[str, Mapping[str, Any]]  # with their options
    classes: Sequence[str] = ("predicted",)
    limit: int | None = None
    template: str = DEFAULT_TEMPLATE


def explain_files(
    request: Request, model: Classifier, out: Path, *, origin: ModelSource | None = None, unfit: Unfit = raise_unfit
) -> list[Path]:
    """Explain an image, a folder of images, or the test split of a folder of Parquet files.

    Each page has at most six images and is written as `panel-NAME.png`, `.pdf`, a sidecar `.json`, and
    `maps-NAME.safetensors` with the exact maps. NAME is that of the image or, of several, the number of the page. With
    more than 8 rows, each image has a page of its own, grouped by families of methods. The record in sidecar and maps
    holds the relative standard error of each map that was drawn at random (`errors`); a note below the panel tells it.

    Args:
        request: Images, methods, classes and the page.
        model: The model to explain.
        out: The folder for panels and maps.
        origin: Where the model was loaded from; the sidecar then holds a command that makes the maps again.
        unfit: Called for methods that do not fit the model, which are then left out; by default it raises the error.

    Returns:
        The paths of the PNG panels.

    Raises:
        InputError: There are no readable images, or classes, options or the page are not valid.
    """
    for method, options in request.methods.items():
        checked_options(method_of(method), options)
    find_template(request.template)
    given = read_source(request.source, model, request.limit)
    ensure_folder(out)
    remove_abandoned(out)
    labels, device = known_labels(given.images, model), next(model.parameters()).device
    labels = None if labels is None else labels.to(device)
    rows = sum(1 if method_of(name).target_free else len(request.classes) for name in request.methods)
    each = PICTURES_PER_ROW if rows <= MOST_ROWS else 1
    names, left, written = given.images.names, dict(request.methods), []
    pages = [slice(start, start + each) for start in range(0, len(names), each)]
    facts: dict[str, Any] = {}
    for number, page in enumerate(progress(pages, "pages", show=len(pages) > 1), 1):
        images = to_float(given.images.images[page]).to(device)
        outputs = predict(model, images)
        classes = choose_classes(model, outputs, request.classes, None if labels is None else labels[page])
        maps, errors = maps_of_classes(model, images, left, classes, unfit)
        left = {name: options for name, options in left.items() if name in {method for method, _ in maps}}
        if number == 1:
            facts = _common_facts(request, model, given, left, images, origin)
        shown = names[page]
        record = facts | {"images": list(shown), "files": {name: given.digests.get(name) for name in shown}}
        record |= {"errors": errors} if errors else {}
        by_label = {label: own for (_, label), own in maps.items()}
        drawn = panel(
            images,
            by_label,
            captions=captions_of_classes(model, outputs, classes, shown),
            scales=shared_scales(list(maps)),
            from_least=without_zero(list(maps)),
            groups=None if each > 1 else _families(list(maps)),
            note=" ".join(filter(None, [crop_note(shown, given.sizes, model.spec), error_note(errors)])),
            template=request.template,
            record=record,
        )
        name = _page_name(shown, number, names)
        written.append(_save(drawn, out, name))
        save_maps(out / f"maps-{name}.safetensors", by_label, record)
    return written


def _save(drawn: Panel, out: Path, name: str) -> Path:
    """Write a panel as PNG and PDF with its sidecar; return the path of the PNG."""
    pdf, png = (out / f"{_STEM}-{name}.{suffix}" for suffix in ("pdf", "png"))
    drawn.save(png)
    drawn.save(pdf)
    return png


def _page_name(shown: Sequence[str], number: int, names: Sequence[str]) -> str:
    """Return the name of a page: that of its only image, or its number.

    >>> _page_name(["cat.jpg"], 2, ["dog.jpg", "cat.jpg"]), _page_name(["a.jpg"], 1, ["a.jpg", "a.png"])
    ('cat', 'a-jpg')
    """
    if len(shown) > 1:
        return f"{number:02d}"
    path = Path(shown[0].replace("/", "-"))
    alike = [name for name in names if Path(name).stem == path.stem]
    return path.stem.replace(".", "-") if len(alike) == 1 else path.name.replace(".", "-")


def _families(rows: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {label: FAMILIES[method_of(name).family] for name, label in rows}


def _common_facts(
    request: Request,
    model: Classifier,
    given: SourceImages,
    methods: Mapping[str, Mapping[str, Any]],
    images: Images,
    origin: ModelSource | None,
) -> dict[str, Any]:
    """Return what the maps of all pages depend on, and the command that makes them again."""
    spec, device = model.spec, str(next(model.parameters()).device)
    weights = fingerprint([tensor for _, tensor in sorted(model.state_dict().items())])
    return {
        "source": str(request.source),
        "command": None if origin is None else repeating_command(request, methods, origin, device),
        "model": describe(model) | ({} if origin is None else origin.facts()) | {"weights": weights},
        "classes": list(request.classes),
        "methods": {name: dict(options) for name, options in methods.items()},
        "layers": _layers(model, images, methods),
        "skipped": [fault.name for fault in given.images.faults],
        "fit": f"short side to {spec.resize or spec.size}, centre crop {spec.size}",
        "device": device,
        "versions": {"python": platform.python_version()} | versions(),
    }


def repeating_command(
    request: Request, methods: Mapping[str, Mapping[str, Any]], origin: ModelSource, device: str
) -> str:
    """Return the command that makes the same maps, with all defaults written out.

    >>> repeating_command(Request(Path("a.jpg"), {}), {"grad_cam": {"layer": "x"}}, ModelSource("photos"), "cpu")
    'ibviz explain a.jpg --model photos --methods grad_cam --layer x --classes predicted --device cpu'
    """
    at = {options.get("layer") for name, options in methods.items() if "layer" in method_of(name).options}
    layer = at.pop() if len(at) == 1 else None  # --layer is that of all methods that take one
    options = [
        f"{name}.{option}={json.dumps(value, default=str)}"
        for name, own in methods.items()
        for option, value in own.items()
        if option != "layer" or layer is None
    ]
    flags = {
        "--model": origin.name,
        "--weights": origin.weights,
        "--methods": ",".join(methods),
        "--layer": layer,
        "--classes": ",".join(request.classes),
        "--limit": request.limit,
        "--device": device,
    }
    words = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    words += [word for setting in options for word in ("--set", setting)]
    return shlex.join(["ibviz", "explain", str(request.source), *words])


def _layers(model: Classifier, images: Images, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the layer of each method that works at one: the named one, or that of its family's rule."""
    layers: dict[str, str] = {}
    chosen: dict[str, str] = {}
    for name, options in methods.items():
        family = method_of(name).family
        if "layer" in options:
            layers[name] = str(options["layer"])
        elif "layer" in method_of(name).options and family in LAYER_RULES:
            if family not in chosen:
                with evaluating(model), torch.enable_grad():
                    chosen[family] = LAYER_RULES[family](model, images)
            layers[name] = chosen[family]
    return layers
