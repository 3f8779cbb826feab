"""Lists of names for settings and flags: methods, metrics, baselines, data sources, models and presets."""

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from typing import Any

from ibviz.attribution.catalogue import METHODS, Method
from ibviz.data.catalogue import SOURCES, Source
from ibviz.errors import unknown
from ibviz.metrics.baselines import BASELINES
from ibviz.metrics.catalogue import METRICS
from ibviz.metrics.metric import Metric
from ibviz.metrics.protocol import PRESETS
from ibviz.models.config import LIBRARIES, NETWORKS
from ibviz.models.loading import BUNDLED

_NEEDS = {"maps": "", "objects": "; needs boxes or masks", "curves": ""}


def list_names(kind: str) -> str:
    """Return the names of a kind, one per line with its description, and its options below.

    Raises `InputError` for an unknown kind.

    >>> print(list_names("presets"))
    default  the default of ibviz
    rise     insertion_baseline=blur_rise, cuts=stride, area=even, ties=reverse
    torchcam cuts=stride, ties=index
    quantus  baseline=image_minimum, cuts=stride_after, area=count, ties=index
    xplique  cuts=floor, steps=10, area=even, ties=reverse
    latec    insertion_baseline=blur_latec, cuts=stride_between, area=points, ties=index
    iba      baseline=image_mean, cuts=rounded, steps=100, area=mean, second=lerf, ties=index
    """
    if kind not in LISTS:
        raise unknown("list", kind, list(LISTS))
    described = dict(LISTS[kind]())
    width = max(map(len, described))
    return "\n".join(f"{name:{width}} {text}".rstrip() for name, text in described.items())


def _methods() -> Iterator[tuple[str, str]]:
    for name, method in METHODS.items():
        yield name, method.description + _options(method)
    yield "captum:NAME", "an attribution of Captum, such as captum:DeepLiftShap"
    yield "FILE.py:NAME", "a function of your own, (model, images, targets, *, options)"


def _options(method: Method) -> str:
    described = [_option(name, option) for name, option in method.options.items()]
    return f" [{', '.join(described)}]" if described else ""


def _option(name: str, option: Parameter) -> str:
    return name if option.default is Parameter.empty else f"{name}={option.default}"


def _metrics() -> Iterator[tuple[str, str]]:
    for name, metric in METRICS.items():
        yield name, _described(metric)
    yield "quantus:NAME", "a metric of Quantus, such as quantus:Sparseness"
    yield "FILE.py:NAME", "a function of your own, from a MetricInput to a number per image"


def _described(metric: Metric) -> str:
    better = "higher" if metric.higher_is_better else "lower"
    return f"{metric.description} ({metric.unit}, {better} is better{_NEEDS[metric.needs]})"


def _baselines() -> Iterator[tuple[str, str]]:
    for name, baseline in BASELINES.items():
        yield name, baseline.description
    yield "FILE.py:NAME", "a function of your own, from images to the fill of removed pixels"


def _sources() -> Iterator[tuple[str, str]]:
    for name, source in SOURCES.items():
        yield name, _holding(source)
    yield "FILE.py:NAME", "a function of your own, from a split and a folder to a data set of (image, label)"


def _holding(source: Source) -> str:
    known = ["boxes"] * source.annotated + ["masks"] * source.masks
    return source.description + (f" (with {' and '.join(known)})" if known else "")


def _models() -> Iterator[tuple[str, str]]:
    for name in BUNDLED:
        yield name, "bundled weights with trained attention"
    for name in NETWORKS:
        if name not in BUNDLED:
            yield name, "an architecture for `ibviz train`"
    for library in LIBRARIES:
        yield f"{library}NAME", "a network of that library; its weights are downloaded, or read from --weights"
    yield "transformers/OWNER/NAME", "an image classifier of the Hugging Face Hub"
    yield "FOLDER or FILE", "a run of `ibviz train`, or its model.safetensors"
    yield "FILE.py:NAME", "a network of your own code, or a function without arguments that returns one"


def _presets() -> Iterator[tuple[str, str]]:
    for name, choices in PRESETS.items():
        yield name, _choices(choices) or "the default of ibviz"


def _choices(choices: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in choices.items())


LISTS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "methods": _methods,
    "metrics": _metrics,
    "baselines": _baselines,
    "sources": _sources,
    "models": _models,
    "presets": _presets,
}
