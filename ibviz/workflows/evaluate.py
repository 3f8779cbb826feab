"""The evaluation of a suite, from its settings to tables and figures in a folder; and the demo, which trains first."""

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
from ibviz.benchmark.runner.processes import join_processes
from ibviz.benchmark.runner.result import merge
from ibviz.benchmark.runner.verify import Verdict, verify
from ibviz.benchmark.store import maps_folder, read_maps
from ibviz.benchmark.suite import check_suite, labelled
from ibviz.data.config import DataConfig
from ibviz.data.decode import decode, to_tensor
from ibviz.data.image_set import to_float
from ibviz.data.sources import check_source, choose_images, load_images
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
    """Run a suite, alone or with the other processes of `torchrun`; the first process writes tables and figures.

    Args:
        suite: The settings.
        out: The folder for the result.
        root: The folder of the images; None if they are bundled or downloaded.
        device: The device of the networks; "auto" takes a GPU if there is one.
        resume: Continue a run in `out` that was interrupted.

    Returns:
        False if parts of the result are in folders of other processes, for `merge_folders`; otherwise True.

    Raises:
        InputError: The suite is not valid, or `out` holds another run.
    """
    suite = expand_runs(suite)
    check_suite(suite)  # before networks are downloaded
    check_source(suite.data, suite.split, root)
    with join_processes() as processes:
        with processes.first_goes_ahead():
            models = load_all(suite, device)
        whole = run_suite(suite, models, out, root=root, resume=resume, processes=processes)
        if whole and processes.first:
            write_presentation(out)
        return whole or not processes.first


def expand_runs(suite: SuiteConfig) -> SuiteConfig:
    """Return the suite with each folder of runs, as `ibviz train --seeds` writes it, replaced by its runs."""
    return suite.model_copy(update={"models": tuple(run for model in suite.models for run in _runs_of(model))})


def _runs_of(model: NamedModel) -> list[NamedModel]:
    runs = runs_in(Path(model.name))
    label = label_of(model)
    return [model.model_copy(update={"name": str(run), "label": f"{label}/{run.name}"}) for run in runs] or [model]


def load_all(suite: SuiteConfig, device: str) -> dict[str, Classifier]:
    """Load the networks of a suite, by label."""
    if not suite.models:
        raise InputError("the suite names no model; add [[models]] with a name, or give --model")
    named = labelled(suite.models, label_of, "models")
    return {label: load_on(model.name, model.weights, device) for label, model in named.items()}


def label_of(model: NamedModel) -> str:
    """Return the label of a network in tables.

    >>> label_of(NamedModel(name="runs/digits")), label_of(NamedModel(name="timm/resnet50", label="ResNet-50"))
    ('digits', 'ResNet-50')
    """
    return model.label or Path(model.name).name


def merge_folders(folders: Sequence[Path], out: Path) -> None:
    """Merge the folders of several processes into one result; no network is needed."""
    merge(folders, out)
    write_presentation(out)


def verify_result(suite: SuiteConfig, result: Path, *, root: Path | None, device: str) -> Verdict:
    """Compute a random 1 % of a result again, and compare.

    Args:
        suite: The suite of the result.
        result: The folder of the result, or a file of rows in it.
        root: The folder of the images.
        device: The device of the networks.
    """
    suite = expand_runs(suite)
    chosen = choose_images(suite.data, suite.split, root, count=suite.images, seed=suite.seed)
    return verify(suite, load_all(suite, device), chosen, result)


def write_presentation(folder: Path) -> None:
    """Write tables, a panel of the first images and the curves of all methods, from the files in the folder."""
    results = read_results(folder)
    for make in PRESENTATION.values():
        make(results)


def write_missing(results: Results) -> None:
    """Write those tables and figures of `write_presentation` that the folder lacks."""
    for name, make in PRESENTATION.items():
        if not (results.folder / name).exists():
            make(results)


def draw_panel(results: Results) -> None:
    """Draw the first images with the maps of all methods but controls by the first network, and the objects outlined.

    Methods that failed on one of the images are left out. No panel is drawn if no pictures or no maps are stored.
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
    named = zip(first["picture"], first["name"], strict=True)
    pixels = torch.stack([to_tensor(decode(png, name)) for png, name in named])
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
    """Read the maps of the first images from the store, by method label, without controls."""
    methods = [
        label
        for label, method in results.circumstances["methods"].items()
        if not method["control"] and maps_folder(results.folder, model, label).is_dir()
    ]
    stored = {label: read_maps(results.folder, model, label, slice(count)) for label in methods}
    return {label: maps for label, maps in stored.items() if not values(maps).isnan().any()}


def draw_curves(results: Results) -> None:
    """Draw mean deletion and insertion curves of the first network and protocol with intervals, controls in grey."""
    model, facts = next(iter(results.circumstances["models"].items()))
    protocol, card = next(iter(facts["protocols"].items()))
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


# Functions that write tables and figures, by the file that shows that they have run.
PRESENTATION: dict[str, Callable[[Results], object]] = {
    "table.md": lambda results: rebuild(results.folder),
    "panel.png": draw_panel,
    "curves.png": draw_curves,
}


def score_of(card: Mapping[str, Any]) -> str:
    """Return the name of the score in a protocol card, for the axis of a figure.

    >>> score_of({"protocol": {"score": "log_probability"}})
    'log probability'
    """
    return card["protocol"]["score"].replace("_", " ")


def _stacked(curves: Iterable[np.ndarray]) -> Tensor:
    """Stack the points of all curves; shorter curves repeat their last point, which adds no area."""
    listed = list(curves)
    longest = max(map(len, listed))
    return torch.from_numpy(np.stack([np.pad(points, (0, longest - len(points)), "edge") for points in listed]))


def captions_of(results: Results, model: str, count: int) -> list[str]:
    """Return captions with the predicted class and its probability, and the true class if the prediction is wrong."""
    names = results.circumstances["models"][model]["class_names"]
    seen = results.predictions[results.predictions["model"] == model].head(count)
    return [
        class_caption(names[index], share)
        + (f"\n(is {names[int(label)]})" if label == label and index != label else "")
        for index, share, label in zip(seen["predicted"], seen["probability"], results.images["label"], strict=False)
    ]


def accuracy_of(results: Results) -> dict[str, tuple[float, int]]:
    """Return the accuracy of each network, and the number of images with a known label."""
    seen = results.predictions.merge(results.images[["image", "label"]], on="image").dropna(subset="label")
    right = (seen["predicted"] == seen["label"]).groupby(seen["model"], sort=False)
    return {str(model): (sum(answers) / len(answers), len(answers)) for model, answers in right}


def run_demo(out: Path, *, resume: bool, report: Callable[[dict[str, Any]], object]) -> float:
    """Train the embedded recipe into `out`, judge it in `out/results`, and return its accuracy on all test images."""
    train(Recipe(), out, resume=resume, report=report)
    suite = SuiteConfig(models=(NamedModel(name=str(out)),))
    evaluate_suite(suite, out / "results", resume=resume)
    model = load_on(str(out), None, "auto")
    assert isinstance(model, IBClassifier)
    test = make_loader(load_images(DataConfig(), "test", None), next(model.parameters()).device)
    return validate(model, test)["accuracy"]
