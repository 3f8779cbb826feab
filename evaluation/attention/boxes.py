"""MaxBoxAcc (version 2) of attention and other maps: thresholds from classes for tuning, accuracy on the reported ones.

usage: python evaluation/attention/boxes.py OUT [IMAGES]

OUT is the folder of `run.py` after the study "all"; prints a table of the trainings at the recipe's price.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tables
import torch

import ibviz
from ibviz.data import to_float
from ibviz.data.config import DataConfig
from ibviz.data.sources import load_images
from ibviz.metrics.localisation.boxes import Overlaps, max_box_acc, overlaps
from ibviz.models.classifier import IBClassifier
from ibviz.types import Maps

BATCH = 100
METHODS: dict[str, tuple[str, Callable[[IBClassifier], dict[str, Any]]]] = {  # with options for a model
    "Attention, mean": ("attention_mean", lambda _: {}),
    "Grad-CAM, gated layer": ("grad_cam", lambda model: {"layer": model.layer}),
    "Grad-CAM, last layer": ("grad_cam", lambda _: {}),
    "centre": ("centre", lambda _: {}),
}


def main(out: Path, count: int) -> None:
    runs = tables.at_the_price(out / "all")
    chosen_on, measured = (
        [overlapping(run, out / f"halves/all-{half}", count) for run in runs] for half in ("tuning", "reported")
    )
    print("| map | MaxBoxAcc, each training | with the best thresholds of the reported half |\n| --- | --- | --- |")
    for name in METHODS:
        judged = [max_box_acc(own[name], tuned[name]) for own, tuned in zip(measured, chosen_on, strict=True)]
        cells = (
            [f"{value:.3f}" for value in values]
            for values in ([score.accuracy for score in judged], [score.oracle for score in judged])
        )
        print(f"| {name} | " + " | ".join(", ".join(some) for some in cells) + " |")
    print(f"\n{count} test images of each half; mean over overlaps of 0.3, 0.5 and 0.7.")


def overlapping(run: Path, data: Path, count: int) -> dict[str, Overlaps]:
    """Return the overlaps of every method's maps with the boxes, at every threshold."""
    model = ibviz.load(run)
    assert isinstance(model, IBClassifier)
    side = model.spec.side
    images = load_images(DataConfig(source="parquet", image_size=side), "test", data, count=count)
    assert images.boxes is not None
    boxes = [box[None] if box.isfinite().all() else box.new_zeros(0, 4) for box in images.boxes]
    by_method = {}
    for name, (method, options) in METHODS.items():
        maps: list[Maps] = []
        for pixels in images.images.split(BATCH):
            given = ibviz.explain(model, to_float(pixels), method, **options(model))
            assert isinstance(given, torch.Tensor)
            maps.append(given)
        by_method[name] = overlaps(torch.cat(maps), boxes, (side, side))
    return by_method


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 500)
