"""A suite run from its file: images chosen, explained, judged, saved with the circumstances."""

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from ibviz.attribution.methods import METHODS, Explanation, explain, find, predict
from ibviz.benchmark.evaluation import Evaluation, default_protocol, evaluate
from ibviz.config import MethodConfig, SuiteConfig
from ibviz.data.image_set import ImageSet, regions, select, to_float
from ibviz.data.sources import load_split
from ibviz.errors import InputError
from ibviz.files import replacing
from ibviz.models.loading import Classifier


class SuiteRun(NamedTuple):
    """What a suite looked at, what the network says to it, and how the explanations were judged."""

    images: ImageSet
    probabilities: torch.Tensor
    evaluation: Evaluation


def run_suite(suite: SuiteConfig, model: Classifier, out: Path, *, root: Path | None = None) -> SuiteRun:
    """Judge the suite's methods on its images and write rows, tables and circumstances into `out`."""
    begun = time.time()
    named = _named(suite.methods)
    chosen = choose(load_split(suite.data, suite.split, root), suite.images, suite.seed)
    _check_classes(model, chosen)
    device = next(model.parameters()).device
    images = to_float(chosen.images).to(device)
    probabilities = predict(model, images, batch_size=suite.batch_size)
    explanations = {label: _explain(model, images, probabilities, method) for label, method in named.items()}
    choices = {"steps": suite.steps, "ties": suite.ties, "orders": suite.tie_orders, "seed": suite.seed}
    masks = regions(chosen)
    evaluation = evaluate(
        model,
        images,
        explanations,
        targets=probabilities.argmax(1),
        labels=chosen.labels.to(device),
        masks=None if masks is None else masks.to(device),
        protocol=default_protocol(model, explanations, batch_size=suite.batch_size, **choices),
    )
    evaluation.save(out)
    write_circumstances(out, suite, evaluation, device, time.time() - begun)
    return SuiteRun(chosen, probabilities, evaluation)


def choose(images: ImageSet, count: int, seed: int) -> ImageSet:
    """At most `count` images, chosen by `seed`, in their own order."""
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(seed))
    return select(images, order[:count].sort().values)


def write_circumstances(
    out: Path, suite: SuiteConfig, evaluation: Evaluation, device: torch.device, seconds: float
) -> None:
    """Say in `circumstances.json` how the numbers beside it came about."""
    on_gpu = device.type == "cuda"
    facts = {
        "command": " ".join(["ibviz", *sys.argv[1:]]),
        "suite": suite.model_dump(mode="json"),
        "protocol": evaluation.protocol.model_dump(mode="json") | {"hash": evaluation.protocol.hash},
        "versions": {name: version(name) for name in ("ibviz", "torch", "torchvision", "captum", "numpy")},
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
        find(method.method, method.options)
        label = method.label or METHODS[method.method].label
        if label in named:
            raise InputError(f"two methods are called {label!r}; give one of them another label")
        named[label] = method
    return named


def _check_classes(model: Classifier, images: ImageSet) -> None:
    theirs, ours = len(images.class_names), len(model.spec.class_names)
    if images.images.shape[-1] != model.spec.size:
        raise InputError(f"the model takes images of {model.spec.size} pixels; the data has {images.images.shape[-1]}: "
                         f"set image_size = {model.spec.size} under [data]")  # fmt: skip
    if theirs > ours or int(images.labels.max()) >= ours:
        raise InputError(f"the data has {theirs} classes, the model {ours}; they do not belong together")


def _explain(model: Classifier, images: torch.Tensor, probabilities: torch.Tensor, method: MethodConfig) -> Explanation:
    return explain(model, images, method.method, targets=probabilities.argmax(1), **method.options)
