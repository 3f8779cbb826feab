"""How far the rule for ties, the baseline, the enlargement and the steps move the numbers of one and the same map.

usage: python -m evaluation.tie_study DATA [--images 500] [--out docs/tie_study.png]

Grad-CAM of ResNet-20 on CIFAR-10 test images, quantised to 2, 4 and 20 levels and not at all; the figure, beside it
every number as JSON, and the tables of `docs/tie_study.md` on the screen. DATA holds `cifar10/test.parquet`, columns
`image` (PNG bytes) and `label`, and `cifar10_resnets/resnet20.safetensors`: the public weights by Y. Idelbayev, the
tensors of `pretrained_models/resnet20-12fca82f.th` in github.com/akamaster/pytorch_resnet_cifar10 without the prefix
`module.` of their names. Images are drawn by seed among those that the network classifies correctly and with a
probability above one half.
"""

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from evaluation.speed.resnet20 import ResNet20
from evaluation.tie_page import CURVES, FIELDS, draw, tables
from ibviz.attribution.methods import explain, predict
from ibviz.benchmark.throughput import at_best_pace
from ibviz.data import DataConfig, load_images, to_float
from ibviz.metrics import CurveProtocol, Faithfulness, faithfulness, pointing_game, scorer, torchray_pointing_game
from ibviz.metrics.curves import AREAS
from ibviz.metrics.grid import enlarged, min_max_scaled, on_grid
from ibviz.models.loading import WrappedClassifier, wrap
from ibviz.progress import progress
from ibviz.statistics import estimate
from ibviz.types import Images, Labels, Maps

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LEVELS: dict[str, int | None] = {"2": 2, "4": 4, "20": 20, "continuous": None}
BASELINES = ("mean_colour", "black", "blur_rise", "image_mean")
STEPS, ORDERS, SEED = 16, 4, 0
SIZE = (32, 32)


def load_network(data: Path) -> WrappedClassifier:
    network = ResNet20()
    weights = load_file(data / "cifar10_resnets" / "resnet20.safetensors")
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or not all(name.endswith("num_batches_tracked") for name in missing):
        raise SystemExit(f"the weights are not those of ResNet-20: {missing}, {unexpected}")
    return wrap(network, mean=MEAN, std=STD, class_names=CLASSES, size=32)


def cifar10_test(data: Path) -> tuple[Images, Tensor]:
    test = load_images(DataConfig(source="parquet"), "test", data / "cifar10")
    return to_float(test.images), test.labels


def chosen(network: WrappedClassifier, images: Images, labels: Tensor, count: int) -> Tensor:
    """Indices of `count` images, by seed among the sure and right ones."""
    confidence, predicted = predict(network, images).max(1)
    sure = ((confidence > 0.5) & (predicted == labels)).nonzero().flatten()
    return sure[torch.randperm(len(sure), generator=torch.Generator().manual_seed(SEED))[:count]].sort().values


def quantised(maps: Maps, levels: int | None) -> Maps:
    """Uniform levels between each map's minimum and maximum."""
    return maps if levels is None else (min_max_scaled(maps) * levels).floor().clamp(max=levels - 1)


# Orders of pixels as other programs have them, on flat maps of one value a pixel.

Orders = Callable[[np.ndarray], np.ndarray]
PEERS: dict[str, Orders] = {
    "pixels: argsort, flipped (RISE, Xplique)": lambda flat: np.argsort(flat, axis=1)[:, ::-1],
    "pixels: argsort of -a (Quantus)": lambda flat: np.argsort(-flat, axis=1),
    "pixels: topk (InputIBA, LATEC, Chefer)": lambda flat: torch.from_numpy(flat).topk(flat.shape[1], dim=1)[1].numpy(),
}


def in_order(maps: Maps, orders: Orders) -> Maps:
    """A map without ties that is removed in exactly the order in which a program goes through another map."""
    order = torch.from_numpy(orders(enlarged(maps, SIZE, "nearest").flatten(1).numpy()).copy())
    places = torch.arange(order.shape[1], dtype=torch.float32).expand(len(order), -1)
    return -torch.empty_like(places).scatter_(1, order, places).unflatten(1, SIZE)


class Rule(NamedTuple):
    choices: dict[str, Any]  # of the protocol
    orders: Orders | None = None


RULES: dict[str, Rule] = {
    "pixels: row by row (TorchCAM, PnPXAI)": Rule({"unit": "pixel", "ties": "index"}),
    **{name: Rule({"unit": "pixel", "ties": "index"}, orders) for name, orders in PEERS.items()},
    "pixels: row by row, backwards": Rule({"unit": "pixel", "ties": "reverse"}),
    "pixels: random": Rule({"unit": "pixel", "ties": "expected", "orders": ORDERS}),
    "levels at once": Rule({"ties": "group"}),
    "cells: row by row": Rule({"ties": "index"}),
    "cells: row by row, backwards": Rule({"ties": "reverse"}),
    "cells: random": Rule({"ties": "expected", "orders": ORDERS}),
}


class Judge(NamedTuple):
    network: WrappedClassifier
    images: Images
    targets: Labels

    def __call__(self, maps: Maps, **choices: Any) -> tuple[dict[str, Any], Faithfulness]:
        card = CurveProtocol.model_validate({"colour": MEAN, "steps": STEPS, "seed": SEED} | choices)
        with at_best_pace(self.network, self.images, card) as (images, paced):
            judged = faithfulness(scorer(self.network, self.targets, kind=card.score), images, maps, protocol=paced)
        return {"protocol": card.hash, "passes": judged.forward_passes}, judged


