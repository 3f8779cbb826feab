"""What the tests look at: the pixels of a saved figure, cut into its axes."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from ibviz.figures.sidecar import Panel
from ibviz.types import AttentionMap, Images


def grey(count: int, height: int = 32, width: int = 32) -> Images:
    """Photographs of the middle grey over which a colour bar shows its colours."""
    return torch.full((count, 3, height, width), 0.5)


def quantised(index: torch.Tensor, anchors: list[float]) -> AttentionMap:
    table = torch.tensor(anchors)
    return AttentionMap(table[index], torch.zeros(index.shape), index, table)


def continuous(mean: torch.Tensor) -> AttentionMap:
    return AttentionMap(mean, torch.zeros_like(mean), None, None)


def parts(panel: Panel, dpi: int = 200) -> list[NDArray[np.int64]]:
    """Colours `(rows, columns, 3)` inside each of the axes, as saved: images, then by row the overlays and the bar."""
    file = BytesIO()
    panel.figure.savefig(file, format="png", dpi=dpi)
    return cut(file, panel)


def cut(file: BytesIO | Path, panel: Panel) -> list[NDArray[np.int64]]:
    """The same from a picture that is saved already."""
    picture = np.asarray(Image.open(file).convert("RGB")).astype(np.int64)
    return [_inside(picture, axes) for axes in panel.figure.axes]


def _inside(picture: NDArray[np.int64], axes: Axes) -> NDArray[np.int64]:
    box, (high, wide) = axes.get_position(), picture.shape[:2]
    rows = slice(round((1 - box.y1) * high), round((1 - box.y0) * high))
    return picture[rows, round(box.x0 * wide) : round(box.x1 * wide)]


def middle(part: NDArray[np.int64]) -> NDArray[np.int64]:
    return part[part.shape[0] // 2, part.shape[1] // 2]


def points(line: Line2D) -> NDArray[np.float64]:
    """Points `(n, 2)` of a line."""
    return np.asarray(line.get_data(), dtype=float).T
