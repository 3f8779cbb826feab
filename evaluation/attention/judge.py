"""Judge trainings of one recipe on the test images of a half: use of the attention, localisation, and SRG.

usage: python evaluation/attention/judge.py DATA OUT RUN [RUN ...]

DATA is a half of `halves.py`; each RUN a folder of `ibviz train`, all of one recipe but for its seed. OUT gets
NAME.json, where NAME is that of the folder that holds the runs and the first run's own. Localisation is told by 1,000
images with a box, chosen by seed 0; SRG by the first 32 of them. Intervals hold over images and trainings.
"""

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ibviz
from ibviz.config import DataConfig
from ibviz.data import to_float
from ibviz.data.image_set import ImageSet, select
from ibviz.data.regions import rasterise
from ibviz.data.sources import load_images
from ibviz.metrics import auroc, energy_pointing_game, pointing_game
from ibviz.models.classifier import IBClassifier
from ibviz.models.reliance import REPLACEMENTS, reliance
from ibviz.progress import progress
from ibviz.statistics import estimates
from ibviz.types import Maps

IMAGES, CURVED, BATCH = 1000, 32, 100
METHODS = ("attention", "attention_mean", "average map", "centre", "Grad-CAM, gated layer", "Grad-CAM, last layer")
CONTROLS = ("average map", "centre")  # `ibviz.evaluate` has them anyway
AGAINST = METHODS[2:]
Values = dict[str, np.ndarray]  # one number per image


def main(data: Path, out: Path, runs: list[Path]) -> None:
    begun, images, judged = time.monotonic(), None, []
    for run in runs:
        model = ibviz.load(run)
        images = images or boxed(data, model)
        judged.append(judge(model, images))
        print(f"{run}: {time.monotonic() - begun:.0f} s", flush=True)
        write(out, runs, images, judged, round(time.monotonic() - begun))


def write(
    out: Path, runs: list[Path], images: ImageSet, judged: list[dict[str, dict[str, Values]]], seconds: int
) -> None:
    """Write what is known after each run: a study that is cut off has numbers of fewer trainings."""
    page = {
        "command": "python evaluation/attention/judge.py DATA OUT RUN ...",
        "runs": [run.name for run in runs[: len(judged)]],
        "images": len(images.labels),
        "images of SRG": CURVED,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy")},
        "seconds": seconds,
        "use": {name: summary([one["use"][name] for one in judged]) for name in judged[0]["use"]},
        "maps": {name: summary([one["maps"][name] for one in judged]) for name in judged[0]["maps"]},
    }
    page |= {"differences": differences([one["maps"] for one in judged])}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{runs[0].parent.name} {runs[0].name.partition(',seed')[0]}.json").write_text(json.dumps(page, indent=1))


def boxed(data: Path, model: IBClassifier) -> ImageSet:
    config = DataConfig(source="parquet", image_size=model.spec.size)
    images = load_images(config, "test", data, count=IMAGES, seed=0)
    regions = rasterise(images.boxes, (model.spec.size, model.spec.size)).flatten(1)
    return select(images, (regions.any(1) & ~regions.all(1)).nonzero().flatten())


def judge(model: IBClassifier, images: ImageSet) -> dict[str, dict[str, Values]]:
    parts = list(torch.arange(len(images.labels)).split(BATCH))
    used = reliance(model, lambda: ((to_float(images.images[rows]), images.labels[rows]) for rows in parts))
    use = {
        name: {"accuracy": used.correct[row].numpy(), "cross-entropy": used.cross_entropy[row].numpy()}
        for row, name in enumerate(REPLACEMENTS)
    }
    maps = all_maps(model, images, parts, used.average)
    size = (model.spec.size, model.spec.size)
    regions = rasterise(images.boxes, size)
    found = {name: localisation(one, regions) for name, one in maps.items()}
    few = slice(0, CURVED)
    own = {name: one[few] for name, one in maps.items() if name not in CONTROLS}
    result = ibviz.evaluate(model, to_float(images.images[few]), own)
    frame = result.frame()
    for name in maps:
        rows = frame[(frame["method"] == name) & (frame["metric"] == "srg") & frame["native"].eq(False)].sort_values(
            "image"
        )
        srg = np.full(len(images.labels), np.nan)
        srg[few] = rows["value"].to_numpy()
        found[name]["SRG"] = srg
    return {"use": use, "maps": found}


def all_maps(
    model: IBClassifier, images: ImageSet, parts: list[torch.Tensor], average: torch.Tensor
) -> dict[str, Maps]:
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in METHODS}
    for rows in progress(parts, "maps"):
        pictures = to_float(images.images[rows])
        with torch.inference_mode():
            attention = model.inspect(pictures).attention
        seen["attention"].append(attention.values())
        seen["attention_mean"].append(attention.mean)
        seen["average map"].append(average.expand(len(rows), -1, -1))
        seen["Grad-CAM, gated layer"].append(ibviz.explain(model, pictures, "grad_cam", layer=model.layer))
        seen["Grad-CAM, last layer"].append(ibviz.explain(model, pictures, "grad_cam"))
    side = average.shape[-1]
    away = torch.arange(side) - (side - 1) / 2
    seen["centre"] = [(2 * away.max() ** 2 - away[:, None] ** 2 - away**2).expand(len(images.labels), -1, -1)]
    return {name: torch.cat(some).clone() for name, some in seen.items()}


def localisation(maps: Maps, regions: torch.Tensor) -> Values:
    """Scores of maps, in batches that fit into memory."""
    scores: dict[str, list[torch.Tensor]] = {"AUROC": [], "pointing game": [], "energy, normalised": []}
    for some, there in zip(maps.split(BATCH), regions.split(BATCH), strict=True):
        scores["AUROC"].append(auroc(some, there))
        scores["pointing game"].append(pointing_game(some, there).hit)
        scores["energy, normalised"].append(energy_pointing_game(some, there).normalised)
    return {name: torch.cat(some).numpy() for name, some in scores.items()}


def summary(trainings: list[Values]) -> dict[str, dict[str, Any]]:
    """Mean over trainings and images with its interval, and the mean of each training."""
    return {name: estimate([one[name] for one in trainings]) for name in trainings[0]}


def differences(trainings: list[dict[str, Values]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Paired differences of the attention's mean map and what it is compared with."""
    return {
        f"attention_mean - {other}": {
            name: estimate([one["attention_mean"][name] - one[other][name] for one in trainings])
            for name in trainings[0][other]
        }
        for other in AGAINST
    }


def estimate(columns: list[np.ndarray]) -> dict[str, Any]:
    values = np.stack(columns, axis=1).astype(float)
    values = values[~np.isnan(values).any(1)]
    found = estimates(values[:, :, None]) if len(columns) > 1 else estimates(values)
    mean, low, high = (round(float(one[0]), 4) for one in found[:3])
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "n": len(values),
        "trainings": [round(x, 4) for x in values.mean(0)],
    }


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(run) for run in sys.argv[3:]])
