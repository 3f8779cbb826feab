"""A suite run from its file: images chosen, explained, judged, saved with the circumstances."""

import json
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from ibviz.attribution.methods import CONTROLS, METHODS, bind, explain, predict
from ibviz.benchmark.evaluation import Evaluation, default_protocol, evaluate
from ibviz.config import MethodConfig, SuiteConfig
from ibviz.data.image_set import Fault, ImageSet, regions, to_float
from ibviz.data.sources import load_images
from ibviz.errors import InputError
from ibviz.files import ensure_folder, replacing
from ibviz.metrics.score import targets_by
from ibviz.models.loading import Classifier


class SuiteRun(NamedTuple):
    """What a suite looked at, what the network says to it, and how the explanations were judged."""

    images: ImageSet
    probabilities: torch.Tensor
    evaluation: Evaluation


def run_suite(suite: SuiteConfig, model: Classifier, out: Path, *, root: Path | None = None) -> SuiteRun:
    """Judge the suite's methods on its images and write rows, tables and circumstances into `out`."""
    begun = time.time()
    ensure_folder(out)
    named = _named(suite.methods)
    chosen = fitting(load_images(suite.data, suite.split, root, count=suite.images, seed=suite.seed), model)
    device = next(model.parameters()).device
    images = to_float(chosen.images).to(device, memory_format=torch.channels_last)
    probabilities = predict(model, images)
    targets = targets_by(suite.target, probabilities, chosen.labels.to(device)).classes
    explanations = {
        label: explain(model, images, method.method, targets=targets, **method.options)
        for label, method in named.items()
    }
    choices = suite.model_dump(include={"steps", "ties", "seed", "unit", "baseline", "score", "target", "precision"})
    evaluation = evaluate(
        model,
        images,
        explanations,
        targets=targets,
        labels=chosen.labels,
        masks=regions(chosen),
        protocol=default_protocol(model, explanations, orders=suite.tie_orders, batch_size=suite.batch_size, **choices),
    )
    evaluation.save(out)
    write_circumstances(out, suite, evaluation, model, seconds=time.time() - begun, faults=chosen.faults)
    return SuiteRun(chosen, probabilities, evaluation)


def write_circumstances(
    out: Path,
    suite: SuiteConfig,
    evaluation: Evaluation,
    model: Classifier,
    *,
    seconds: float,
    faults: Sequence[Fault],
) -> None:
    """Say in `circumstances.json` how the numbers beside it came about, and which chosen images could not be read."""
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    facts = {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "images": len({row["image"] for row in evaluation.rows}),
        "skipped": [fault.name for fault in faults],
        "suite": suite.model_dump(mode="json"),
        "card": evaluation.card.model_dump(mode="json") | {"hash": evaluation.card.hash},
        "forward_passes": evaluation.forward_passes,
        "captum": version("captum"),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "seconds": round(seconds, 1),
    }
    with replacing(out / "circumstances.json") as beside:
        beside.write_text(json.dumps(facts, indent=1) + "\n")


def _named(methods: tuple[MethodConfig, ...]) -> dict[str, MethodConfig]:
    """Methods by their labels, checked before any work is done."""
    named: dict[str, MethodConfig] = {}
    for method in methods:
        bind(method.method, method.options)
        label = method.label or METHODS[method.method].label
        if label in CONTROLS:
            raise InputError(f"{label!r} is a control, which every suite has anyway; leave it out")
        if label in named:
            raise InputError(f"two methods are called {label!r}; give one of them another label")
        named[label] = method
    return named


def fitting(images: ImageSet, model: Classifier) -> ImageSet:
    """The images with their labels in the model's numbering; data that does not belong to the model is refused."""
    side, theirs, ours = images.images.shape[-1], images.class_names, model.spec.class_names
    if side != model.spec.size:
        raise InputError(f"the model takes images of {model.spec.size} pixels; the data has {side}: "
                         f"set image_size = {model.spec.size} under [data]")  # fmt: skip
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
