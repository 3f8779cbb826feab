"""Train attention on photographs at several prices and judge it: everything behind evaluation/results/attention.

usage: python evaluation/attention/run.py STUDY DATA WEIGHTS OUT

STUDY is "all" (all classes, trained at 128 px and judged at 192) or "half" (half of the classes, 128 px). DATA holds
Tiny ImageNet with boxes as Parquet files (train.parquet, validation.parquet), WEIGHTS is the safetensors file of
`ibviz/mobilenet_v2_same`. Settings were chosen on the classes of even number, and test images of the others are judged.
What is finished is left alone: the same command goes on where it was stopped.
"""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import prices
import tables
from halves import cut

from ibviz.models.checkpoint import load_model, save_model
from ibviz.models.classifier import IBClassifier

HERE = Path(__file__).parent
SUITES = HERE.parent / "suites"


class Study(NamedTuple):
    """A study: the folder of `halves.py` to train on, and what is judged."""

    trained: str
    side: int  # of judged images, in pixels
    judged: dict[str, str]  # a folder of `halves.py` for each suite, evaluation/suites/attention_STUDY_SUITE.toml


STUDIES = {
    "all": Study(
        "all",
        192,
        {"pointing": "all-reported", "small": "all-reported-small", "curves": "all-reported"},
    ),
    "half": Study("reported", 128, {"pointing": "reported", "curves": "reported"}),
}
IMAGES = 1000  # test images by which the prices are compared


def main(name: str, data: Path, weights: Path, out: Path) -> None:
    study, halves, folder = STUDIES[name], out / "halves", out / name
    if not halves.exists():
        cut(data, halves)
    folder.mkdir(exist_ok=True)
    plan = folder / "sweep.toml"
    plan.write_text(tables.RECIPE.read_text() + "\n" + (HERE / f"{name}.toml").read_text())
    train = ["train", plan, "--sweep", "--data", halves / study.trained, "--weights", weights]
    ibviz(*train, "--features", folder / "features", "--out", folder / "runs")
    for run in sorted(path.parent for path in (folder / "runs").glob("*/model.safetensors")):
        resized(run, study.side, folder / "models" / run.name)
    prices.main(halves / study.judged["pointing"], folder / "models", folder, IMAGES)
    for suite, judged in study.judged.items():
        judge(SUITES / f"attention_{name}_{suite}.toml", folder, halves / judged, folder / suite)
    tables.main(folder)


def resized(run: Path, side: int, out: Path) -> None:
    """Write a training as a model that takes images of another size, where this has not been done."""
    if (out / "model.safetensors").exists():
        return
    trained = load_model(run / "model.safetensors")
    model = IBClassifier(trained.config, trained.spec.model_copy(update={"size": side}))
    model.load_state_dict(trained.state_dict())
    out.mkdir(parents=True, exist_ok=True)
    save_model(out / "model.safetensors", model, trained.facts)


def judge(suite: Path, folder: Path, data: Path, out: Path) -> None:
    """Judge trainings by a suite, where this has not been done."""
    if (out / "table.md").exists():
        return
    chosen = out.with_suffix(".toml")
    models = "".join(f'\n[[models]]\nname = "{run}"\n' for run in tables.at_the_price(folder))
    chosen.write_text(suite.read_text() + models)
    ibviz("evaluate", chosen, "--data", data, "--out", out, *(["--resume"] if out.exists() else []))


def ibviz(*arguments: object) -> None:
    """Run a command of ibviz; its output is this one's."""
    subprocess.run([sys.executable, "-m", "ibviz", *map(str, arguments)], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] not in STUDIES:
        sys.exit(__doc__)
    main(sys.argv[1], *map(Path, sys.argv[2:]))
