"""What a GPU computes is what the CPU computes, to rounding, and it stays there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import bottlenecked
from torch.testing import assert_close

from ibviz.anchors import consistency, intervene
from ibviz.data import digits
from ibviz.metrics import (
    BASELINES,
    SRG,
    Curve,
    EnergyPointingGame,
    MaxBoxAcc,
    PointingGame,
    energy_pointing_game,
    iou_at_quantile,
    overlaps,
    pixel_counts,
    pointing_game,
    top_cell_precision,
    torchray_pointing_game,
)

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(3, 3, 20, 24, generator=GENERATOR)
MAPS = torch.rand(3, 5, 6, generator=GENERATOR)
REGIONS = torch.rand(3, 20, 24, generator=GENERATOR) > 0.7
BOXES = [torch.tensor([[2.0, 3.0, 15.0, 12.0]])] * 3
FRACTIONS, SCORES = torch.linspace(0, 1, 6).expand(3, -1), torch.rand(3, 6, generator=GENERATOR)


def quantile(maps, regions):
    return iou_at_quantile(maps, regions, quantile=0.8)


def boxed(device: str) -> list[torch.Tensor]:
    """A metric, and one that chooses by it."""
    metric = MaxBoxAcc(size=(20, 24)).to(device)
    metric.update(maps=MAPS.to(device), boxes=[one.to(device) for one in BOXES])
    second = MaxBoxAcc(size=(20, 24), chosen_on=metric).to(device)
    second.update(maps=MAPS.flip(1).to(device), boxes=[one.to(device) for one in BOXES])
    return list(second.compute().values())


def summed(device: str) -> list[torch.Tensor]:
    curve = Curve(FRACTIONS.to(device), SCORES.to(device))
    given = {"deletion": curve, "insertion": Curve(curve.fractions, curve.scores.flip(1))}
    metrics: list[Any] = [SRG().to(device), PointingGame().to(device), EnergyPointingGame(reduction="none").to(device)]
    for metric in metrics:
        metric.update(
            **(given if isinstance(metric, SRG) else {"maps": MAPS.to(device), "regions": REGIONS.to(device)})
        )
    return [metric.compute() for metric in metrics]


POINTED = [pointing_game, torchray_pointing_game, energy_pointing_game, quantile, top_cell_precision, pixel_counts]
CASES: dict[str, Callable[[str], Any]] = {
    **{
        name: lambda device, fill=baseline.fill: fill(
            IMAGES.to(device), REGIONS.to(device), colour=(0.4, 0.5, 0.6), seed=0
        )
        for name, baseline in BASELINES.items()
    },
    **{one.__name__: lambda device, one=one: one(MAPS.to(device), REGIONS.to(device)) for one in POINTED},
    "overlaps": lambda device: overlaps(MAPS.to(device), BOXES, (20, 24)),
    "shells": summed,
    "boxes": boxed,
}
STUDIES: dict[str, Callable[[str], Any]] = {
    one.__name__: lambda device, one=one: one(bottlenecked().to(device), digits("test", count=3, seed=0), batch_size=2)
    for one in (intervene, consistency)
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", [*CASES, *STUDIES])
def test_a_gpu_says_what_the_cpu_says(name):
    case = (CASES | STUDIES)[name]
    here, there = ([*case(device)] for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        if isinstance(one, torch.Tensor):
            assert other.is_cuda == (name in CASES)  # a study's result is on the host
            assert_close(other.cpu(), one, atol=1e-4, rtol=1e-4, equal_nan=True)
