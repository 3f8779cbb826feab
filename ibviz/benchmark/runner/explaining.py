"""Maps of one batch: from the store where they are, otherwise computed and stored; a failure is kept beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ibviz.attribution.methods import Explanation, concatenate, explain, predict
from ibviz.benchmark.evaluation import fingerprint
from ibviz.benchmark.judging import Seen
from ibviz.benchmark.store import Shard, find_shard, pack, read_shard, unpack, write_shard
from ibviz.benchmark.suite import Entry, fitting
from ibviz.data.image_set import ImageSet, regions, to_float
from ibviz.errors import InputError
from ibviz.heads import head_of
from ibviz.metrics.protocol import digest
from ibviz.metrics.score import correct, targets_by
from ibviz.models.loading import Classifier
from ibviz.types import Images

WORDS = 400  # characters of an error that are kept
# What a resumption may be spared; after the first kind every later call fails as well.
MACHINE_ERRORS = (torch.AcceleratorError, torch.OutOfMemoryError)


class Failure(NamedTuple):
    """What a method said instead of maps, of images by their places in the batch."""

    places: list[int]
    error: str


class Network(NamedTuple):
    """One of the networks of a run."""

    label: str
    model: Classifier
    weights: str  # their hash


class View(NamedTuple):
    """A batch as a network sees it, and what it says to it."""

    seen: Seen
    probabilities: Tensor
    start: int  # number of the first image of the batch, the unreadable ones counted
    data: str  # hash of images and targets


class Explained(NamedTuple):
    """Maps by the labels of their methods, NaN where one failed, and what failed."""

    maps: dict[str, Explanation]
    failures: dict[str, list[Failure]]


def view(network: Network, batch: ImageSet, start: int, target: str, *, annotated: bool) -> View:
    """Look at a batch through a network: classes, targets, and the regions of data that knows objects."""
    fitted = fitting(batch, network.model)
    images = images_for(network.model, fitted)
    probabilities = predict(network.model, images)
    labels, there = fitted.labels.to(images.device), regions(batch)  # objects are numbered as the data is
    if annotated:
        there = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool) if there is None else there
    head = head_of(network.model)
    targets = targets_by(target, probabilities, labels, head=head)
    regions_there = None if there is None else there.to(images.device)
    seen = Seen(images, targets, correct(probabilities, labels, head), labels, regions_there, batch.clusters)
    return View(seen, probabilities, start, fingerprint([images, *(one for one in targets if one is not None)]))


def images_for(model: Classifier, batch: ImageSet) -> Images:
    """The images in [0, 1], on the network's device and in the format of its convolutions."""
    return to_float(batch.images).to(device_of(model), memory_format=_format(model))


def device_of(model: Classifier) -> torch.device:
    """Where a network runs."""
    return model.normalize.mean.device


def _format(model: Classifier) -> torch.memory_format:
    """The memory format of a network's convolutions, in which it wants to read."""
    first = next((weight for weight in model.parameters() if weight.dim() == 4), None)
    return torch.contiguous_format if first is None or first.is_contiguous() else torch.channels_last


def explained(network: Network, seen: View, methods: Mapping[str, Entry], out: Path | None) -> Explained:
    """Maps of a batch by all methods, as they are stored, whether they are found there or computed now.

    Without `out` nothing is read or written.
    """
    maps: dict[str, Explanation] = {}
    failures: dict[str, list[Failure]] = {}
    for label, entry in methods.items():
        shard, failed = _shard(network, seen, label, entry, out)
        maps[label] = unpack(shard)
        if failed:
            failures[label] = failed
    return Explained(maps, failures)


def _shard(network: Network, seen: View, label: str, entry: Entry, out: Path | None) -> tuple[Shard, list[Failure]]:
    of = digest([network.weights, entry.method, dict(entry.options), seen.data])
    path = None if out is None else find_shard(out, network.label, label, seen.start)
    if path is not None:
        shard, header = read_shard(path)
        if header["of"] != of:
            raise InputError(f"{path} holds maps of {header['of']}, this run asks for {of}: other images, weights or "
                             "options than when it began; give another folder")  # fmt: skip
        return shard, [Failure(*failure) for failure in header["failures"]]
    maps, present, failed = _computed(network.model, seen.seen, entry)
    shard = pack(maps, present)
    if out is not None:
        about = {"model": network.label, "method": label, "of": of, "failures": failed}
        write_shard(out, shard, start=seen.start, of=about)
    return shard, failed


def _computed(
    model: Classifier, seen: Seen, entry: Entry
) -> tuple[Explanation | None, Bool[Tensor, " b"], list[Failure]]:
    """Maps of all images at once or, where that fails, of one after the other, so that one does not stop the rest."""
    count, targets = len(seen.images), seen.targets.classes
    try:
        return explain(model, seen.images, entry.method, targets=targets, **entry.options), _all(count), []
    except Exception as error:  # whatever it is: one of the machine's comes again below
        whole = describe_error(error)  # in words: its traceback would keep the activations of the batch
    found: list[Explanation | None] = []
    failures: list[Failure] = []
    for place in range(count):
        one = slice(place, place + 1)
        try:
            found.append(explain(model, seen.images[one], entry.method, targets=targets[one], **entry.options))
        except Exception as error:
            found.append(None)
            failures.append(Failure([place], failure_of(error)))
    good = [one for one in found if one is not None]
    if not good:
        return None, ~_all(count), [Failure(list(range(count)), whole)]
    present = torch.tensor([one is not None for one in found])
    return concatenate([good[0] if one is None else one for one in found]), present, failures


def _all(count: int) -> Bool[Tensor, " {count}"]:
    return torch.ones(count, dtype=torch.bool)


def failure_of(error: Exception) -> str:
    """What a method said, in one line; an error of the machine is no failure of a method and is raised again."""
    if isinstance(error, MACHINE_ERRORS):
        raise error
    return describe_error(error)


def describe_error(error: Exception) -> str:
    """An error in one line; its kind where it is not one of ours."""
    text = " ".join(str(error).split())[:WORDS]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
