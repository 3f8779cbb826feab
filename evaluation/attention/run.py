"""Train attention on photographs at several prices and judge it: everything behind evaluation/results/attention.

usage: python evaluation/attention/run.py DATA WEIGHTS OUT

DATA holds Tiny ImageNet with boxes as Parquet files (train.parquet, validation.parquet), WEIGHTS is the safetensors
file of `ibviz/mobilenet_v2_same`. Settings were found on the classes of even number; here the other half is trained and
judged. What is finished is left alone: the same command goes on where it was stopped.
"""

import subprocess
import sys
from pathlib import Path

import prices
import tables
from halves import cut

HERE = Path(__file__).parent
SUITES = HERE.parent / "suites"
IMAGES = 1000  # test images by which the prices are compared


def main(data: Path, weights: Path, out: Path) -> None:
    half = out / "halves/reported"
    if not half.exists():
        cut(data, out / "halves")
    runs = out / "runs"
    plan = out / "sweep.toml"
    plan.write_text(tables.RECIPE.read_text() + "\n" + (HERE / "prices.toml").read_text())
    train = ["train", plan, "--sweep", "--data", half, "--weights", weights, "--features", out / "features"]
    ibviz(*train, "--out", runs)
    prices.main(half, out, IMAGES)
    judged = sorted(path.parent for path in runs.glob(f"attention_price={tables.PRICE},*/model.safetensors"))
    for name in ("pointing", "curves"):
        judge(f"attention_{name}", judged, half, out / name)
    tables.main(out)


def judge(suite: str, runs: list[Path], data: Path, out: Path) -> None:
    """Judge trainings by a suite, where this has not been done."""
    if (out / "table.md").exists():
        return
    chosen = out.with_suffix(".toml")
    models = "".join(f'\n[[models]]\nname = "{run}"\n' for run in runs)
    chosen.write_text((SUITES / f"{suite}.toml").read_text() + models)
    ibviz("evaluate", chosen, "--data", data, "--out", out, *(["--resume"] if out.exists() else []))


def ibviz(*arguments: object) -> None:
    """Run a command of ibviz; its output is this one's."""
    subprocess.run([sys.executable, "-m", "ibviz", *map(str, arguments)], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
