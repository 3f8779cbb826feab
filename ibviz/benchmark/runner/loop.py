"""The run itself: every batch explained, judged and kept as one part; in the end, one result."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ibviz.attribution.methods import values
from ibviz.benchmark.judging import (
    Rules,
    judge,
    object_shares,
    passes_of,
    rows_of_curves,
    rows_of_findings,
)
from ibviz.benchmark.probe import in_format
from ibviz.benchmark.results import CIRCUMSTANCES
from ibviz.benchmark.runner.explaining import Batch, Network, View, device_of, explained, failure_of, read_batch, view
from ibviz.benchmark.runner.parts import drop_damaged, missing, sweep, write_part
from ibviz.benchmark.runner.plan import (
    FILE,
    Plan,
    check_resumed,
    data_hash,
    decide,
    identity,
    keep_plan,
    networks_of,
    read_plan,
    settled,
)
from ibviz.benchmark.runner.processes import ALONE, Processes
from ibviz.benchmark.runner.result import check_maps, finish, finished
from ibviz.benchmark.suite import check_metrics, entries, protocols_of
from ibviz.config import SuiteConfig
from ibviz.data.decode import to_png
from ibviz.data.image_set import ImageSet, regions
from ibviz.data.listing import tolerate
from ibviz.data.sources import Chosen, choose_images
from ibviz.errors import InputError
from ibviz.files import ensure_folder, owned
from ibviz.models.hooks import evaluating
from ibviz.models.loading import Classifier
from ibviz.progress import progress

Row = dict[str, Any]


class Judged(NamedTuple):
    """What is kept of one batch."""

    tables: dict[str, list[Row]]
    facts: dict[str, Any]


def run_suite(
    suite: SuiteConfig,
    models: Mapping[str, Classifier],
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    processes: Processes = ALONE,
) -> bool:
    """Judge the suite's methods by its metrics for each of `models`, by their labels, and write the result into `out`.

    See `run`; the images are those the suite names, under `root` or downloaded.
    """
    check_suite(suite, models.values())  # before a download
    with processes.first_first():
        chosen = choose_images(suite.data, suite.split, root, count=suite.images, seed=suite.seed)
    return run(suite, models, chosen, out, resume=resume, processes=processes)


def check_suite(suite: SuiteConfig, models: Iterable[Classifier] = ()) -> None:
    """Refuse names and options that nobody knows, and protocols that make no sense for one of `models`."""
    check_metrics(suite.metrics)
    entries(suite)
    for model in models:
        protocols_of(suite, model, None)


def run(
    suite: SuiteConfig,
    models: Mapping[str, Classifier],
    chosen: Chosen,
    out: Path,
    *,
    resume: bool = False,
    processes: Processes = ALONE,
) -> bool:
    """Run a suite on chosen images; whether its result is there, or parts of it lie in other folders yet.

    Images are taken a batch at a time, and every batch ends as one part that is whole or not there. `resume` goes on
    after the last of them and ends with the files of an uninterrupted run; it also takes the maps that are stored.
    Processes share the batches. A folder that another run holds, or that holds another run, is refused.
    """
    check_suite(suite, models.values())
    networks = networks_of(models)
    with owned(out) if processes.first else nullcontext():
        plan = processes.agreed(lambda: _plan(suite, networks, chosen, out, resume))
        keep_plan(out, plan)  # where a process has a folder of its own
        if not finished(out, plan):
            with ready(networks, plan):
                _work(networks, plan, chosen, out, processes)
            processes.wait()
            if processes.first and not missing(out, len(plan.bounds)):
                finish(out, plan)
        processes.wait()
        return finished(out, plan)


def _plan(suite: SuiteConfig, networks: Sequence[Network], chosen: Chosen, out: Path, resume: bool) -> Plan:
    """The plan of the folder where there is one, otherwise a new one that is kept there; of the first process alone."""
    ensure_folder(out)
    there = read_plan(out)
    if there is None and (out / CIRCUMSTANCES).exists():
        raise InputError(f"{out} holds a result without the {FILE} of its run; give another folder")
    sweep(out, all_maps=there is None)
    if there is None:
        plan = decide(suite, networks, chosen, out)
        keep_plan(out, plan)
        return plan
    if not resume:
        raise InputError(f"{out} already holds a run; resume it or give another folder")
    check_resumed(out, there, identity(suite, {one.label: one.weights for one in networks}, data_hash(chosen)))
    check_maps(out, there)
    kept = [(label, method) for label, planned in there.models.items() for method in planned.methods]
    drop_damaged(out, [start for start, _ in there.bounds], kept)
    return there


@contextmanager
def ready(networks: Sequence[Network], plan: Plan) -> Iterator[None]:
    """Networks in eval mode and in the memory format of the plan."""
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(evaluating(network.model))
            stack.enter_context(in_format(network.model, plan.models[network.label].memory_format))
        yield


def _work(networks: Sequence[Network], plan: Plan, chosen: Chosen, out: Path, processes: Processes) -> None:
    """This process's share of the batches, without those that are there already."""
    bounds = plan.bounds
    absent = set(missing(out, len(bounds)))
    mine = [batch for batch in processes.share(len(bounds)) if batch in absent]
    faults = []
    label = f"judging {plan.images:,} images"
    for batch in progress(mine, label, total=len(mine), show=processes.first):
        begun, (start, stop) = time.monotonic(), bounds[batch]
        images = read_batch(chosen, start, stop)
        faults += images.images.faults
        tolerate(faults, plan.images)
        judged = judge_batch(networks, plan, images, out)
        write_part(out, batch, judged.tables, judged.facts | {"seconds": time.monotonic() - begun})


