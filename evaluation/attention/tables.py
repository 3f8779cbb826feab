"""Tables and the figure of the frontier, from what `run.py` and `prices.py` measured.

usage: python evaluation/attention/tables.py FOLDER

FOLDER is that of a study of `run.py`, or its results in evaluation/results/attention; it gets tables.md and
frontier.png.
"""

import json
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ibviz.models.reliance import REPLACEMENTS
from ibviz.settings import read_toml
from ibviz.statistics import estimates
from ibviz.training.recipe import Recipe

RECIPE = Path(__file__).parent / "mobilenet.toml"
PRICE = read_toml(RECIPE, Recipe).objective.attention_price  # its trainings are judged beside other maps
OWN = ("Attention, mean", "Attention, mean of both sides")  # compared with all others
RIVALS = ("centre", "average map", "Grad-CAM, last layer")  # compared with for each size of the object
SIZES = {  # by the share of the image that the box takes; below a quarter is "difficult" for Zhang et al. (2018)
    "below a quarter": (0.0, 0.25),
    "a quarter to a half": (0.25, 0.5),
    "above a half": (0.5, 1.0),
}
METRICS = {
    "pointing": (
        "auroc",
        "evaluation/attention/extras.py:AUROC",
        "pointing_game",
        "evaluation/attention/extras.py:POINTING",
        "energy_normalised",
    ),
    "small": ("auroc", "pointing_game"),
    "curves": ("srg", "insertion", "deletion"),
}
LABELS = {
    "auroc": "AUROC",
    "evaluation/attention/extras.py:AUROC": "AUROC, bilinear",
    "evaluation/attention/extras.py:POINTING": "pointing game, bilinear",
    "pointing_game": "pointing game",
    "energy_normalised": "energy, normalised",
    "srg": "SRG",
    "insertion": "insertion",
    "deletion": "deletion",
}
Frame = Any  # of pandas


def main(out: Path) -> None:
    prices = json.loads((out / "prices.json").read_text())
    text = ["# Prices of open attention\n", by_price(prices)]
    for folder, metrics in METRICS.items():
        if not (out / folder).exists():
            continue
        rows = pd.read_parquet(out / folder / "rows.parquet")
        facts = json.loads((out / folder / "circumstances.json").read_text())
        judged = set(rows["metric"].astype(str))
        measured = tuple(metric for metric in metrics if metric in judged)
        text += [f"\n## {folder.capitalize()}\n", stated(facts), differences(rows, measured)]
        if folder == "pointing":
            text += ["\n### By the size of the box\n", by_size(rows)]
    (out / "tables.md").write_text("\n".join(text) + "\n")
    draw(prices).savefig(out / "frontier.png", dpi=150)


def at_the_price(study: Path) -> list[Path]:
    """Return the trainings of a study at the recipe's price."""
    return sorted(path.parent for path in (study / "models").glob(f"*attention_price={PRICE},*/model.safetensors"))


def price_of(model: str) -> float:
    """Return the price in the name of a training's folder."""
    return float(re.findall(r"attention_price=([\d.]+)", model)[0])


def stated(facts: dict[str, Any]) -> str:
    """Say on what a table rests."""
    return (
        f"{facts['images']} images, trainings at price {PRICE}: means with 95 % intervals over images and "
        f"trainings; {facts['device']}, torch {facts['versions']['torch']}.\n"
    )


def by_price(prices: dict[str, Any]) -> str:
    """One line for each price: mean over trainings, with the lowest and the highest."""
    count = next(iter(prices.values()))["n"]
    head = [
        "price",
        *(f"accuracy, {text}" for text in REPLACEMENTS.values()),
        "cross-entropy (nats) own / mean / other",
    ]
    head += ["mean attention", "AUROC", "AUROC, average map", "pointing game"]
    lines = [f"{count} test images of each training; mean (lowest to highest) over trainings.\n"]
    lines += [row(head), row(["---"] * len(head))]
    for price, trainings in grouped(prices).items():
        accuracy = [spread([training["decided"][kind]["accuracy"] for training in trainings]) for kind in REPLACEMENTS]
        nats = [
            np.mean([training["decided"][kind]["cross_entropy"] for training in trainings])
            for kind in ("own", "mean", "other")
        ]
        rest = [
            [training["attention_mean"] for training in trainings],
            [training["own"]["auroc"] for training in trainings],
        ]
        rest += [
            [training["average map"]["auroc"] for training in trainings],
            [training["own"]["pointing_game"] for training in trainings],
        ]
        cells = [
            f"{price:g} (n = {len(trainings)})",
            *accuracy,
            " / ".join(f"{x:.2f}" for x in nats),
            *map(spread, rest),
        ]
        lines.append(row(cells))
    return "\n".join(lines)


