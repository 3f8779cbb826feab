"""Parts of ibviz in a process of their own: curves, interventions at anchors, a report."""

import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from evaluation.speed.cases.report import draw
from ibviz.anchors import intervene, usage
from ibviz.data import digits
from ibviz.figures.report import save_report
from ibviz.metrics import CurveProtocol, faithfulness, scorer
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig

GREY = (0.5, 0.5, 0.5)


def curves(images: int = 96, pixels: int = 64**2, grid: int = 32, steps: int = 32) -> None:
    """Deletion and insertion of random images and maps by a network of one convolution."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = math.isqrt(pixels)
    layer = nn.Conv2d(3, 16, 8, stride=4).eval()
    pictures, maps = torch.rand(images, 3, side, side), torch.rand(images, grid, grid)
    protocol = CurveProtocol(colour=GREY, steps=steps, ties="index", batch_size=64)
    score = scorer(lambda batch: layer(batch).mean((2, 3)), torch.zeros(images, dtype=torch.long))
    faithfulness(score, pictures, maps, protocol=protocol)


def anchors(count: int) -> None:
    """Usage of the anchors and all interventions on them, 64 embedded images."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = InputConfig(size=48, mean=GREY, std=GREY, class_names=tuple("0123456789"))
    model, images = IBClassifier(ModelConfig(anchors=count), spec).eval(), digits("test", count=64, seed=0)
    usage(model, images)
    intervene(model, images)


def report(images: int) -> None:
    """One report of 8 methods at 64 px, written once; its pictures and maps are drawn first."""
    torch.set_num_threads(1)
    drawn = draw(images, side=64)
    with tempfile.TemporaryDirectory() as folder:
        save_report(drawn, Path(folder) / "report.html")
