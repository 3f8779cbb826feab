"""MaxBoxAcc (version 2) of attention and other maps: thresholds from the tuning half, accuracy on the reported half.

usage: python evaluation/attention/boxes.py HALVES TUNED OUT [IMAGES]

HALVES is the folder of `halves.py`, TUNED a training of the recipe on its half `tuning`, OUT the folder of the study
"half" of `run.py`; prints a table of the trainings at the recipe's price.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tables import at_the_price

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


def main(halves: Path, tuned: Path, out: Path, count: int) -> None:
    chosen_on = overlapping(tuned, halves / "tuning", count)
    measured = [overlapping(run, halves / "reported", count) for run in at_the_price(out)]
    print("| map | MaxBoxAcc, each training | with the best thresholds of the reported half |\n| --- | --- | --- |")
    for name in METHODS:
        judged = [max_box_acc(training[name], chosen_on[name]) for training in measured]
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
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    halves, tuned, out = map(Path, sys.argv[1:4])
    main(halves, tuned, out, int(sys.argv[4]) if len(sys.argv) == 5 else 500)
