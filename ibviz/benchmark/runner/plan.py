"""The plan of a run, made once and stored in its folder, so that all processes and resumed runs do the same."""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from pydantic import Field

from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.runner.attention_reliance import measure_reliance
from ibviz.benchmark.runner.maps import Network, ReadImages, batch_for, device_of, fitting, read_batch
from ibviz.benchmark.setup import comparison_grid, fingerprint
from ibviz.benchmark.store import maps_folder
from ibviz.benchmark.suite import Entry, entries, outside_code, protocols_of
from ibviz.benchmark.throughput import Pace, fastest, in_format
from ibviz.data.sources import Chosen
from ibviz.digests import read_sealed, seal
from ibviz.errors import InputError
from ibviz.files import replacing
from ibviz.metrics.catalogue import metric_of
from ibviz.metrics.protocol import CurveProtocol, digest
from ibviz.models.classifier import IBClassifier
from ibviz.models.hooks import evaluating
from ibviz.models.loading import Classifier
from ibviz.reading import validated
from ibviz.settings import Settings
from ibviz.types import Grid

FILE = "plan.json"
NO_OBJECTS = "the data has no boxes or masks"


class LeftOut(Settings):
    """A model, method or metric that the tables lack, and the reason."""

    model: str | None = None  # None: all models
    method: str | None = None
    metric: str | None = None
    reason: str


class ModelPlan(Settings):
    """The plan for one network."""

    name: str  # the name it was loaded by
    weights: str  # hash of the weights
    class_names: tuple[str, ...]
    size: int | tuple[int, int]  # side of the input in pixels, or height and width
    memory_format: str | None  # a key of `throughput.MEMORY_FORMATS`; None: as it was loaded
    protocols: dict[str, CurveProtocol]  # by label, with grid and batch size
    methods: tuple[str, ...]  # labels of the methods that fit the network
    average: tuple[tuple[float, ...], ...] | None = None  # mean trained attention over all images: rows of cells
    # `Reliance.summary` over all images
    reliance: dict[str, dict[str, dict[str, int | float]]] = Field(default_factory=dict)
    recipe: str | None = None  # hash of the training recipe without the seed; None if unknown


class Plan(Settings):
    """The plan of a run."""

    suite: SuiteConfig
    code: dict[str, str] = Field(default_factory=dict)  # hash of the code behind each name from outside ibviz
    data: str  # hash of the names and labels of the chosen images
    images: int = Field(ge=0, le=10_000_000)  # number of chosen images, with the unreadable ones
    grid: tuple[int, int] | None = None  # of the comparison
    annotated: bool  # True if the data has boxes or masks
    metrics: tuple[str, ...]
    models: dict[str, ModelPlan] = Field(default_factory=dict)  # by label
    left_out: tuple[LeftOut, ...] = ()

    @property
    def identity(self) -> dict[str, str]:
        """Hashes that must be the same for a run to be resumed."""
        return _identity(self.suite, {label: own.weights for label, own in self.models.items()}, self.data) | self.code

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """The index of the first image of each batch, and the index after its last."""
        return batches(self.images, self.suite.batch)


def run_hashes(suite: SuiteConfig, networks: Sequence[Network], chosen: Chosen) -> dict[str, str]:
    """Return hashes of suite, protocols, weights, data and outside code; the paths of networks do not matter."""
    weights = {network.label: network.weights for network in networks}
    return _identity(suite, weights, data_hash(chosen)) | outside_code(suite)


def _identity(suite: SuiteConfig, weights: Mapping[str, str], data: str) -> dict[str, str]:
    rules = [config.model_dump(mode="json") for config in suite.protocols]
    rest = suite.model_dump(mode="json", exclude={"models", "protocols"})
    version = CurveProtocol.model_fields["version"].default
    hashes = {"suite": digest(rest), "protocols": digest([version, rules]), "weights": digest(dict(weights))}
    return hashes | {"data": data}