def judge_batch(networks: Sequence[Network], plan: Plan, batch: Batch, out: Path | None) -> Judged:
    """Explain and judge a batch by all networks; images are numbered from its first readable one.

    Maps are taken from the store in `out` and kept there; without it nothing is read or written.
    """
    tables: dict[str, list[Row]] = {"rows": [], "images": [], "predictions": [], "curves": []}
    images = batch.images
    facts: dict[str, Any] = {
        "images": len(images.labels),
        "forward_passes": 0,
        "failures": [],
        "data": {},
        "skipped": [fault.name for fault in images.faults],
        "device": device(networks[0].model),
    }
    if not len(images.labels):
        return Judged(tables, facts | {"data": {network.label: "" for network in networks}})
    for network in networks:
        seen = view(network, batch, plan.suite.target, annotated=plan.annotated)
        own, passes, failures = _judge_network(network, plan, seen, out)
        if not tables["images"]:
            tables["images"] = _images(images, seen, max(0, plan.suite.pictures - batch.start))
        for name, rows in own.items():
            tables[name] += [{"model": network.label, **row} for row in rows]
        facts["forward_passes"] += passes
        facts["failures"] += failures
        facts["data"][network.label] = seen.data
    return Judged(tables, facts)


def _judge_network(
    network: Network, plan: Plan, seen: View, out: Path | None
) -> tuple[dict[str, list[Row]], int, list[Row]]:
    """Rows of one network, masked images it scored, and what failed."""
    planned = plan.models[network.label]
    assert plan.grid is not None
    named = settled(entries(plan.suite), plan.grid, planned.average)
    found = explained(network, seen, {label: named[label] for label in planned.methods}, out)
    failures = [
        _failure(network, method, one.places, one.error)
        for method, several in found.failures.items()
        for one in several
    ]
    maps = {label: values(one).to(seen.seen.images.device) for label, one in found.maps.items()}
    judged = judge(
        network.model,
        seen.seen,
        maps,
        Rules(planned.protocols, plan.metrics, plan.suite.native),
        failed=lambda method, places, error: failures.append(
            _failure(network, method, places.tolist(), failure_of(error))
        ),
    )
    rows = rows_of_findings(judged, seen.seen)
    tables = {"rows": rows, "predictions": _predictions(seen.probabilities), "curves": rows_of_curves(judged)}
    return tables, passes_of(judged), failures


def device(model: Classifier) -> str:
    """The machine a network runs on, in words."""
    place = device_of(model)
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return f"CPU, {torch.get_num_threads()} threads"


def _failure(network: Network, method: str, places: list[int], error: str) -> Row:
    return {"model": network.label, "method": method, "images": places, "error": error}


def _predictions(probabilities: Tensor) -> list[Row]:
    """The two most likely classes of each image; of a network with one class, the second is none."""
    best = probabilities.topk(min(2, probabilities.shape[1]), dim=1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        {
            "image": image,
            "predicted": classes[0],
            "probability": shares[0],
            "runner_up": classes[1] if len(classes) > 1 else None,
            "runner_up_probability": shares[1] if len(shares) > 1 else None,
        }
        for image, (classes, shares) in enumerate(pairs)
    ]


def _images(images: ImageSet, seen: View, pictures: int) -> list[Row]:
    """What is known of each image; labels count in the first network's classes."""
    labels = seen.seen.labels
    assert labels is not None
    shares = object_shares(regions(images), len(images.labels))
    boxes = [None] * len(shares) if images.boxes is None else images.boxes.tolist()
    known = zip(images.names, labels.tolist(), boxes, shares, strict=True)
    return [
        {
            "image": image,
            "name": name,
            "label": None if label < 0 else label,
            "box": None if box is None or math.isnan(box[0]) else box,
            "object_share": share,
            "picture": to_png(images.images[image]) if image < pictures else None,
        }
        for image, (name, label, box, share) in enumerate(known)
    ]
