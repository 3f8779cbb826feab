"""Maps of one batch: from the store where they are, otherwise computed and stored; a failure is kept beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ibviz.attribution.controls import partner
from ibviz.attribution.methods import Explanation, concatenate, explain, predict
from ibviz.benchmark.evaluation import fingerprint
from ibviz.benchmark.judging import Seen
from ibviz.benchmark.store import Shard, find_shard, pack, read_shard, unpack, write_shard
from ibviz.benchmark.suite import Entry, fitting
from ibviz.data.image_set import ImageSet, regions, to_float
from ibviz.data.sources import Chosen
from ibviz.errors import InputError
from ibviz.heads import head_of
from ibviz.metrics.protocol import digest
from ibviz.metrics.score import correct, targets_by
from ibviz.models.loading import Classifier
from ibviz.progress import tell
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


class Batch(NamedTuple):
    """The readable images of a batch, and for each another of the chosen images, the same whatever the batch."""

    images: ImageSet
    start: int  # number of the first image of the batch, the unreadable ones counted
    others: tuple[ImageSet, ...]  # empty where there is but one image
    givers: list[int | None]  # for each image the place of its other one in `others`; None: it cannot be read


class Givers(NamedTuple):
    """Another image for each, of any pixels where it cannot be read."""

    images: Images
    present: Bool[Tensor, " b"]


class View(NamedTuple):
    """A batch as a network sees it, and what it says to it."""

    seen: Seen
    probabilities: Tensor
    start: int  # number of the first image of the batch, the unreadable ones counted
    data: str  # hash of images and targets
    givers: Givers | None


class Explained(NamedTuple):
    """Maps by the labels of their methods, NaN where one failed, and what failed."""

    maps: dict[str, Explanation]
    failures: dict[str, list[Failure]]


def read_batch(chosen: Chosen, start: int, stop: int) -> Batch:
    """Read images by their numbers, and those half of the list further on, whose maps the control "other image" takes.

    >>> from ibviz.config import DataConfig
    >>> from ibviz.data.sources import choose_images
    >>> read_batch(choose_images(DataConfig(), "test", None, count=5), 2, 4).givers
    [0, 1]
    """
    count = len(chosen.names)
    first, length = partner(start, count), stop - start
    spans = [(first, min(first + length, count)), (0, max(0, first + length - count))] if count > 1 else []
    others = tuple(chosen.read(*span) for span in spans if span[0] < span[1])
    there = [number for images, span in zip(others, spans, strict=False) for number in _numbers(images, chosen, *span)]
    known = {number: place for place, number in enumerate(there)}
    images = chosen.read(start, stop)
    return Batch(
        images, start, others, [known.get(partner(number, count)) for number in _numbers(images, chosen, start, stop)]
    )


def _numbers(images: ImageSet, chosen: Chosen, start: int, stop: int) -> list[int]:
    """Return the numbers of the readable images of a span."""
    return [start + place for place in places(images.names, chosen.names[start:stop])]


def places(some: Sequence[str], whole: Sequence[str]) -> list[int]:
    """Where `some` names lie in the `whole` of which they are a part, in its order; -1 for those after a stranger.

    >>> places(["a", "b", "a"], ["a", "x", "b", "a"])
    [0, 2, 3]
    """
    walk = iter(enumerate(whole))
    return [next((place for place, name in walk if name == one), -1) for one in some]


def view(network: Network, read: Batch, target: str, *, annotated: bool) -> View:
    """Look at a batch through a network: classes, targets, and the regions of data that knows objects."""
    batch, start = read.images, read.start
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
    data = fingerprint([images, *(one for one in targets if one is not None)])
    return View(seen, probabilities, start, data, _givers(network.model, read, images))


def _givers(model: Classifier, read: Batch, images: Images) -> Givers | None:
    if not read.others:
        return None
    present = torch.tensor([place is not None for place in read.givers])
    if not present.any():
        return Givers(images, present)
    there = torch.cat([images_for(model, one) for one in read.others if len(one.labels)])
    return Givers(there[[place or 0 for place in read.givers]], present)


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
    told = [network.weights, entry.method, dict(entry.options), seen.data]
    givers = seen.givers if entry.method == "other_image" else None
    of = digest(told if givers is None else [*told, fingerprint([givers.images, givers.present])])
    path = None if out is None else find_shard(out, network.label, label, seen.start)
    stored = None if path is None else _stored(path)
    if stored is not None:
        shard, header = stored
        if header["of"] != of:
            raise InputError(
                f"{path} holds maps of {header['of']}, this run asks for {of}: other images, weights or "
                "options than when it began; give another folder"
            )
        return shard, [Failure(*failure) for failure in header["failures"]]
    maps, present, failed = _computed(network.model, seen.seen, entry, givers)
    if givers is not None and not givers.present.all():
        alone = (present & ~givers.present).nonzero().flatten().tolist()
        present, failed = present & givers.present, [*failed, Failure(alone, "the other image cannot be read")]
    shard = pack(maps, present)
    if out is not None:
        about = {"model": network.label, "method": label, "of": of, "failures": failed}
        write_shard(out, shard, start=seen.start, of=about)
    return shard, failed


def _stored(path: Path) -> tuple[Shard, dict[str, Any]] | None:
    """A shard and its header; one that is damaged is removed, and that is said: it is computed again."""
    try:
        return read_shard(path)
    except InputError as error:
        tell(f"{error}; done now")
        path.unlink(missing_ok=True)
        return None


def _computed(
    model: Classifier, seen: Seen, entry: Entry, givers: Givers | None
) -> tuple[Explanation | None, Bool[Tensor, " b"], list[Failure]]:
    """Maps of all images at once or, where that fails, of one after the other, so that one does not stop the rest."""
    count, targets = len(seen.images), seen.targets.classes

    def maps(some: slice) -> Explanation:
        more: dict[str, Any] = {} if givers is None else {"others": givers.images[some]}
        return explain(model, seen.images[some], entry.method, targets=targets[some], **entry.options, **more)

    try:
        return maps(slice(None)), _all(count), []
    except Exception as error:  # whatever it is: one of the machine's comes again below
        whole = describe_error(error)  # in words: its traceback would keep the activations of the batch
    found: list[Explanation | None] = []
    failures: list[Failure] = []
    for place in range(count):
        one = slice(place, place + 1)
        try:
            found.append(maps(one))
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
