"""ROAD's imputation of many states at once against pytorch-grad-cam's solver, one image at a time, on the CPU.

usage: python evaluation/speed/road.py [--out road.json]      needs the extra `peers`

States of one smooth image of 224 px: cells of a 14 x 14 grid, a growing disk, and single pixels, 3 to 97 % removed.
Both solve without noise; the largest difference of a pixel is printed beside the times.
"""

import argparse
import json
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.nn.functional import interpolate

from ibviz.files import replacing
from ibviz.metrics import imputation, road

SIDE, STATES, SOLVED_BY_PEER, REPEATS = 224, 32, 4, 3


def masks() -> dict[str, Tensor]:
    """Removed pixels of each state: those whose value lies below a growing quantile."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.rand(14, 14, generator=generator).repeat_interleave(16, 0).repeat_interleave(16, 1)
    rows, columns = torch.meshgrid(*[torch.arange(SIDE) + 0.5] * 2, indexing="ij")
    disk = (rows - 0.5 * SIDE).square() + (columns - 0.4 * SIDE).square()
    values = {"cells": cells, "disk": disk, "pixels": torch.rand(SIDE, SIDE, generator=generator)}
    shares = torch.linspace(0.03, 0.97, STATES)
    return {name: one < one.flatten().quantile(shares).view(-1, 1, 1) for name, one in values.items()}


def seconds(work: Any) -> tuple[float, Tensor]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def race(removed: Tensor) -> dict[str, float]:
    peer, some = NoisyLinearImputer(noise=0.0), range(0, STATES, STATES // SOLVED_BY_PEER)
    coarse = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    images = interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1).expand(STATES, -1, -1, -1).contiguous()
    ours, theirs, difference = [], [], 0.0
    for _ in range(REPEATS):
        took, filled = seconds(lambda: road(images, removed, seed=0))
        ours.append(took / STATES)
        took, expected = seconds(lambda: torch.stack([peer(images[i], (~removed[i]).float()) for i in some]))
        theirs.append(took / len(some))
        difference = float((filled[:: STATES // SOLVED_BY_PEER] - expected).abs().max())
    return {
        "ibviz ms": 1e3 * median(ours),
        "pytorch-grad-cam ms": 1e3 * median(theirs),
        "ratio": median(theirs) / median(ours),
        "largest difference": difference,
    }


def main(out: Path | None) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # the peer's, of NumPy
    imputation._NOISE = 0.0
    rows = {name: race(removed) for name, removed in masks().items()}
    versions = {name: version(name) for name in ("torch", "scipy", "grad-cam")}
    facts = {"versions": versions, "threads": torch.get_num_threads(), "side": SIDE, "states": STATES, "an image": rows}
    print(json.dumps(facts, indent=1))
    if out is not None:
        with replacing(out) as beside:
            beside.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    main(parser.parse_args().out)
