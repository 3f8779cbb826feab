"""What a suite will cost on many images, reckoned from one that was run on few.

usage: python -m evaluation.cost RESULT [--images 50000] [--methods 20] [--processes 8] [--seconds-per-pass S]

RESULT is a folder of `ibviz evaluate`, run with the network, the image size and the protocol of the large job. Controls
are added to the methods, as every suite does. `--seconds-per-pass` stands for another machine: its time for one image
in the network's fastest batch.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def reckon(facts: dict[str, Any], images: int, methods: int, processes: int, pace: float | None) -> dict[str, float]:
    """Passes and hours of the large job; maps and the rest of the work keep their share of the small one's time."""
    unfit = {(one["model"], one["method"]) for one in facts["left_out"] if one["method"]}
    controls = sum(one["control"] for one in facts["methods"].values())
    judged = len(facts["methods"]) * len(facts["models"]) - len(unfit)
    passes = facts["forward_passes"] / facts["images"] / judged
    seconds = facts["seconds"] / facts["forward_passes"]
    whole = images * (methods + controls) * passes
    return {
        "passes an image and method": passes,
        "passes a second": 1 / seconds,
        "passes": whole,
        "process hours": whole * (pace or seconds) / 3600,
        "hours": whole * (pace or seconds) / 3600 / processes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--methods", type=int, default=20)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds-per-pass", type=float)
    asked = parser.parse_args()
    facts = json.loads((asked.result / "circumstances.json").read_text())
    found = reckon(facts, asked.images, asked.methods, asked.processes, asked.seconds_per_pass)
    print(f"from {facts['images']} images on {facts['device']}, {facts['seconds']} s")
    for name, value in found.items():
        print(f"{name}: {value:,.4g}")


if __name__ == "__main__":
    main()
