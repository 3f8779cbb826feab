"""Every method on the same images in one figure, for a person to look at: IBVIZ_MONTAGE names the folder."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from torch.nn.functional import interpolate

from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.methods import explain
from ibviz.benchmark.evaluation import values
from ibviz.data.image_set import to_float
from ibviz.data.synthetic import digits
from ibviz.figures import panel
from tests.attribution.test_methods import FEW, network_for
from tests.figures.drawn import cut

SIDE, BLEND = 48, 0.6


def expected(photo: torch.Tensor, maps: torch.Tensor, row: dict) -> np.ndarray:
    """Colours `(h, w, 3)` of an overlay, pixel by pixel of the photograph, from the limits that the sidecar names."""
    mode = "nearest" if row["enlargement"] == "nearest blocks" else "bilinear"
    large = interpolate(maps[None, None].double(), (SIDE, SIDE), mode=mode)[0, 0].numpy()
    low, high = row["limits"]
    share = ((large - low) / (high - low)).clip(0, 1)
    colours = colormaps["RdBu_r"](share) if row["colours"] == "RdBu_r" else colormaps["inferno"](0.92 * share)
    grey = 0.2 + 0.7 * (photo.permute(1, 2, 0).double().numpy() @ np.array([0.2126, 0.7152, 0.0722]))
    return 255 * (BLEND * colours[..., :3] + (1 - BLEND) * grey[..., None])


def test_a_montage_of_every_method_shows_each_with_the_colours_of_its_values(tmp_path):
    data = digits("test", count=2, seed=0)
    images = to_float(data.images)
    maps = {}
    for name, method in METHODS.items():
        options: dict[str, Any] = FEW.get(name, {})
        maps[method.label] = explain(network_for(name), images, name, **options)
    drawn = panel(images, maps, boxes=data.boxes, blend=BLEND, record={"network": "untrained"})
    folder = Path(os.environ.get("IBVIZ_MONTAGE") or tmp_path)
    drawn.save(folder / "montage.png")
    rows = drawn.account["rows"]
    assert [row["label"] for row in rows] == [method.label for method in METHODS.values()]
    pairs = zip(cut(folder / "montage.png", drawn), drawn.figure.axes, strict=True)
    cells = iter([part for part, axes in pairs if len(axes.images) == 2])
    for row in rows:
        for photo, one in zip(images, values(maps[row["label"]]), strict=True):
            part = next(cells)
            at = [((np.arange(SIDE) + 0.5) / SIDE * side).astype(int) for side in part.shape[:2]]
            difference = np.abs(part[np.ix_(*at)] - expected(photo, one, row)).max(2)
            if one.max() == one.min():
                difference = difference[: SIDE // 3]  # below stands that the map is constant
            assert np.quantile(difference, 0.95) <= 10, row["label"]
