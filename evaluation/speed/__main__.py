"""ibviz, its rivals and its limits, in turn in one process on the same tensors; and how its costs grow.

    python -m evaluation.speed --out DIR [--device cuda] [--budget MINUTES] [--images 100000] [CASE ...]

A CASE is a name or a group, such as `curves/resnet50/limit`, `curves` or `growth`; without one, everything runs but
`compiled` and `training/memory`. DIR gets race.json, table.md and figure.png. Cases that have rows in race.json are not
run again.
Rivals that are not installed are left out (`pip install 'ibviz[peers]'`; `torchray`, for non-commercial use, is extra).
The variable IBVIZ_SHARED may name a folder with published weights and photographs; random ones cost the same.
"""

import argparse
import sys
from pathlib import Path

import torch

from evaluation.speed.catalogue import CASES
from evaluation.speed.circumstances import circumstances
from evaluation.speed.command import FILE, begin, read, rows_of, run_cases, select
from evaluation.speed.figure import draw
from evaluation.speed.records import Settings
from evaluation.speed.table import table
from ibviz.errors import InputError
from ibviz.files import replacing


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="begin no case after so many minutes")
    parser.add_argument("--images", type=int, default=7_000, help="the most of growth/images; default: %(default)s")
    asked = parser.parse_args(given)
    try:
        device = torch.device(asked.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("there is no GPU that torch can use; leave out --device")
        facts = circumstances(device)
        command = " ".join(["python -m evaluation.speed", *(sys.argv[1:] if given is None else given)])
        chosen = select(CASES, asked.cases)
        kept = begin(asked.out, facts, command)
        try:
            run_cases(chosen, asked.out, Settings(device, asked.images), kept, budget=asked.budget)
        finally:  # also after Ctrl-C
            present(asked.out)
    except InputError as error:
        sys.exit(f"error: {error}")


def present(out: Path) -> None:
    """Write table and figure of the rows that are there."""
    kept = read(out)
    if kept is None or not kept["rows"]:
        return
    with replacing(out / "table.md") as beside:
        beside.write_text(table(rows_of(kept), kept["circumstances"], list(CASES)))
    draw(rows_of(kept), list(CASES), out / "figure.png")
    print(out / "table.md", out / "figure.png", out / FILE, sep="\n")


if __name__ == "__main__":
    main()