def study_rules(judge: Judge, maps: Maps) -> list[dict[str, Any]]:
    """Deletion to the mean colour and insertion from RISE's blur, under every rule."""
    jobs = [(levels, name) for levels in LEVELS for name in RULES if (levels, name) != ("continuous", "levels at once")]
    rows, first = [], {}
    for levels, name in progress(jobs, "tie rules"):
        given, rule = quantised(maps, LEVELS[levels]), RULES[name]
        shown = given if rule.orders is None else in_order(given, rule.orders)
        facts, judged = judge(shown, insertion_baseline="blur_rise", **rule.choices)
        against = first.setdefault(levels, judged)  # the rule of TorchCAM
        rows.append(
            {"levels": levels, "rule": name}
            | facts
            | {curve: _beside(judged, against, f"{curve}_auc", f"{curve}_tie_sd") for curve in CURVES}
        )
    return rows


def _beside(judged: Faithfulness, against: Faithfulness, area: str, deviation: str) -> dict[str, Any]:
    found = getattr(judged, area)
    moved = found - getattr(against, area)
    return {
        "area": summary(found),
        "minus row by row": summary(moved),
        "mean |difference|": float(moved.abs().mean()),
        "largest |difference|": float(moved.abs().max()),
        "mean tie sd": float(getattr(judged, deviation).mean()),
    }


def study_conventions(judge: Judge, maps: Maps) -> list[dict[str, Any]]:
    """Baselines, enlargement, random orders and the logit, of the continuous map; one baseline for both curves."""
    generator = torch.Generator().manual_seed(SEED)
    shown: dict[str, tuple[Maps, dict[str, str]]] = {
        "Grad-CAM": (maps, {}),
        "Grad-CAM, bilinear": (maps, {"enlargement": "bilinear"}),
        "random 8 x 8 cells": (torch.rand(maps.shape, generator=generator), {}),
        "random pixels": (torch.rand(len(maps), *SIZE, generator=generator), {}),
        "Grad-CAM, by the logit": (maps, {"score": "logit"}),
    }
    rows = []
    for baseline, name in progress([(baseline, name) for baseline in BASELINES for name in shown], "conventions"):
        given, choices = shown[name]
        facts, judged = judge(given, baseline=baseline, unit="pixel", ties="index", **choices)
        areas = {area: summary(getattr(judged, area)) for area in FIELDS}
        rows.append({"baseline": baseline, "map": name, "f_baseline": float(judged.f_baseline.mean())} | facts | areas)
    return rows


def study_areas(judge: Judge, maps: Maps) -> list[dict[str, Any]]:
    """How many steps a curve of the continuous map has, and how it becomes a number; whole cells, mean colour."""
    rows = []
    for steps in progress((5, 10, 20, 64), "steps"):
        facts, judged = judge(maps, steps=steps, ties="index")
        for rule, area in AREAS.items() if steps == 64 else [("fractions", AREAS["fractions"])]:
            pair = {curve: summary(area(getattr(judged, curve))) for curve in CURVES}
            rows.append({"steps": steps, "area": rule} | facts | pair)
    return rows


def study_pointing(maps: Maps) -> list[dict[str, Any]]:
    """Hits of the central quarter of the image, by every rule that picks a point: geometry only."""
    region = torch.zeros(len(maps), *SIZE, dtype=torch.bool)
    region[:, 8:24, 8:24] = True
    rows = []
    for name, levels in LEVELS.items():
        given = quantised(maps, levels)
        plain = pointing_game(given, region, tolerance=0.0)
        flat, inside = on_grid(given, SIZE).flatten(1), region.flatten(1)
        last = flat.shape[1] - 1 - flat.flip(1).argmax(1, keepdim=True)
        rules = {
            "first maximum": inside.gather(1, flat.argmax(1, keepdim=True)).squeeze(1).float(),
            "last maximum": inside.gather(1, last).squeeze(1).float(),
            "any maximum (Quantus)": plain.best,
            "all maxima": plain.worst,
            "expected": plain.hit,
            "expected, bilinear": pointing_game(given, region, tolerance=0.0, enlargement="bilinear").hit,
            "first maximum, bilinear, 15 px (TorchRay)": torchray_pointing_game(given, region).hit,
        }
        rows += [{"levels": name, "rule": rule, "hit": summary(hits)} for rule, hits in rules.items()]
    return rows


def summary(values: Tensor) -> dict[str, float]:
    found = estimate(values.tolist())
    return {"mean": found.mean, "low": found.low, "high": found.high}


def main(data: Path, count: int, out: Path) -> None:
    begun = time.perf_counter()
    network = load_network(data)
    images, labels = cifar10_test(data)
    index = chosen(network, images, labels, count)
    images, targets = images[index], labels[index]
    maps = explain(network, images, "grad_cam", targets=targets, layer="network.layer3")
    assert isinstance(maps, Tensor)
    judge = Judge(network, images, targets)
    record: dict[str, Any] = {
        "command": f"python -m evaluation.tie_study DATA --images {count}",
        "versions": {name: version(name) for name in ("ibviz", "torch", "numpy")},
        "device": f"CPU, {torch.get_num_threads()} threads",
        "images": len(index),
        "seed": SEED,
        "zero share": float((maps == 0).float().mean()),
        "indices": index.tolist(),
        "rules": study_rules(judge, maps),
        "conventions": study_conventions(judge, maps),
        "areas": study_areas(judge, maps),
        "pointing": study_pointing(maps),
    }
    runs = [*record["rules"], *record["conventions"], *(row for row in record["areas"] if row["area"] == "fractions")]
    record["forward passes"] = sum(row["passes"] for row in runs)
    record["seconds"] = round(time.perf_counter() - begun, 1)
    draw(record).save(out, dpi=200)
    print("\n\n".join(tables(record)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("docs/tie_study.png"))
    given = parser.parse_args()
    main(given.data, given.images, given.out)
