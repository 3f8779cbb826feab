"""ROAD's imputation alone: many masked images at once, against the solver of pytorch-grad-cam, on the CPU.

States of one smooth image of 224 px: cells of a 14 x 14 grid, a growing disk, and single pixels, 3 to 97 % removed.
"""

import importlib
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from evaluation.speed.records import Case, Contestant, Row, Settings
from evaluation.speed.timing import raced
from ibviz.metrics import road

SIDE, STATES, SOLVED_BY_PEER = 224, 32, 4


def removed(kind: str) -> Tensor:
    """The removed pixels of each state: those whose value lies below a growing quantile."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.rand(14, 14, generator=generator).repeat_interleave(16, 0).repeat_interleave(16, 1)
    rows, columns = torch.meshgrid(*[torch.arange(SIDE) + 0.5] * 2, indexing="ij")
    disk = (rows - 0.5 * SIDE).square() + (columns - 0.4 * SIDE).square()
    values = {"cells": cells, "disk": disk, "pixels": torch.rand(SIDE, SIDE, generator=generator)}[kind]
    return values < values.flatten().quantile(torch.linspace(0.03, 0.97, STATES)).view(-1, 1, 1)


def smooth(count: int, side: int) -> Tensor:
    """One smooth image, as often as asked."""
    coarse = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    return interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1).expand(count, -1, -1, -1).contiguous()


def compare(kind: str, case: Case, settings: Settings) -> list[Row]:
    peer = importlib.import_module("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0.0)
    states, images = removed(kind), smooth(STATES, SIDE)
    some = range(0, STATES, STATES // SOLVED_BY_PEER)

    def theirs() -> Tensor:
        return torch.stack([peer(images[place], (~states[place]).float()) for place in some])

    contestants = [
        Contestant("ibviz", "ours", lambda: road(images, states, seed=0), STATES),
        Contestant("pytorch-grad-cam", "rival", theirs, len(some)),
    ]
    return raced(case, "", contestants, settings, unit="masked image")


CASES = [Case(f"road/{kind}", partial(compare, kind)) for kind in ("cells", "disk", "pixels")]
