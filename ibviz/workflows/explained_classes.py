"""The classes of each image that are explained, and the maps of all methods for them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ibviz.attribution.catalogue import Explanation, Method, method_of
from ibviz.attribution.class_choice import CLASS_RULES, class_number
from ibviz.attribution.methods import explain
from ibviz.attribution.sampling import recorded_errors
from ibviz.errors import InputError
from ibviz.heads import head_of
from ibviz.metrics.score import targets_by
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.types import Images, Labels
from ibviz.workflows.captions import class_caption

Unfit = Callable[[str, InputError], object]  # called with a method that does not fit the model, and the reason


class ExplainedClass(NamedTuple):
    """A class of each image, and its name in the labels of rows."""

    name: str
    numbers: Labels


class ExplainedImages(NamedTuple):
    """The maps of some images, by method and label of the row."""

    maps: dict[tuple[str, str], Explanation]
    errors: dict[str, list[float | None]]  # relative standard errors by label, of methods that draw; None: unknown


def choose_classes(
    model: Classifier, outputs: Tensor, wanted: Sequence[str], labels: Labels | None
) -> list[ExplainedClass]:
    """Return the classes to explain.

    Args:
        model: The model.
        outputs: Its probabilities `(b, classes)`.
        wanted: Names or numbers of classes, or rules in `CLASS_RULES`.
        labels: The true classes; None if they are not known.

    Raises:
        InputError: A class is unknown or named twice, several share the name, or the true classes are not known.
    """
    if not wanted:
        raise InputError(f"no class is named; expected names, numbers, or {', '.join(CLASS_RULES)}")
    if "true" in wanted and (labels is None or bool((labels < 0).any())):
        raise InputError(
            "the class 'true' needs the label of every image; Parquet files hold labels, image files do not"
        )
    names, chosen = model.spec.class_names, []
    for given in wanted:
        if given in CLASS_RULES:
            numbers = targets_by(given, outputs, labels, head=head_of(model)).classes
            chosen.append(ExplainedClass(CLASS_RULES[given].removesuffix(" class"), numbers))
        else:
            number = class_number(given, names)
            chosen.append(ExplainedClass(names[number], torch.full((len(outputs),), number, device=outputs.device)))
    twice = [own.name for place, own in enumerate(chosen) if own.name in [other.name for other in chosen[:place]]]
    if twice:
        raise InputError(f"the class {twice[0]!r} is named twice; name each once")
    return chosen


def captions_of_classes(
    model: Classifier, outputs: Tensor, classes: Sequence[ExplainedClass], names: Sequence[str]
) -> list[str]:
    """Return the text above each image: its name if there are several, and each class with its probability."""
    lines = [[name] if len(names) > 1 else [] for name in names]
    for chosen in classes:
        probabilities = outputs.gather(1, chosen.numbers.unsqueeze(1)).squeeze(1).tolist()
        for line, number, value in zip(lines, chosen.numbers.tolist(), probabilities, strict=True):
            class_name = model.spec.class_names[number]
            rule = "" if chosen.name == class_name or len(classes) == 1 else f"{chosen.name}: "
            line.append(rule + class_caption(class_name, value))
    return ["\n".join(line) for line in lines]


def maps_of_classes(
    model: Classifier,
    images: Images,
    methods: Mapping[str, Mapping[str, Any]],
    classes: Sequence[ExplainedClass],
    unfit: Unfit,
) -> ExplainedImages:
    """Return the maps by method and row label; a method that is the same for every class has one row.

    Args:
        model: The model to explain.
        images: Images `(b, channels, h, w)` in [0, 1], on the model's device.
        methods: Methods with their options.
        classes: The classes to explain.
        unfit: Called for methods that do not fit the model, which are then left out.
    """
    explained = ExplainedImages({}, {})
    for name, options in progress(methods.items(), "methods", total=len(methods), show=len(methods) > 1):
        method = method_of(name)
        try:
            own = [
                (label, *_explained(model, images, name, chosen, options)) for label, chosen in _rows(method, classes)
            ]
        except InputError as error:
            unfit(name, error)
            continue
        explained.maps.update({(name, label): maps for label, maps, _ in own})
        explained.errors.update({label: errors for label, _, errors in own if errors})
    return explained


def _explained(
    model: Classifier, images: Images, name: str, chosen: ExplainedClass, options: Mapping[str, Any]
) -> tuple[Explanation, list[float | None]]:
    """Return maps, and their relative standard errors if they were drawn at random."""
    with recorded_errors() as errors:
        maps = explain(model, images, name, targets=chosen.numbers, **options)
    return maps, [error if math.isfinite(error) else None for error in errors]


def _rows(method: Method, classes: Sequence[ExplainedClass]) -> list[tuple[str, ExplainedClass]]:
    if method.target_free or len(classes) == 1:
        return [(method.label, classes[0])]
    return [(f"{method.label}: {chosen.name}", chosen) for chosen in classes]
