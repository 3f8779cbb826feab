"""Maps of one batch: read from the store, or computed and stored together with the failures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ibviz.attribution.catalogue import Explanation
from ibviz.attribution.controls import partner
from ibviz.attribution.methods import concatenate, explain, predict, values
from ibviz.attribution.sampling import recorded_errors
from ibviz.benchmark.batch import Batch, OtherImages
from ibviz.benchmark.class_match import match_classes
from ibviz.benchmark.compiled import Forward
from ibviz.benchmark.setup import fingerprint
from ibviz.benchmark.store import Shard, find_shard, pack, read_shard, unpack, write_shard
from ibviz.benchmark.suite import Entry
from ibviz.data.image_set import ImageSet, regions, to_float
from ibviz.data.sources import Chosen
from ibviz.errors import InputError
from ibviz.extensions import hash_outside, is_outside
from ibviz.heads import head_of
from ibviz.metrics.protocol import digest
from ibviz.metrics.score import correct, targets_by
from ibviz.models.loading import Classifier
from ibviz.progress import tell
from ibviz.types import MACHINE_ERRORS, Images

_ERROR_LENGTH = 400  # characters of an error that are stored


class Failure(NamedTuple):
    """The error of a method, and the places of its images in the batch."""

    places: list[int]
    error: str


class ExplainedBatch(NamedTuple):
    """The maps of a batch by method label, and what is known of them."""

    maps: dict[str, Explanation]  # NaN for images on which the method failed
    failures: dict[str, list[Failure]]
    errors: dict[str, list[float | None]]  # relative standard errors, of methods that draw; None: unknown


class Network(NamedTuple):
    """One of the networks of a run."""

    label: str
    model: Classifier
    weights: str  # hash of the weights
    forward: Forward | None = None  # compiled, for the logits of masked images


class ReadImages(NamedTuple):
    """The readable images of a batch, and for each another image that does not depend on the batch size."""

    images: ImageSet
    start: int  # index of the first image of the batch, where unreadable images count too
    others: tuple[ImageSet, ...]  # empty if there is only one image
    partners: list[int | None]  # position of each image's other image in `others`; None: unreadable


def read_batch(chosen: Chosen, start: int, stop: int) -> ReadImages:
    """Read images by their indices, and the images half of the list further on for the control "other image".

    >>> from ibviz.data.config import DataConfig
    >>> from ibviz.data.sources import choose_images
    >>> read_batch(choose_images(DataConfig(), "test", None, count=5), 2, 4).partners
    [0, 1]
    """
    count = len(chosen.names)
    first, length = partner(start, count), stop - start
    spans = [(first, min(first + length, count)), (0, max(0, first + length - count))] if count > 1 else []
    others = tuple(chosen.read(*span) for span in spans if span[0] < span[1])
    there = [number for images, span in zip(others, spans, strict=False) for number in _numbers(images, chosen, *span)]
    known = {number: place for place, number in enumerate(there)}
    images = chosen.read(start, stop)
    return ReadImages(
        images, start, others, [known.get(partner(number, count)) for number in _numbers(images, chosen, start, stop)]
    )


def _numbers(images: ImageSet, chosen: Chosen, start: int, stop: int) -> list[int]:
    """Return the indices of the readable images in a span."""
    return [start + place for place in positions(images.names, chosen.names[start:stop])]


def positions(some: Sequence[str], whole: Sequence[str]) -> list[int]:
    """Return the positions of `some` names in `whole`, which contains them in the same order; -1 after an unknown one.

    >>> positions(["a", "b", "a"], ["a", "x", "b", "a"])
    [0, 2, 3]
    """
    walk = iter(enumerate(whole))
    return [next((place for place, name in walk if name == wanted), -1) for wanted in some]


def batch_for(network: Network, read: ReadImages, target: str, *, annotated: bool) -> Batch:
    """Return a batch as a network sees it: images, labels, targets, and regions if the data is annotated.

    Args:
        network: A network in eval mode.
        read: The images of the batch.
        target: The rule that chooses the class, one of `TARGETS`.
        annotated: True if the data has boxes or masks.
    """
    model, fitted = network.model, match_classes(read.images, network.model)
    images, head = images_for(model, fitted), head_of(model)
    probabilities = predict(model, images)
    labels, objects = fitted.labels.to(images.device), regions(read.images)  # objects have the labels of the data
    if annotated and objects is None:
        objects = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
    targets = targets_by(target, probabilities, labels, head=head)
    return Batch(
        images,
        targets,
        correct(probabilities, labels, head),
        labels,
        None if objects is None else objects.to(images.device),
        read.images.clusters,
        probabilities=probabilities,
        others=_others(model, read, images),
        start=read.start,
        data=fingerprint([images, *(classes for classes in targets if classes is not None)]),
    )


def _others(model: Classifier, read: ReadImages, images: Images) -> OtherImages | None:
    if not read.others:
        return None
    present = torch.tensor([place is not None for place in read.partners])
    if not present.any():
        return OtherImages(images, present)
    partners = torch.cat([images_for(model, other) for other in read.others if len(other.labels)])
    return OtherImages(partners[[place or 0 for place in read.partners]], present)


def images_for(model: Classifier, batch: ImageSet) -> Images:
    """Return the images in [0, 1], on the network's device and in the format of its convolutions."""
    return to_float(batch.images).to(device_of(model), memory_format=_format(model))


def device_of(model: Classifier) -> torch.device:
    """Return the device of a network."""
    return model.normalize.mean.device


