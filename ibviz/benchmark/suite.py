"""What a suite asks for, checked before any work is done: labels, options, and data that belong to the networks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import ValidationError

from ibviz.attribution.methods import CONTROLS, METHODS, bind
from ibviz.benchmark.evaluation import training_colour
from ibviz.benchmark.judging import METRICS
from ibviz.config import ProtocolConfig, SuiteConfig
from ibviz.data.image_set import ImageSet
from ibviz.errors import InputError, unknown
from ibviz.heads import head_of
from ibviz.metrics.protocol import CurveProtocol, preset
from ibviz.models.loading import Classifier
from ibviz.settings import describe_validation_error
from ibviz.types import Grid

One = TypeVar("One")


class Entry(NamedTuple):
    """A method of a suite under its label."""

    method: str  # a key of `METHODS`
    options: Mapping[str, Any]
    control: bool = False


def entries(suite: SuiteConfig) -> dict[str, Entry]:
    """Methods by their labels, then the controls, once their names and options are known to be right.

    >>> list(entries(SuiteConfig()))[:3]
    ['Attention', 'Attention, mean', 'Grad-CAM']
    """
    for method in suite.methods:
        bind(method.method, method.options)
    named = labelled(suite.methods, lambda one: one.label or METHODS[one.method].label, "methods")
    taken = [label for label in named if label in CONTROLS]
    if taken:
        raise InputError(f"{taken[0]!r} is a control, which every suite has anyway; leave it out")
    own = {label: Entry(one.method, one.options) for label, one in named.items()}
    return own | {label: Entry(name, {}, control=True) for label, name in CONTROLS.items()}


def labelled(some: Iterable[One], label: Callable[[One], str], kind: str) -> dict[str, One]:
    """What a suite lists, by labels of which no two are the same."""
    named: dict[str, One] = {}
    for one in some:
        name = label(one)
        if name in named:
            raise InputError(f"two {kind} are called {name!r}; give one of them another label")
        named[name] = one
    return named


def check_metrics(names: Sequence[str]) -> None:
    """Refuse a metric nobody knows.

    >>> check_metrics(["srg"])
    """
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, list(METRICS))


def protocols_of(suite: SuiteConfig, model: Classifier, grid: Grid | None) -> dict[str, CurveProtocol]:
    """The protocols of a suite by their labels, with the grid and the mean colour that follow from the comparison."""
    named = labelled(suite.protocols, lambda one: one.label or one.preset, "protocols")
    return {label: _protocol(one, suite, model, grid) for label, one in named.items()}


def _protocol(config: ProtocolConfig, suite: SuiteConfig, model: Classifier, grid: Grid | None) -> CurveProtocol:
    usual = preset(config.preset, model.spec.height_width, training_colour(model))
    changes = config.model_dump(exclude={"preset", "label"}, exclude_none=True) | {"target": suite.target}
    try:
        protocol = CurveProtocol.model_validate(usual.model_dump() | changes)
    except ValidationError as error:
        raise InputError(
            f"protocol {config.label or config.preset!r}: {describe_validation_error(error, CurveProtocol)}"
        ) from error
    protocol = protocol.judging(head_of(model))
    return protocol if grid is None else protocol.on(grid)


def fitting(images: ImageSet, model: Classifier) -> ImageSet:
    """The images with their labels in the model's numbering; data that does not belong to the model is refused."""
    theirs, ours = images.class_names, model.spec.class_names
    if images.images.shape[-2:] != model.spec.height_width:
        rows, columns = images.images.shape[-2:]
        raise InputError(
            f"the model takes images of {model.spec.size} pixels; the data has {rows}x{columns}: "
            f"set image_size = {model.spec.side} under [data]"
        )
    if same_order(theirs, ours):
        return images
    missing = [name for name in theirs if name not in ours]
    if missing:
        raise InputError(
            f"{len(missing)} of the data's {len(theirs)} classes ({', '.join(missing[:3])}, ...) are none of the "
            f"model's ({', '.join(ours[:3])}, ...), which are {len(ours)}; they do not belong together"
        )
    numbers = torch.tensor([*(ours.index(name) for name in theirs), -1])  # the last stands for the label -1
    return images._replace(labels=numbers[images.labels], class_names=ours)


def same_order(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether two lists name the same classes in one order, spelling aside; bare numbers agree with any names.

    >>> same_order(["great_white_shark", "x"], ["great white shark", "y"]), same_order(["0", "1"], ["cat", "dog"])
    (True, True)
    """
    if len(theirs) != len(ours):
        return False
    pairs = [(a.replace("_", " ").lower(), b.replace("_", " ").lower()) for a, b in zip(theirs, ours, strict=True)]
    numbered = list(theirs) == [str(number) for number in range(len(theirs))]
    return numbered or 2 * sum(a == b for a, b in pairs) >= len(pairs)
