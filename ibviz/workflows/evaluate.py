"""A suite from its file to tables and figures in a folder; and the demo, which trains a network for it first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibviz.attribution.catalogue import Explanation
from ibviz.attribution.methods import values
from ibviz.benchmark.config import NamedModel, SuiteConfig
from ibviz.benchmark.results import Results, read_results, rebuild
from ibviz.benchmark.runner.loop import run_suite
from ibviz.benchmark.runner.processes import together
from ibviz.benchmark.runner.result import merge
from ibviz.benchmark.runner.verify import Verdict, verify
from ibviz.benchmark.store import place_of, read_maps
from ibviz.benchmark.suite import labelled
from ibviz.data.config import DataConfig
from ibviz.data.decode import decode, to_tensor
from ibviz.data.image_set import to_float
from ibviz.data.sources import choose_images, load_images
from ibviz.errors import InputError
from ibviz.figures import curves, panel
from ibviz.figures.sidecar import Panel
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import Classifier, runs_in
from ibviz.training.loaders import make_loader
from ibviz.training.loop import train, validate
from ibviz.training.recipe import Recipe
from ibviz.workflows.captions import PICTURES_PER_ROW, class_caption
from ibviz.workflows.model import load_on

SUFFIXES = (".png", ".pdf")


def evaluate_suite(
    suite: SuiteConfig, out: Path, *, root: Path | None = None, device: str = "auto", resume: bool = False
) -> bool:
    """Run a suite, alone or with the other processes of `torchrun`; the first draws and writes what `present` does.

    False: parts of the result lie in folders of other processes, to be brought together by `merge_folders`.
    """
    suite = with_runs(suite)
    with together() as processes:
        with processes.first_first():
            models = load_all(suite, device)
        whole = run_suite(suite, models, out, root=root, resume=resume, processes=processes)
        if whole and processes.first:
            present(out)
        return whole or not processes.first


def with_runs(suite: SuiteConfig) -> SuiteConfig:
    """The suite with every run of a folder of runs, as `ibviz train --seeds` leaves one, in the place of the folder."""
    return suite.model_copy(update={"models": tuple(run for model in suite.models for run in _runs_of(model))})


def _runs_of(model: NamedModel) -> list[NamedModel]:
    runs = runs_in(Path(model.name))
    label = label_of(model)
    return [model.model_copy(update={"name": str(run), "label": f"{label}/{run.name}"}) for run in runs] or [model]


def load_all(suite: SuiteConfig, device: str) -> dict[str, Classifier]:
    """The networks of a suite by their labels."""
    if not suite.models:
        raise InputError("the suite names no model; add [[models]] with a name, or give --model")
    named = labelled(suite.models, label_of, "models")
    return {label: load_on(one.name, one.weights, device) for label, one in named.items()}


def label_of(model: NamedModel) -> str:
    """A network's label in tables.

    >>> label_of(NamedModel(name="runs/digits")), label_of(NamedModel(name="timm/resnet50", label="ResNet-50"))
    ('digits', 'ResNet-50')
    """
    return model.label or Path(model.name).name


def merge_folders(folders: Sequence[Path], out: Path) -> None:
    """One result of the folders of several processes; no network is needed."""
    merge(folders, out)
    present(out)


def verify_result(suite: SuiteConfig, result: Path, *, root: Path | None, device: str) -> Verdict:
    """Compute a random 1 % of a result again."""
    suite = with_runs(suite)
    chosen = choose_images(suite.data, suite.split, root, count=suite.images, seed=suite.seed)
    return verify(suite, load_all(suite, device), chosen, result)


def present(folder: Path) -> None:
    """Tables, a panel of the first images and the curves of all methods, from what lies in the folder."""
    results = read_results(folder)
    for make in PRESENTATION.values():
        make(results)


def complete(results: Results) -> None:
    """Whatever `present` would write and the folder lacks."""
    for name, make in PRESENTATION.items():
        if not (results.folder / name).exists():
            make(results)


def draw_panel(results: Results) -> None:
    """The first images of a suite with every method that is no control, and the object outlined; by the first network.

    Methods that failed on one of them are left out, and there is no panel where no pictures or no maps were kept.
    """
    first = results.images[results.images["picture"].notna()].head(PICTURES_PER_ROW)
    label, model = next(iter(results.circumstances["models"].items()))
    maps = {} if first.empty else _maps(results, label, len(first))
    if not maps:
        return
    record = {
        "images": first["name"].tolist(),
        "chosen": "first of the suite's images",
        "model": {"label": label} | {key: model[key] for key in ("name", "weights", "size")},
        "protocol": next(iter(model["protocols"].values()))["hash"],
    }
    pixels = torch.stack([to_tensor(decode(*one)) for one in zip(first["picture"], first["name"], strict=True)])
    boxes = torch.tensor(np.array([[np.nan] * 4 if box is None else box for box in first["box"]]), dtype=torch.float32)
    drawn = panel(
        to_float(pixels),
        maps,
        captions=captions_of(results, label, len(first)),
        boxes=None if boxes.isnan().all() else boxes,
        record=record,
    )
    _save(drawn, results.folder / "panel")


def _save(drawn: Panel, stem: Path) -> None:
    for suffix in SUFFIXES:
        drawn.save(stem.with_suffix(suffix))


def _maps(results: Results, model: str, count: int) -> dict[str, Explanation]:
    """Maps of the first images, from the store, by the labels of the methods that are no controls."""
    methods = [
        label
        for label, one in results.circumstances["methods"].items()
        if not one["control"] and place_of(results.folder, model, label).is_dir()
    ]
    found = {label: read_maps(results.folder, model, label, slice(count)) for label in methods}
    return {label: one for label, one in found.items() if not values(one).isnan().any()}


def draw_curves(results: Results) -> None:
    """Mean deletion and insertion curves with their bands, controls in grey, by the first network and protocol."""
    model, one = next(iter(results.circumstances["models"].items()))
    protocol, card = next(iter(one["protocols"].items()))
    table = results.curves_of(model, protocol)
    if table.empty:
        return
    sides = {
        str(side): {
            str(method): (_stacked(rows["fractions"]), _stacked(rows["scores"]))
            for method, rows in own.groupby("method", sort=False)
        }
        for side, own in table.groupby("side", sort=False)
    }
    controls = sorted(set(table["method"][table["control"]]))
    record = {"model": model, "protocol": card["hash"]}
    _save(curves(sides, controls=controls, score=score_of(card), record=record), results.folder / "curves")


# What a folder of results shows, by the file that stands for each.
PRESENTATION: dict[str, Callable[[Results], object]] = {
    "table.md": lambda results: rebuild(results.folder),
    "panel.png": draw_panel,
    "curves.png": draw_curves,
}


def score_of(card: Mapping[str, Any]) -> str:
    """What is measured along the curves of a protocol's card, for an axis.

    >>> score_of({"protocol": {"score": "log_probability"}})
    'log probability'
    """
    return card["protocol"]["score"].replace("_", " ")


def _stacked(some: Iterable[np.ndarray]) -> Tensor:
    """Points of all curves in one tensor; shorter ones rest at their last point, which adds nothing."""
    several = list(some)
    most = max(map(len, several))
    return torch.from_numpy(np.stack([np.pad(one, (0, most - len(one)), "edge") for one in several]))


def captions_of(results: Results, model: str, count: int) -> list[str]:
    """Predicted class and its probability; below it the true class where the prediction is wrong."""
    names = results.circumstances["models"][model]["class_names"]
    seen = results.predictions[results.predictions["model"] == model].head(count)
    return [
        class_caption(names[index], share)
        + (f"\n(is {names[int(label)]})" if label == label and index != label else "")
        for index, share, label in zip(seen["predicted"], seen["probability"], results.images["label"], strict=False)
    ]


def accuracy_of(results: Results) -> dict[str, tuple[float, int]]:
    """Share of right answers of each network, and the number of images whose label is known."""
    seen = results.predictions.merge(results.images[["image", "label"]], on="image").dropna(subset="label")
    right = (seen["predicted"] == seen["label"]).groupby(seen["model"], sort=False)
    return {str(model): (sum(one) / len(one), len(one)) for model, one in right}


def run_demo(out: Path, *, resume: bool, report: Callable[[dict[str, Any]], object]) -> float:
    """Train the embedded recipe into `out`, judge it in `out/results`; its accuracy on all test images."""
    train(Recipe(), out, resume=resume, report=report)
    suite = SuiteConfig(models=(NamedModel(name=str(out)),))
    evaluate_suite(suite, out / "results", resume=resume)
    model = load_on(str(out), None, "auto")
    assert isinstance(model, IBClassifier)
    test = make_loader(load_images(DataConfig(), "test", None), next(model.parameters()).device)
    return validate(model, test)["accuracy"]
