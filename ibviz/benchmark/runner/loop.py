"""Run of a suite: each batch is explained, judged and stored as one part; in the end the parts become one result."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ibviz.attribution.methods import values
from ibviz.benchmark.batch import Batch
from ibviz.benchmark.compiled import compiled
from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.judging import Rules, judge, passes_of
from ibviz.benchmark.results import CIRCUMSTANCES
from ibviz.benchmark.rows import curve_rows, object_shares, value_rows
from ibviz.benchmark.runner.maps import Network, ReadImages, batch_for, device_of, explain_batch, failure_of, read_batch
from ibviz.benchmark.runner.parts import drop_damaged, missing_parts, remove_leftovers, write_part
from ibviz.benchmark.runner.plan import (
    FILE,
    Plan,
    check_code,
    check_resumed,
    keep_plan,
    make_plan,
    networks_of,
    read_plan,
    resolve_controls,
    run_hashes,
)
from ibviz.benchmark.runner.processes import ALONE, Processes
from ibviz.benchmark.runner.result import check_maps, finish, is_finished, remove_parts
from ibviz.benchmark.suite import check_suite, entries
from ibviz.benchmark.throughput import MEMORY_FORMATS, in_format
from ibviz.data.decode import to_png
from ibviz.data.image_set import ImageSet, regions
from ibviz.data.listing import check_faults
from ibviz.data.sources import Chosen, choose_images
from ibviz.errors import InputError
from ibviz.files import ensure_folder, locked
from ibviz.metrics.curve_scores import STATES_AT_ONCE
from ibviz.models.hooks import evaluating
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.reading import AnyPath

Row = dict[str, Any]


class JudgedBatch(NamedTuple):
    """The tables and facts of one batch."""

    tables: dict[str, list[Row]]
    facts: dict[str, Any]


def run_suite(
    suite: SuiteConfig,
    models: Mapping[str, Classifier],
    out: AnyPath,
    *,
    root: AnyPath | None = None,
    resume: bool = False,
    processes: Processes = ALONE,
) -> bool:
    """Run a suite on the images that it names, and write the result into a folder.

    Args:
        suite: Methods, metrics, protocols and images.
        models: The networks by label.
        out: The folder for the result.
        root: The folder of the images; None if they are bundled or downloaded.
        resume: Continue a run in `out` that was interrupted.
        processes: This process among those that share the work.

    Returns:
        True if the result is complete; False if parts of it are in the folders of other processes.

    Raises:
        InputError: The suite is not valid, or `out` holds another run.
    """
    check_suite(suite, models.values())  # before a download
    with processes.first_goes_ahead():
        chosen = choose_images(suite.data, suite.split, root, count=suite.images, seed=suite.seed)
    return run_on_images(suite, models, chosen, Path(out), resume=resume, processes=processes)


def run_on_images(
    suite: SuiteConfig,
    models: Mapping[str, Classifier],
    chosen: Chosen,
    out: Path,
    *,
    resume: bool = False,
    processes: Processes = ALONE,
) -> bool:
    """Run a suite on chosen images, and write the result into a folder; see `run_suite`.

    Each batch of images ends as one part, which is written as a whole or not at all. `resume` continues after the last
    part, reads the stored maps, and ends with the same files as an uninterrupted run. Processes share the batches. A
    folder that another process uses, or that holds another run, is refused.

    Args:
        suite: Methods, metrics and protocols.
        models: The networks by label.
        chosen: The images.
        out: The folder for the result.
        resume: Continue a run in `out` that was interrupted.
        processes: This process among those that share the work.

    Returns:
        True if the result is complete; False if parts of it are in the folders of other processes.
    """
    check_suite(suite, models.values())
    networks = networks_of(models)
    with locked(out) if processes.first else nullcontext():
        plan = processes.broadcast(lambda: _plan(suite, networks, chosen, out, resume))
        keep_plan(out, plan)  # needed if each process has its own folder
        if not is_finished(out, plan):
            with prepared(networks, plan) as ready:
                _judge_share(ready, plan, chosen, out, processes)
            processes.wait()
            if processes.first and not missing_parts(out, len(plan.bounds)):
                finish(out, plan)
        processes.wait()
        return is_finished(out, plan)


def _plan(suite: SuiteConfig, networks: Sequence[Network], chosen: Chosen, out: Path, resume: bool) -> Plan:
    """Return the plan in the folder if there is one, otherwise write a new one; only the first process does this."""
    ensure_folder(out)
    there = read_plan(out)
    if there is None and (out / CIRCUMSTANCES).exists():
        raise InputError(f"{out} holds a result without the {FILE} of its run; give another folder")
    remove_leftovers(out, all_maps=there is None)
    if there is None:
        plan = make_plan(suite, networks, chosen, out)
        keep_plan(out, plan)
        return plan
    if not resume:
        raise InputError(f"{out} already holds a run; resume it or give another folder")
    check_resumed(out, there, run_hashes(suite, networks, chosen))
    check_maps(out, there)
    if is_finished(out, there):
        remove_parts(out)  # which a process was killed at
        return there
    kept = [(label, method) for label, planned in there.models.items() for method in planned.methods]
    drop_damaged(out, [start for start, _ in there.bounds], kept)
    return there


@contextmanager
def prepared(networks: Sequence[Network], plan: Plan) -> Iterator[list[Network]]:
    """Yield the networks in eval mode and in the memory format of the plan, compiled if the suite says so."""
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(evaluating(network.model))
            stack.enter_context(in_format(network.model, plan.models[network.label].memory_format))
        yield [_compiled(network, plan, stack) if plan.suite.compile else network for network in networks]


def _compiled(network: Network, plan: Plan, stack: ExitStack) -> Network:
    planned, spec = plan.models[network.label], network.model.spec
    size = next(iter(planned.protocols.values())).batch_size or STATES_AT_ONCE
    images = torch.rand(1, len(spec.mean), *spec.height_width, device=device_of(network.model))
    images = images.contiguous(memory_format=MEMORY_FORMATS[planned.memory_format or "contiguous"])
    return network._replace(forward=stack.enter_context(compiled(network.model, images, size)))


def _judge_share(networks: Sequence[Network], plan: Plan, chosen: Chosen, out: Path, processes: Processes) -> None:
    """Judge and store this process's share of the batches, without those that are already stored."""
    absent = set(missing_parts(out, len(plan.bounds)))
    mine = [batch for batch in processes.share(len(plan.bounds)) if batch in absent]
    faults = []
    for batch in progress(mine, f"judging {plan.images:,} images", total=len(mine), show=processes.first):
        begun, (start, stop) = time.monotonic(), plan.bounds[batch]
        check_code(plan)
        read = read_batch(chosen, start, stop)
        faults += read.images.faults
        check_faults(faults, plan.images)
        part = judge_batch(networks, plan, read, out)
        write_part(out, batch, part.tables, part.facts | {"seconds": time.monotonic() - begun})


