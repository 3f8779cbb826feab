"""A suite from its file to tables and figures in a folder; and the demo, which trains a network for it first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibviz.attribution.methods import CONTROLS, rows_of
from ibviz.benchmark.suite import SuiteRun, run_suite
from ibviz.config import DataConfig, Recipe, SuiteConfig
from ibviz.data.image_set import select, to_float
from ibviz.data.sources import load_images
from ibviz.figures import curves, panel
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import Classifier
from ibviz.training.loop import train, validate
from ibviz.training.supply import supply
from ibviz.workflows.explain import COLUMNS
from ibviz.workflows.model import describe, load_on


def evaluate_suite(suite: SuiteConfig, model: Classifier, out: Path, *, root: Path | None = None) -> SuiteRun:
    """Run a suite, then draw a panel of its first images and the curves of all methods."""
    run = run_suite(suite, model, out, root=root)
    draw_panel(run, model, out / "panel")
    draw_curves(run, out / "curves")
    return run


def draw_panel(run: SuiteRun, model: Classifier, stem: Path) -> None:
    """The first images of a suite with every method that is no control, and the object outlined."""
    maps = {name: rows_of(one, slice(COLUMNS)) for name, one in run.evaluation.maps.items() if name not in CONTROLS}
    chosen = select(run.images, torch.arange(min(COLUMNS, len(run.images.labels))))
    record = {
        "images": list(chosen.names),
        "chosen": "first of the suite's images",
        "model": describe(model),
        "protocol": run.evaluation.card.hash,
    }
    captions = captions_of(model, run.probabilities[:COLUMNS], chosen.labels)
    drawn = panel(to_float(chosen.images), maps, captions=captions, boxes=chosen.boxes, record=record)
    for suffix in (".png", ".pdf"):
        drawn.save(stem.with_suffix(suffix))


def draw_curves(run: SuiteRun, stem: Path) -> None:
    """Mean deletion and insertion curves with their bands, controls in grey."""
    pairs = run.evaluation.curves.items()
    names = ("deletion", "insertion")
    sides = {
        side: {name: (pair[index].fractions, pair[index].scores) for name, pair in pairs}
        for index, side in enumerate(names)
    }
    drawn = curves(sides, controls=list(CONTROLS), record={"protocol": run.evaluation.card.hash})
    for suffix in (".png", ".pdf"):
        drawn.save(stem.with_suffix(suffix))


def captions_of(model: Classifier, probabilities: Tensor, labels: Tensor | None = None) -> list[str]:
    """Predicted class and its probability; below it the true class where the prediction is wrong."""
    names, best = model.spec.class_names, probabilities.max(1)
    truth = best.indices.tolist() if labels is None else labels.tolist()
    return [
        f"{names[index]} {value:.2f}" + (f"\n(is {names[label]})" if index != label >= 0 else "")
        for index, value, label in zip(best.indices.tolist(), best.values.tolist(), truth, strict=True)
    ]


def run_demo(out: Path, *, resume: bool, report: Callable[[dict[str, Any]], object]) -> tuple[float, SuiteRun]:
    """Train the embedded recipe into `out`, judge and draw the result; also its accuracy on all test images."""
    train(Recipe(), out, resume=resume, report=report)
    model = load_on(str(out), None, "auto")
    assert isinstance(model, IBClassifier)
    test = supply(load_images(DataConfig(), "test", None), next(model.parameters()).device)
    return validate(model, test)["accuracy"], evaluate_suite(SuiteConfig(), model, out / "results")
