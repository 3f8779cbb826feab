"""The evaluation of a suite, from its settings to tables and figures in a folder; and the demo, which trains first."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ibviz.benchmark.config import NamedModel, SuiteConfig
from ibviz.benchmark.results import Results
from ibviz.benchmark.runner.loop import run_suite
from ibviz.benchmark.runner.processes import join_processes
from ibviz.benchmark.runner.result import merge
from ibviz.benchmark.runner.verify import Verdict, verify
from ibviz.benchmark.suite import check_suite, labelled
from ibviz.data.config import DataConfig
from ibviz.data.sources import check_source, choose_images, load_images
from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import ModelConfig, ObjectiveConfig
from ibviz.models.loading import Classifier, runs_in
from ibviz.models.outside import is_code
from ibviz.training.loaders import make_loader
from ibviz.training.loop import train, validate
from ibviz.training.recipe import Recipe
from ibviz.workflows.model import load_on
from ibviz.workflows.presentation import write_presentation


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

    >>> [label_of(NamedModel(name=name)) for name in ("runs/digits", "timm/resnet50", "nets.py:small")]
    ['digits', 'resnet50', 'small']
    """
    return model.label or (model.name.rpartition(":")[2] if is_code(model.name) else Path(model.name).name)


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


def accuracy_of(results: Results) -> dict[str, tuple[float, int]]:
    """Return the accuracy of each network, and the number of images with a known label."""
    seen = results.predictions.merge(results.images[["image", "label"]], on="image").dropna(subset="label")
    right = (seen["predicted"] == seen["label"]).groupby(seen["model"], sort=False)
    return {str(model): (sum(answers) / len(answers), len(answers)) for model, answers in right}


DEMO = Recipe(
    model=ModelConfig(gate="noise", smoothing=1.0, open_at_start=0.9), objective=ObjectiveConfig(attention_price=0.5)
)


def run_demo(out: Path, *, resume: bool, report: Callable[[dict[str, Any]], object]) -> float:
    """Train the embedded recipe into `out`, judge it in `out/results`, and return its accuracy on all test images."""
    train(DEMO, out, resume=resume, report=report)
    suite = SuiteConfig(models=(NamedModel(name=str(out)),))
    evaluate_suite(suite, out / "results", resume=resume)
    model = load_on(str(out), None, "auto")
    assert isinstance(model, IBClassifier)
    test = make_loader(load_images(DataConfig(), "test", None), next(model.parameters()).device)
    return validate(model, test)["accuracy"]
