"""A panel of six images by eight methods at 300 dpi, drawn and saved with its sidecar and data.

Smooth images of 224 px; one row of anchors on 14 x 14 cells, four of 7 x 7 cells, three of pixels.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from evaluation.speed.records import Case, Contestant, Row, Settings
from evaluation.speed.timing import raced
from ibviz.figures import panel
from ibviz.types import AttentionMap

IMAGES, SIDE, DPI = 6, 224, 300


def example() -> tuple[Tensor, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 28, 28, generator=generator)
    images = (interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).round() / 255
    index, anchors = torch.randint(0, 20, (IMAGES, 14, 14), generator=generator), torch.linspace(0, 1, 20)
    maps: dict[str, Any] = {"Attention": AttentionMap(anchors[index], torch.zeros(index.shape), index, anchors)}
    maps |= {f"CAM {number}": torch.rand(IMAGES, 7, 7, generator=generator) for number in range(1, 5)}
    return images, maps | {
        f"Pixels {number}": torch.randn(IMAGES, SIDE, SIDE, generator=generator) for number in (1, 2, 3)
    }


def draw(suffix: str, case: Case, settings: Settings) -> list[Row]:
    images, maps = example()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"panel.{suffix}"

        def run() -> None:
            panel(images, maps, captions=["class 0.93"] * IMAGES).save(path, dpi=DPI)

        return raced(case, "", [Contestant("ibviz", "ours", run)], settings, unit="panel")


CASES = [Case(f"figures/panel_{suffix}", partial(draw, suffix)) for suffix in ("png", "pdf")]