def batches(images: int, most: int) -> list[tuple[int, int]]:
    """Return the bounds of equal batches of about `most` images at most, and at least two if there are two.

    >>> batches(7, 3), batches(3, 2)
    ([(0, 2), (2, 4), (4, 7)], [(0, 3)])
    """
    number = max(1, min(math.ceil(images / most), images // 2))
    return list(pairwise(images * batch // number for batch in range(number + 1)))


def networks_of(models: Mapping[str, Classifier]) -> list[Network]:
    """Return the networks with the hashes of their weights."""
    return [
        Network(label, model, fingerprint([tensor for _, tensor in sorted(model.state_dict().items())]))
        for label, model in models.items()
    ]


def data_hash(chosen: Chosen) -> str:
    """Return the hash of names, classes and labels, for which no image is decoded."""
    return digest([chosen.names, chosen.class_names, chosen.labels.tolist()])


def read_plan(out: Path) -> Plan | None:
    """Return the plan in a folder, or None."""
    path = out / FILE
    if not os.path.lexists(path):
        return None
    another = "give another folder"
    return validated(Plan, read_sealed(path, another), f"{path} is no plan of this version of ibviz", another)


def keep_plan(out: Path, plan: Plan) -> None:
    """Write the plan unless the folder has it; refuse a folder with another plan."""
    there = read_plan(out)
    if there is None:
        with replacing(out / FILE) as beside:
            beside.write_text(json.dumps(seal(plan.model_dump(mode="json")), indent=1) + "\n")
    elif there != plan:
        raise InputError(f"{out} holds parts of another run, with another plan; give another folder")


def check_resumed(out: Path, there: Plan, now: Mapping[str, str]) -> None:
    """Refuse to resume a run with another suite, other protocols, weights, data or code."""
    for name, ours in now.items():
        theirs = there.identity.get(name, "none")
        if theirs != ours:
            raise InputError(
                f"{out} was begun with {name} {theirs}; this run has {name} {ours}: repeat the command "
                "it was begun with, or give another folder"
            )


def check_code(plan: Plan) -> None:
    """Refuse to continue if code from outside ibviz has changed during the run."""
    now = outside_code(plan.suite)
    for name, hashed in plan.code.items():
        if now[name] != hashed:
            raise InputError(
                f"the code of {name} was changed while the run uses it, from {hashed} to {now[name]}: what is finished "
                "is kept; change it back and resume, or give another folder"
            )


def make_plan(suite: SuiteConfig, networks: Sequence[Network], chosen: Chosen, out: Path | None) -> Plan:
    """Make a plan by trying all methods on the first batch; its maps are stored, so that no work is lost.

    Args:
        suite: The suite.
        networks: The networks with their labels.
        chosen: The images.
        out: The folder of the run; None to store no maps.
    """
    start, stop = batches(len(chosen.labels), suite.batch)[0]
    read = read_batch(chosen, start, stop)
    first = read.images
    if not len(first.labels):
        raise InputError(f"none of the first {stop} images can be read: {first.faults[0].reason}")
    # A source has objects for all of its images or for none.
    annotated = any(known is not None for known in (first.masks, first.boxes, first.objects))
    plan = Plan(
        suite=suite,
        code=outside_code(suite),
        data=data_hash(chosen),
        images=len(chosen.labels),
        annotated=annotated,
        metrics=_metrics(suite.metrics, annotated),
        left_out=_unmeasured(suite.metrics, annotated),
    )
    for network in networks:
        plan = _with(plan, network, read, chosen, out)
    return plan


def _metrics(names: Sequence[str], annotated: bool) -> tuple[str, ...]:
    kept = tuple(name for name in names if annotated or metric_of(name).needs != "objects")
    if not kept:
        raise InputError(f"{NO_OBJECTS}, which {', '.join(names)} need; add another metric, such as srg")
    return kept


def _unmeasured(names: Sequence[str], annotated: bool) -> tuple[LeftOut, ...]:
    asked = [name for name in names if metric_of(name).needs == "objects" and not annotated]
    return tuple(LeftOut(metric=name, reason=NO_OBJECTS) for name in asked)


def _with(plan: Plan, network: Network, first: ReadImages, chosen: Chosen, out: Path | None) -> Plan:
    """Return the plan with one more network: its batch size and memory format, and the methods that fit it."""
    suite, model = plan.suite, network.model
    pace = _pace(suite, network)
    with in_format(model, None if pace is None else pace.memory_format):
        batch = batch_for(network, first, suite.target, annotated=plan.annotated)
        named = entries(suite)
        fit, unfit = fitting(network, batch, named, out, control=False)
        if not fit and not plan.models:
            label, error = next(iter(unfit.items()))
            raise InputError(f"none of the methods fits {network.label}; {label}: {error}")
        grid = plan.grid or suite.protocols[0].grid or comparison_grid(fit)
        used = measure_reliance(network, chosen)
        average = None if used is None else tuple(map(tuple, used.average.tolist()))
        named = resolve_controls(named, grid, average)
        controls, unfit_controls = fitting(network, batch, named, out, control=True)
    fit, unfit = fit | controls, unfit | unfit_controls
    _forget(out, network.label, unfit)
    protocols = {
        label: own if own.batch_size else own.model_copy(update={"batch_size": pace and pace.batch_size})
        for label, own in protocols_of(suite, model, grid).items()
    }
    names = {config.label or config.name: config.name for config in suite.models}
    planned = ModelPlan(
        name=names.get(network.label, network.label),
        weights=network.weights,
        class_names=model.spec.class_names,
        size=model.spec.size,
        memory_format=pace and pace.memory_format,
        protocols=protocols,
        methods=tuple(label for label in named if label in fit),
        average=average,
        reliance={} if used is None else used.summary(),
        recipe=recipe_of(model),
    )
    left_out = tuple(LeftOut(model=network.label, method=label, reason=error) for label, error in unfit.items())
    return plan.model_copy(
        update={
            "grid": grid,
            "models": {**plan.models, network.label: planned},
            "left_out": (*plan.left_out, *left_out),
        }
    )


def recipe_of(model: Classifier) -> str | None:
    """Return the hash of the recipe in a checkpoint without the seed: trainings with the same hash differ by chance.

    >>> from ibviz.models.loading import load
    >>> recipe_of(load("digits")) is None
    False
    """
    recipe = model.facts.get("recipe") if isinstance(model, IBClassifier) else None
    if not recipe:
        return None
    training = {name: value for name, value in recipe.get("training", {}).items() if name != "seed"}
    return digest(recipe | {"training": training})


def _pace(suite: SuiteConfig, network: Network) -> Pace | None:
    """Return the fastest batch size and memory format, or None if all protocols name a batch size."""
    precisions = [config.precision or "float32" for config in suite.protocols if config.batch_size is None]
    if not precisions:
        return None
    spec, device = network.model.spec, device_of(network.model)
    with evaluating(network.model):
        return fastest(network.model, spec.height_width, device, precision=precisions[0], channels=len(spec.mean))


def _forget(out: Path | None, model: str, methods: Iterable[str]) -> None:
    """Remove the stored maps of methods that failed on all images."""
    if out is None:
        return
    for method in methods:
        shutil.rmtree(maps_folder(out, model, method), ignore_errors=True)


def resolve_controls(
    methods: Mapping[str, Entry], grid: Grid, average: Sequence[Sequence[float]] | None
) -> dict[str, Entry]:
    """Return the methods with options of the controls: the comparison's grid, and the network's average map.

    A network without an average map does not have that control.
    """
    given = {"random_cells": {"grid": list(grid)}, "average_map": {"cells": average}}
    return {
        label: entry._replace(options=given[entry.method]) if entry.control and entry.method in given else entry
        for label, entry in methods.items()
        if average is not None or not (entry.control and entry.method == "average_map")
    }