def grouped(prices: dict[str, Any]) -> dict[float, list[Any]]:
    """Return the trainings of each price, cheapest first."""
    by_price: dict[float, list[Any]] = {}
    for name in sorted(prices, key=price_of):
        by_price.setdefault(price_of(name), []).append(prices[name])
    return by_price


def differences(rows: Frame, metrics: tuple[str, ...]) -> str:
    """Means of every map at the recipe's price, and paired differences of the attention's mean maps and others."""
    methods = list(dict.fromkeys(rows["method"].astype(str)))
    others = [name for name in methods if name not in (*OWN, "Attention")]
    lines = [row(["map", *(LABELS[metric] for metric in metrics)]), row(["---"] * (1 + len(metrics)))]
    lines += [row([name, *(interval(columns(rows, name, metric)) for metric in metrics)]) for name in methods]
    for own, name in product([name for name in OWN if name in methods], others):
        paired = [columns(rows, own, metric) - columns(rows, name, metric) for metric in metrics]
        lines.append(row([f"{own} - {name}", *map(interval, paired)]))
    return "\n".join(lines)


def by_size(rows: Frame) -> str:
    """Means and paired differences of the attention's maps where boxes are small, and where they fill the image."""
    metrics = ("auroc", "pointing_game")
    head = ["box, share of the image", "images", "map"]
    for metric in metrics:
        head += [LABELS[metric], *(f"less {name}" for name in RIVALS)]
    lines = [row(head), row(["---"] * len(head))]
    for size, (low, high) in SIZES.items():
        chosen = rows[(rows["object_share"] >= low) & (rows["object_share"] < high)]
        for own in (name for name in OWN if (rows["method"] == name).any()):
            cells: list[str] = []
            for metric in metrics:
                values = columns(chosen, own, metric)
                paired = (values - columns(chosen, name, metric) for name in RIVALS)
                cells += [interval(values), *map(interval, paired)]
            lines.append(row([size, str(chosen["image"].nunique()), own, *cells]))
    return "\n".join(lines)


def columns(rows: Frame, method: str, metric: str) -> np.ndarray:
    """Return the values of a method, images by trainings."""
    chosen = rows[(rows["method"] == method) & (rows["metric"] == metric)]
    wide = chosen.astype({"model": str}).pivot(index="image", columns="model", values="value")
    return wide.sort_index().to_numpy(float)


def interval(values: np.ndarray) -> str:
    """Return a mean with its interval over images and trainings."""
    values = values[~np.isnan(values).any(1)]
    estimated = estimates(values[:, :, None])
    mean, low, high = (float(part[0]) for part in estimated[:3])
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def spread(values: list[float]) -> str:
    """Return a mean with the lowest and the highest."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(prices: dict[str, Any]) -> Figure:
    """Accuracy with each map in the attention's place, and AUROC, over the price; a point for each training."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    trainings = grouped(prices)
    for kind in ("own", "average", "other", "mean"):
        line(
            left,
            REPLACEMENTS[kind],
            {price: [training["decided"][kind]["accuracy"] for training in some] for price, some in trainings.items()},
        )
    for name, label in (("own", "attention"), ("average map", "average map")):
        line(right, label, {price: [training[name]["auroc"] for training in some] for price, some in trainings.items()})
    left.set(xlabel="price of open attention (nats)", ylabel="accuracy")
    right.set(xlabel="price of open attention (nats)", ylabel="AUROC of pixels in the box")
    for axes in (left, right):
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def line(axes: Any, label: str, values: dict[float, list[float]]) -> None:
    [drawn] = axes.plot(values.keys(), [np.mean(some) for some in values.values()], label=label)
    for price, some in values.items():
        axes.plot([price] * len(some), some, ".", color=drawn.get_color(), markersize=4)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
