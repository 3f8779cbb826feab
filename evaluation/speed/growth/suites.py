"""Whole suites in a process of their own: images, methods, processes, five networks, and the overhead of the runner.

Synthetic images of 16 px, drawn as they are read, cheap methods, a network of two layers; tables and figures are made
as by `ibviz evaluate`. One thread, so that processor time says the same on a busy machine.
"""

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibviz.benchmark.config import MethodConfig, ProtocolConfig, SuiteConfig
from ibviz.benchmark.runner import loop, maps
from ibviz.benchmark.runner.processes import join_processes
from ibviz.data.image_set import ImageSet
from ibviz.data.sources import Chosen
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.models.loading import WrappedClassifier, wrap
from ibviz.workflows.evaluate import write_presentation

SIDE, CLASSES, BATCH = 16, 4, 250
CHEAP = ("saliency", "input_x_gradient", "guided_backprop")
# Maps, metrics, the network's answers, and the drawing of the data.
WORK = ((maps, "_computed"), (loop, "judge"), (loop, "batch_for"), (loop, "choose_images"))


def network(seed: int, classes: int = CLASSES) -> WrappedClassifier:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, classes))
    names = [f"class {number}" for number in range(classes)]
    return wrap(layers, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=names, size=SIDE)


def synthetic(count: int, classes: int = CLASSES) -> Chosen:
    """Noise, drawn for each image when it is read."""
    names = tuple(f"class {number}" for number in range(classes))

    def read(start: int, stop: int) -> ImageSet:
        generator = torch.Generator().manual_seed(start)
        pixels = torch.randint(0, 256, (stop - start, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([2.0, 2.0, 10.0, 10.0]).expand(stop - start, -1)
        labels = torch.arange(start, stop) % classes
        return ImageSet(pixels, labels, names, tuple(f"{number}" for number in range(start, stop)), boxes=boxes)

    return Chosen(torch.arange(count) % classes, names, tuple(f"{number}" for number in range(count)), read)


def suite(images: int = 500, methods: int = 3, networks: int = 1, classes: int = CLASSES, out: str = "") -> None:
    """Run a suite with its tables and figures; with `out` the processes of `torchrun` share one folder."""
    torch.set_num_threads(1)
    chosen = [MethodConfig(method=CHEAP[number % len(CHEAP)], label=f"Method {number}") for number in range(methods)]
    config = SuiteConfig(
        images=None,
        batch=BATCH,
        methods=tuple(chosen),
        native=False,
        protocols=(ProtocolConfig(grid=(4, 4), steps=2, orders=2, batch_size=256),),
    )
    models = {f"network {number}": network(number, classes) for number in range(networks)}
    with contextlib.ExitStack() as stack:
        folder = Path(out or stack.enter_context(tempfile.TemporaryDirectory()))
        processes = stack.enter_context(join_processes())
        whole = loop.run_on_images(config, models, synthetic(images, classes), folder, processes=processes)
        if whole and processes.first:
            write_presentation(folder)


def overhead(count: int) -> dict[str, float]:
    """Return the seconds of the default suite on embedded images, and the share that no metric and no map takes."""
    torch.manual_seed(0)
    spec = InputConfig(size=48, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=tuple("0123456789"))
    model = IBClassifier(ModelConfig(), spec).eval()
    config = SuiteConfig(images=count, protocols=(ProtocolConfig(batch_size=64),))
    spent: dict[str, float] = {}
    with contextlib.ExitStack() as stack, contextlib.redirect_stderr(io.StringIO()):
        for module, name in WORK:
            stack.enter_context(clocked(module, name, spent))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        begun = time.perf_counter()
        loop.run_suite(config, {"digits": model}, folder)
        whole = time.perf_counter() - begun
        facts = json.loads((folder / "circumstances.json").read_text())
    return {
        "whole": whole,
        "metrics": spent["judge"],
        "rest": whole - sum(spent.values()),
        "passes": float(facts["forward_passes"]),
    }


@contextlib.contextmanager
def clocked(module: Any, name: str, spent: dict[str, float]) -> Any:
    """Add up the seconds of a function in `spent` inside the block."""
    plain: Callable[..., Any] = getattr(module, name)

    def timed(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return plain(*args, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun

    setattr(module, name, timed)
    try:
        yield
    finally:
        setattr(module, name, plain)