def judge_batch(networks: Sequence[Network], plan: Plan, read: ReadImages, out: Path | None) -> JudgedBatch:
    """Explain and judge a batch by all networks; images are numbered from the first readable one.

    Maps are read from the store in `out`, or computed and stored there; without `out` nothing is read or written.

    Args:
        networks: The networks of the run.
        plan: The plan of the run.
        read: The images of the batch.
        out: The folder of the run; None to read and write no maps.
    """
    tables: dict[str, list[Row]] = {"rows": [], "images": [], "predictions": [], "curves": []}
    images = read.images
    facts: dict[str, Any] = {
        "images": len(images.labels),
        "forward_passes": 0,
        "failures": [],
        "errors": [],
        "data": {},
        "skipped": [fault.name for fault in images.faults],
        "device": device(networks[0].model),
    }
    if not len(images.labels):
        return JudgedBatch(tables, facts | {"data": {network.label: "" for network in networks}})
    for network in networks:
        batch = batch_for(network, read, plan.suite.target, annotated=plan.annotated)
        own, counts = _judge_network(network, plan, batch, out)
        if not tables["images"]:
            tables["images"] = _images(images, batch, max(0, plan.suite.pictures - read.start))
        for name, rows in own.items():
            tables[name] += [{"model": network.label, **row} for row in rows]
        facts |= {name: facts[name] + more for name, more in counts.items()}
        facts["data"][network.label] = batch.data
    return JudgedBatch(tables, facts)


def _judge_network(
    network: Network, plan: Plan, batch: Batch, out: Path | None
) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Return the rows of one network, and facts: the number of masked images it scored, failures, errors of maps."""
    planned = plan.models[network.label]
    assert plan.grid is not None
    assert batch.probabilities is not None
    named = resolve_controls(entries(plan.suite), plan.grid, planned.average)
    explained = explain_batch(network, batch, {label: named[label] for label in planned.methods}, out)
    failures = [
        _failure(network, method, failure.places, failure.error)
        for method, several in explained.failures.items()
        for failure in several
    ]
    judged = judge(
        network.model,
        batch,
        {label: values(own).to(batch.images.device) for label, own in explained.maps.items()},
        Rules(planned.protocols, plan.metrics, plan.suite.native, network.forward),
        failed=lambda method, places, error: failures.append(
            _failure(network, method, places.tolist(), failure_of(error))
        ),
    )
    predictions = _predictions(batch.probabilities)
    tables = {"rows": value_rows(judged, batch), "predictions": predictions, "curves": curve_rows(judged)}
    errors = [{"model": network.label, "method": method, "errors": own} for method, own in explained.errors.items()]
    return tables, {"forward_passes": passes_of(judged), "failures": failures, "errors": errors}


def device(model: Classifier) -> str:
    """Return the name of the device that a network runs on."""
    place = device_of(model)
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return f"CPU, {torch.get_num_threads()} threads"


def _failure(network: Network, method: str, places: list[int], error: str) -> Row:
    return {"model": network.label, "method": method, "images": places, "error": error}


def _predictions(probabilities: Tensor) -> list[Row]:
    """Return the two most likely classes per image; the second is None if there is a single class."""
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


def _images(images: ImageSet, batch: Batch, pictures: int) -> list[Row]:
    """Return the row of each image; labels count in the first network's classes."""
    labels = batch.labels
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
