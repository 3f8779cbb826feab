"""Train attention on photographs at several prices and judge it: everything behind evaluation/results/attention.

usage: python evaluation/attention/run.py STUDY DATA WEIGHTS OUT

STUDY is "all" (192 px, all classes) or "half" (128 px, half of the classes). DATA holds Tiny ImageNet with boxes as
Parquet files (train.parquet, validation.parquet), WEIGHTS is the safetensors file of `ibviz/mobilenet_v2_same`.
Settings were chosen on the classes of even number, and test images of the others are judged. What is finished is left
alone: the same command goes on where it was stopped.
"""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import prices
import tables
from halves import cut

HERE = Path(__file__).parent
SUITES = HERE.parent / "suites"


class Study(NamedTuple):
    """Folders of `halves.py` to train on and to judge on, and the test images by which prices are compared."""

    trained: str
    judged: str
    images: int


STUDIES = {"all": Study("all", "all-reported", 2000), "half": Study("reported", "reported", 1000)}


def main(name: str, data: Path, weights: Path, out: Path) -> None:
    study, halves, folder = STUDIES[name], out / "halves", out / name
    if not halves.exists():
        cut(data, halves)
    folder.mkdir(exist_ok=True)
    sweep = (HERE / f"{name}.toml").read_text()
    plan = folder / "sweep.toml"
    plan.write_text(tables.RECIPE.read_text() + "\n" + sweep)
    train = ["train", plan, "--sweep", "--data", halves / study.trained, "--weights", weights]
    ibviz(*train, "--features", folder / "features", "--out", folder / "runs")
    prices.main(halves / study.judged, folder, study.images)
    for suite in ("pointing", "curves"):
        judge(f"attention_{suite}", tables.at_the_price(folder), halves / study.judged, folder / suite)
    tables.main(folder)


def judge(suite: str, runs: list[Path], data: Path, out: Path) -> None:
    """Judge trainings by a suite, where this has not been done."""
    if (out / "table.md").exists():
        return
    chosen = out.with_suffix(".toml")
    models = "".join(f'\n[[models]]\nname = "{run}"\n' for run in runs)
    text = (SUITES / f"{suite}.toml").read_text().replace("size = 128", f"size = {tables.side_of(runs[0])}")
    chosen.write_text(text + models)
    ibviz("evaluate", chosen, "--data", data, "--out", out, *(["--resume"] if out.exists() else []))


def ibviz(*arguments: object) -> None:
    """Run a command of ibviz; its output is this one's."""
    subprocess.run([sys.executable, "-m", "ibviz", *map(str, arguments)], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] not in STUDIES:
        sys.exit(__doc__)
    main(sys.argv[1], *map(Path, sys.argv[2:]))