def _format(model: Classifier) -> torch.memory_format:
    """Return the memory format of a network's convolutions, the fastest one for its images."""
    first = next((weight for weight in model.parameters() if weight.dim() == 4), None)
    return torch.contiguous_format if first is None or first.is_contiguous() else torch.channels_last


def explain_batch(network: Network, batch: Batch, methods: Mapping[str, Entry], out: Path | None) -> ExplainedBatch:
    """Return the maps of a batch, the failures, and the standard errors of maps that were drawn at random.

    Maps are read from the store in `out`, or computed and stored there; without `out` nothing is read or written. They
    have the precision of the store in each case.

    Args:
        network: A network in eval mode.
        batch: The images and targets.
        methods: Methods by label.
        out: The folder of the run, or None.
    """
    explained = ExplainedBatch({}, {}, {})
    for label, entry in methods.items():
        shard, failed, errors = _shard(network, batch, label, entry, out)
        explained.maps[label] = unpack(shard)
        if failed:
            explained.failures[label] = failed
        if errors:
            explained.errors[label] = errors
    return explained


def fitting(
    network: Network, batch: Batch, named: Mapping[str, Entry], out: Path | None, *, control: bool
) -> tuple[dict[str, Explanation], dict[str, str]]:
    """Return the maps of the methods, or of the controls, that fit a network, and why the others do not, by label."""
    asked = {label: entry for label, entry in named.items() if entry.control == control}
    maps, failures, _ = explain_batch(network, batch, asked, out)
    fit = {label: own for label, own in maps.items() if not values(own).isnan().all()}
    return fit, {label: several[0].error for label, several in failures.items() if label not in fit}


def _shard(
    network: Network, batch: Batch, label: str, entry: Entry, out: Path | None
) -> tuple[Shard, list[Failure], list[float | None]]:
    others = batch.others if entry.method == "other_image" else None
    of = _identity(network, batch, entry, others)
    path = None if out is None else find_shard(out, network.label, label, batch.start)
    stored = None if path is None else _stored(path)
    if stored is not None:
        shard, header = stored
        if header["of"] != of:
            raise InputError(
                f"{path} holds maps of {header['of']}, this run asks for {of}: other images, weights, code or "
                "options than when it began; give another folder"
            )
        return shard, [Failure(*failure) for failure in header["failures"]], header["errors"]
    maps, present, failed, recorded = _computed(network.model, batch, entry, others)
    errors = [error if math.isfinite(error) else None for error in recorded]
    if others is not None and not others.present.all():
        alone = (present & ~others.present).nonzero().flatten().tolist()
        present, failed = present & others.present, [*failed, Failure(alone, "the other image cannot be read")]
    shard = pack(maps, present)
    if out is not None:
        about = {"model": network.label, "method": label, "of": of, "failures": failed}
        about |= {"errors": errors} if errors else {}
        write_shard(out, shard, start=batch.start, of=about)
    return shard, failed, errors


def _identity(network: Network, batch: Batch, entry: Entry, others: OtherImages | None) -> str:
    """Return the hash of everything that maps depend on: weights, method, options, images and code."""
    parts = [network.weights, entry.method, dict(entry.options), batch.data]
    parts += [] if others is None else [fingerprint([others.images, others.present])]
    return digest([*parts, hash_outside(entry.method)] if is_outside(entry.method) else parts)


def _stored(path: Path) -> tuple[Shard, dict[str, Any]] | None:
    """Return a shard and its header; a damaged one is removed with a message, and None is returned."""
    try:
        return read_shard(path)
    except InputError as error:
        tell(f"{error}; done now")
        path.unlink(missing_ok=True)
        return None


def _computed(
    model: Classifier, batch: Batch, entry: Entry, others: OtherImages | None
) -> tuple[Explanation | None, Bool[Tensor, " b"], list[Failure], list[float]]:
    """Compute the maps of all images at once or, if that fails, image by image, so that only some are missing."""
    count, targets, errors = len(batch.images), batch.targets.classes, list[float]()

    def maps(some: slice) -> Explanation:
        more: dict[str, Any] = {} if others is None else {"others": others.images[some]}
        with recorded_errors() as recorded:
            own = explain(model, batch.images[some], entry.method, targets=targets[some], **entry.options, **more)
        errors.extend(recorded)
        return own

    try:
        return maps(slice(None)), _all(count), [], errors
    except Exception as error:  # errors of the machine are raised again below
        whole = describe_error(error)  # as text, since the traceback would keep the activations of the batch
    parts: list[Explanation | None] = []
    failures: list[Failure] = []
    for place in range(count):
        try:
            parts.append(maps(slice(place, place + 1)))
        except Exception as error:
            parts.append(None)
            failures.append(Failure([place], failure_of(error)))
    good = [part for part in parts if part is not None]
    if not good:
        return None, ~_all(count), [Failure(list(range(count)), whole)], []
    present = torch.tensor([part is not None for part in parts])
    return concatenate([good[0] if part is None else part for part in parts]), present, failures, errors


def _all(count: int) -> Bool[Tensor, " {count}"]:
    return torch.ones(count, dtype=torch.bool)


def failure_of(error: Exception) -> str:
    """Return the error of a method or metric in one line; raise an error of the machine again."""
    if isinstance(error, MACHINE_ERRORS):
        raise error
    return describe_error(error)


def describe_error(error: Exception) -> str:
    """Return an error in one line, with its type unless it is an `InputError`."""
    text = " ".join(str(error).split())[:_ERROR_LENGTH]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
