"""How far the rule that breaks ties, the baseline and the enlargement move the numbers of one and the same map.

usage: python evaluation/tie_study.py DATA [--images 500] [--out docs/tie_study.png]

Grad-CAM of ResNet-20 on CIFAR-10 test images, quantised to 2, 4 and 20 levels and not at all; the figure, and beside it
every number as JSON. DATA holds `cifar10/test.npz` and `cifar10_resnets/resnet20.safetensors` (that network's public
weights by Y. Idelbayev). Images are drawn by seed among those that the network classifies correctly and with a
probability above one half. About ten minutes on two cores for 500 images.
"""

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad

from ibviz.attribution.methods import explain, predict
from ibviz.benchmark.probe import at_best_pace
from ibviz.figures.curves import COLOURS
from ibviz.figures.output import Panel, account
from ibviz.figures.settings import DEFAULT, FAINT, TEMPLATES, settings
from ibviz.metrics import CurveProtocol, Faithfulness, faithfulness, pointing_game, scorer, torchray_pointing_game
from ibviz.metrics.grid import enlarged, on_grid, unit
from ibviz.models.loading import WrappedClassifier, wrap
from ibviz.progress import progress
from ibviz.statistics import estimate
from ibviz.types import Images, Labels, Maps

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LEVELS: dict[str, int | None] = {"2": 2, "4": 4, "20": 20, "continuous": None}
STEPS, ORDERS, SEED = 16, 4, 0
SIZE = (32, 32)


class Block(nn.Module):
    """Two convolutions and a shortcut without weights: every second pixel, new channels of zeros (He 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, images: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu()))
        shortcut = pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return (inner + shortcut).relu()


class ResNet20(nn.Module):
    """The network of He et al. (2015) for CIFAR; its last grid is 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(images)).relu())))
        return self.linear(features.mean((2, 3)))


def load_network(data: Path) -> WrappedClassifier:
    network = ResNet20()
    weights = load_file(data / "cifar10_resnets" / "resnet20.safetensors")
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or not all(name.endswith("num_batches_tracked") for name in missing):
        raise SystemExit(f"the weights are not those of ResNet-20: {missing}, {unexpected}")
    return wrap(network, mean=MEAN, std=STD, class_names=CLASSES, size=32)


def load_images(data: Path) -> tuple[Images, Tensor]:
    with np.load(data / "cifar10" / "test.npz", allow_pickle=False) as packed:
        encoded, offsets, labels = (packed[name] for name in ("webp", "offsets", "labels"))
    sheets = [Image.open(BytesIO(encoded[a:b].tobytes())) for a, b in pairwise(offsets)]
    pixels = np.concatenate([np.asarray(sheet.convert("RGB")).reshape(25, 32, 10, 32, 3) for sheet in sheets])
    pixels = torch.from_numpy(pixels.transpose(0, 2, 4, 1, 3).reshape(-1, 3, *SIZE))
    return pixels.float() / 255, torch.from_numpy(labels.astype(np.int64))


def chosen(network: WrappedClassifier, images: Images, labels: Tensor, count: int) -> Tensor:
    """Indices of `count` images, by seed among the sure and right ones."""
    confidence, predicted = predict(network, images).max(1)
    sure = ((confidence > 0.5) & (predicted == labels)).nonzero().flatten()
    return sure[torch.randperm(len(sure), generator=torch.Generator().manual_seed(SEED))[:count]].sort().values


def quantised(maps: Maps, levels: int | None) -> Maps:
    """Uniform levels between each map's minimum and maximum."""
    return maps if levels is None else (unit(maps) * levels).floor().clamp(max=levels - 1)


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
METRICS = ("deletion_auc", "insertion_auc", "srg")


class Judge(NamedTuple):
    network: WrappedClassifier
    images: Images
    targets: Labels

    def __call__(self, maps: Maps, **choices: Any) -> tuple[CurveProtocol, Faithfulness]:
        card = CurveProtocol(colour=MEAN, steps=STEPS, seed=SEED, **choices)
        with at_best_pace(self.network, self.images, card) as (images, paced):
            return card, faithfulness(scorer(self.network, self.targets), images, maps, protocol=paced)


def study_rules(judge: Judge, maps: Maps) -> list[dict[str, Any]]:
    """Deletion to the mean colour and insertion from RISE's blur, under every rule."""
    jobs = [(levels, name) for levels in LEVELS for name in RULES if (levels, name) != ("continuous", "levels at once")]
    rows, first = [], {}
    for levels, name in progress(jobs, "tie rules"):
        given, rule = quantised(maps, LEVELS[levels]), RULES[name]
        shown = given if rule.orders is None else in_order(given, rule.orders)
        card, judged = judge(shown, insertion_baseline="blur_rise", **rule.choices)
        values = {metric: getattr(judged, metric) for metric in METRICS[:2]}
        against = first.setdefault(levels, values)  # the rule of TorchCAM
        facts = {"levels": levels, "rule": name, "protocol": card.hash, "passes": judged.forward_passes}
        spread = {"deletion_auc": judged.deletion_tie_sd, "insertion_auc": judged.insertion_tie_sd}
        rows += [
            facts | {"metric": metric, "mean": summary(found), "minus row by row": summary(found - against[metric]),
                     "mean |difference|": float((found - against[metric]).abs().mean()),
                     "largest |difference|": float((found - against[metric]).abs().max()),
                     "mean tie sd": float(spread[metric].mean())}
            for metric, found in values.items()
        ]  # fmt: skip
    return rows


