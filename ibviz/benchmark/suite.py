"""Checks of a suite before any work is done: labels, options, protocols and code from outside."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from ibviz.attribution.catalogue import CONTROLS, METHODS, checked_options, method_of
from ibviz.benchmark.config import ProtocolConfig, SuiteConfig
from ibviz.benchmark.setup import training_colour
from ibviz.data.catalogue import SOURCES, source_of
from ibviz.errors import InputError
from ibviz.extensions import hash_outside
from ibviz.heads import head_of
from ibviz.metrics.baselines import BASELINES, baseline_of
from ibviz.metrics.catalogue import METRICS, metric_of
from ibviz.metrics.metric import MetricFacts
from ibviz.metrics.protocol import CurveProtocol, preset
from ibviz.models.loading import Classifier
from ibviz.models.outside import is_code
from ibviz.settings import describe_validation_error
from ibviz.types import Grid

Listed = TypeVar("Listed")


class Entry(NamedTuple):
    """A method of a suite under its label."""

    method: str  # a name as `method_of` takes it
    options: Mapping[str, Any]
    control: bool = False


def check_suite(suite: SuiteConfig, models: Iterable[Classifier] = ()) -> None:
    """Refuse unknown names and options, code that cannot be imported, and protocols that do not fit a model."""
    metric_facts(suite.metrics)
    entries(suite)
    outside_code(suite)
    for model in models:
        protocols_of(suite, model, None)


def entries(suite: SuiteConfig) -> dict[str, Entry]:
    """Return the methods by their labels, then the controls, after a check of their names and options.

    >>> list(entries(SuiteConfig()))[:3]
    ['Attention', 'Attention, mean', 'Grad-CAM']
    """
    for config in suite.methods:
        checked_options(method_of(config.method), config.options)
    named = labelled(suite.methods, lambda config: config.label or method_of(config.method).label, "methods")
    taken = [label for label in named if label in CONTROLS]
    if taken:
        raise InputError(f"{taken[0]!r} is a control, which every suite has anyway; leave it out")
    own = {label: Entry(config.method, config.options) for label, config in named.items()}
    return own | {label: Entry(name, {}, control=True) for label, name in CONTROLS.items()}


def labelled(listed: Iterable[Listed], label: Callable[[Listed], str], kind: str) -> dict[str, Listed]:
    """Return the items of a suite by label; raise `InputError` if two labels are the same."""
    named: dict[str, Listed] = {}
    for item in listed:
        name = label(item)
        if name in named:
            raise InputError(f"two {kind} are called {name!r}; give one of them another label")
        named[name] = item
    return named


def metric_facts(names: Iterable[str]) -> dict[str, MetricFacts]:
    """Return the labels and directions of metrics; raise `InputError` for unknown names and for equal labels.

    >>> metric_facts(["deletion"])
    {'deletion': MetricFacts(label='Deletion', higher_is_better=False)}
    """
    facts = {name: metric_of(name).facts for name in names}
    labelled(facts.values(), lambda metric: metric.label, "metrics")
    return facts


def outside_code(suite: SuiteConfig) -> dict[str, str]:
    """Return the hash of the code behind each name in a suite that comes from outside ibviz.

    Raises:
        InputError: The code cannot be imported, or is not a method, metric, baseline or data source. (Networks are
            checked as they are loaded.)
    """
    baselines = [name for config in suite.protocols for name in (config.baseline, config.insertion_baseline) if name]
    kinds: tuple[tuple[Iterable[str], Mapping[str, object], Callable[[str], object]], ...] = (
        ([config.method for config in suite.methods], METHODS, method_of),
        (suite.metrics, METRICS, metric_of),
        (baselines, BASELINES, baseline_of),
        ([suite.data.source], SOURCES, source_of),
    )
    code = {}
    for names, table, find in kinds:
        for name in names:
            if name not in table:
                find(name)
                code[name] = hash_outside(name)
    return code | {model.name: hash_outside(model.name) for model in suite.models if is_code(model.name)}


def protocols_of(suite: SuiteConfig, model: Classifier, grid: Grid | None) -> dict[str, CurveProtocol]:
    """Return the protocols of a suite by label, with the grid of the comparison and the model's mean colour."""
    named = labelled(suite.protocols, lambda config: config.label or config.preset, "protocols")
    return {label: _protocol(config, suite, model, grid) for label, config in named.items()}


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
