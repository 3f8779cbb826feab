"""Say for every price how accurate trainings are, how much they use their attention, and how well it points.

usage: python evaluation/attention/prices.py DATA OUT [IMAGES]

DATA holds the test images, OUT/runs the trainings; OUT/prices.json gets one entry for each training, and those that are
there are left alone. Judged are test images chosen by seed 0; maps point where there is a box that does not fill the
image.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

import ibviz
from ibviz.data import to_float
from ibviz.data.config import DataConfig
from ibviz.data.image_set import regions
from ibviz.data.sources import load_images
from ibviz.metrics import auroc, pointing_game
from ibviz.models.classifier import IBClassifier
from ibviz.models.reliance import REPLACEMENTS, reliance

BATCH = 100


def main(data: Path, models: Path, out: Path, count: int) -> None:
    path = out / "prices.json"
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for run in sorted(folder.parent for folder in models.glob("*/model.safetensors")):
        if run.name not in done:
            done[run.name] = measured(run, data, count)
            path.write_text(json.dumps(done, indent=1))
            print(run.name, done[run.name], flush=True)


def measured(run: Path, data: Path, count: int) -> dict[str, Any]:
    model = ibviz.load(run)
    assert isinstance(model, IBClassifier)
    images = load_images(DataConfig(source="parquet", image_size=model.spec.side), "test", data, count=count)
    parts = torch.arange(len(images.labels)).split(BATCH)
    used = reliance(model, lambda: ((to_float(images.images[rows]), images.labels[rows]) for rows in parts))
    decided = {
        name: {"accuracy": rounded(used.correct[row]), "cross_entropy": rounded(used.cross_entropy[row])}
        for row, name in enumerate(REPLACEMENTS)
    }
    with torch.inference_mode():
        maps = torch.cat([model.inspect(to_float(images.images[rows])).attention.mean for rows in parts])
    average = maps.mean(0).expand_as(maps)
    masks = regions(images)
    places = {} if masks is None else {"own": pointed(maps, masks), "average map": pointed(average, masks)}
    return {
        "n": count,
        "decided": decided,
        "attention_mean": rounded(maps),
        "attention_deviation": rounded(maps.flatten(1).std(1, correction=0)),
    } | places


def pointed(maps: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    some = masks.flatten(1).any(1) & ~masks.flatten(1).all(1)
    maps, masks = maps[some].clone(), masks[some]
    return {
        "n": len(maps),
        "auroc": rounded(auroc(maps, masks)),
        "pointing_game": rounded(pointing_game(maps, masks).hit),
    }


def rounded(values: torch.Tensor) -> float:
    return round(values.double().mean().item(), 4)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    out = Path(sys.argv[2])
    main(Path(sys.argv[1]), out / "runs", out, int(sys.argv[3]) if len(sys.argv) == 4 else 1000)