def study_conventions(judge: Judge, maps: Maps) -> list[dict[str, Any]]:
    """Baselines, enlargement and random orders, of the continuous map; one baseline for both curves."""
    generator = torch.Generator().manual_seed(SEED)
    shown: dict[str, tuple[Maps, str]] = {
        "Grad-CAM, nearest": (maps, "nearest"),
        "Grad-CAM, bilinear": (maps, "bilinear"),
        "random cells, 8 x 8": (torch.rand(maps.shape, generator=generator), "nearest"),
        "random pixels": (torch.rand(len(maps), *SIZE, generator=generator), "nearest"),
    }
    jobs = [(baseline, name) for baseline in ("mean_colour", "black", "blur_rise", "image_mean") for name in shown]
    rows = []
    for baseline, name in progress(jobs, "conventions"):
        given, enlargement = shown[name]
        card, judged = judge(given, baseline=baseline, unit="pixel", ties="index", enlargement=enlargement)
        facts = {"baseline": baseline, "map": name, "protocol": card.hash, "passes": judged.forward_passes}
        facts["f_baseline"] = float(judged.f_baseline.mean())
        rows.append(facts | {metric: summary(getattr(judged, metric)) for metric in METRICS})
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


def draw(rows: list[dict[str, Any]], record: dict[str, Any]) -> Panel:
    """What each rule does to the areas against row by row, in pairs, for each number of levels."""
    with settings():
        figure = Figure(figsize=(TEMPLATES[DEFAULT].width, 3.2), layout="constrained")
        places = figure.subplots(1, 2)
        for axes, metric, title in zip(places, METRICS[:2], ("deletion", "insertion"), strict=True):
            axes.axhline(0, color=FAINT, linewidth=0.5)
            for number, name in enumerate(list(RULES)[1:]):
                _draw_rule(axes, number, [row for row in rows if (row["metric"], row["rule"]) == (metric, name)])
            axes.set_title(title)
            axes.set_xticks(range(len(LEVELS)), list(LEVELS))
            axes.set_xlabel("levels of the map")
            axes.spines[["top", "right"]].set_visible(False)
        places[0].set_ylabel("area minus that of row by row")
        handles, names = places[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return Panel(figure, account("tie study", {}, record))


def _draw_rule(axes: Any, number: int, rows: list[dict[str, Any]]) -> None:
    whole = not rows[0]["rule"].startswith("pixels")
    found = [row["minus row by row"] for row in rows]
    middle = [one["mean"] for one in found]
    ends = [[one["mean"] - one["low"] for one in found], [one["high"] - one["mean"] for one in found]]
    places = [list(LEVELS).index(row["levels"]) + (number - (len(RULES) - 2) / 2) * 0.08 for row in rows]
    axes.errorbar(places, middle, ends, fmt="s" if whole else "o", markersize=3, elinewidth=0.7, label=rows[0]["rule"],
                  color=COLOURS[number % len(COLOURS)], markerfacecolor="white" if whole else None)  # fmt: skip


def report(record: dict[str, Any]) -> str:
    """Levels, rule, metric, mean, minus row by row; baseline, map, deletion, insertion, SRG, f(baseline); hits."""

    def text(*found: dict[str, float]) -> str:
        return " | ".join(f"{one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]" for one in found)

    lines = [f"{record['images']} images, {record['forward passes']} forward passes, {record['seconds']:.0f} s"]
    for row in record["rules"]:
        numbers = text(row["mean"], row["minus row by row"])
        lines.append(f"{row['levels']} | {row['rule']} | {row['metric']} | {numbers}")
    for row in record["conventions"]:
        numbers = text(*(row[metric] for metric in METRICS))
        lines.append(f"{row['baseline']} | {row['map']} | {numbers} | {row['f_baseline']:.3f}")
    lines += [f"{row['levels']} | {row['rule']} | {text(row['hit'])}" for row in record["pointing"]]
    return "\n".join(lines)


def main(data: Path, count: int, out: Path) -> None:
    begun = time.perf_counter()
    network = load_network(data)
    images, labels = load_images(data)
    index = chosen(network, images, labels, count)
    images, targets = images[index], labels[index]
    maps = explain(network, images, "grad_cam", targets=targets, layer="network.layer3")
    assert isinstance(maps, Tensor)
    judge = Judge(network, images, targets)
    record: dict[str, Any] = {
        "command": f"python evaluation/tie_study.py DATA --images {count}",
        "versions": {name: version(name) for name in ("ibviz", "torch", "numpy")},
        "device": f"CPU, {torch.get_num_threads()} threads",
        "images": len(index),
        "seed": SEED,
        "zero share": float((maps == 0).float().mean()),
        "indices": index.tolist(),
    }
    record["rules"] = study_rules(judge, maps)
    record["conventions"] = study_conventions(judge, maps)
    record["forward passes"] = sum(row["passes"] for row in record["rules"][::2] + record["conventions"])
    record["pointing"] = study_pointing(maps)
    record["seconds"] = round(time.perf_counter() - begun, 1)
    draw(record["rules"], record).save(out, dpi=200)
    print(report(record))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("docs/tie_study.png"))
    given = parser.parse_args()
    main(given.data, given.images, given.out)
