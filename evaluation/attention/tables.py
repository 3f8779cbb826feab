"""Tables and the figure of the frontier, from what `run.py` judged.

usage: python evaluation/attention/tables.py OUT      OUT: the folder of `run.py`; gets tables.md and frontier.png
"""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ibviz.benchmark.results import read_results
from ibviz.models.reliance import REPLACEMENTS
from ibviz.statistics import estimates

PRICE = 1.5  # of the recipe
OWN = "Attention, mean"
AGAINST = ("centre", "average map", "Grad-CAM, gated layer", "Grad-CAM, last layer")
LABELS = {"auroc": "AUROC", "pointing_game": "pointing game", "energy_normalised": "energy, normalised", "srg": "SRG",
          "insertion": "insertion", "deletion": "deletion"}  # fmt: skip
Frame = Any  # of pandas


def main(out: Path) -> None:
    pointing = read_results(out / "pointing")
    used = {model: facts["reliance"] for model, facts in pointing.circumstances["models"].items()}
    text = ["# Prices of open attention\n", by_price(used, pointing.rows), "\n## Differences\n", stated(pointing)]
    text += [differences(pointing.rows, ("auroc", "pointing_game", "energy_normalised"))]
    if (out / "curves").exists():
        curves = read_results(out / "curves")
        text += ["\n", stated(curves), differences(curves.rows, ("srg", "insertion", "deletion"), rest=True)]
    (out / "tables.md").write_text("\n".join(text) + "\n")
    draw(used, pointing.rows).savefig(out / "frontier.png", dpi=200)


def price_of(model: str) -> float:
    """Return the price in the name of a training's folder."""
    return float(re.findall(r"attention_price=([\d.]+)", model)[0])


def stated(results: Any) -> str:
    """Say on what a table rests."""
    facts = results.circumstances
    return (f"{facts['images']} images, trainings at price {PRICE}: means with 95 % intervals over images and "
            f"trainings; {facts['device']}, torch {facts['versions']['torch']}.\n")  # fmt: skip


def by_price(used: dict[str, Any], rows: Frame) -> str:
    """One line for each price: mean over trainings, with the lowest and the highest."""
    head = ["price", *(f"accuracy, {text}" for text in REPLACEMENTS.values()), "cross-entropy own / at mean / other"]
    head += [f"{LABELS[metric]}, {OWN.lower()}" for metric in ("auroc", "pointing_game")]
    lines = [row(head), row(["---"] * len(head))]
    for price in sorted({price_of(model) for model in used}):
        models = [model for model in used if price_of(model) == price]
        accuracy = [spread([used[model][kind]["accuracy"]["mean"] for model in models]) for kind in REPLACEMENTS]
        nats = [np.mean([used[model][kind]["cross_entropy"]["mean"] for model in models])
                for kind in ("own", "mean", "other")]  # fmt: skip
        points = [spread([mean_of(rows, model, OWN, metric) for model in models])
                  for metric in ("auroc", "pointing_game")]  # fmt: skip
        lines.append(row([f"{price:g} (n = {len(models)})", *accuracy, " / ".join(f"{x:.2f}" for x in nats), *points]))
    return "\n".join(lines)


def mean_of(rows: Frame, model: str, method: str, metric: str) -> float:
    """Return the mean over images of a method's values."""
    chosen = rows[(rows["model"] == model) & (rows["method"] == method) & (rows["metric"] == metric)]
    return float(chosen["value"].mean())


def differences(rows: Frame, metrics: tuple[str, ...], *, rest: bool = False) -> str:
    """Means of every map at the recipe's price, and paired differences of the attention's mean map and others."""
    rows = rows[[price_of(model) == PRICE for model in rows["model"].astype(str)]]
    methods = list(dict.fromkeys(rows["method"].astype(str)))
    others = [name for name in methods if name not in (OWN, "Attention")] if rest else AGAINST
    lines = [row(["map", *(LABELS[metric] for metric in metrics)]), row(["---"] * (1 + len(metrics)))]
    lines += [row([name, *(interval(columns(rows, name, metric)) for metric in metrics)]) for name in methods]
    for name in others:
        paired = [columns(rows, OWN, metric) - columns(rows, name, metric) for metric in metrics]
        lines.append(row([f"{OWN} - {name}", *map(interval, paired)]))
    return "\n".join(lines)


def columns(rows: Frame, method: str, metric: str) -> np.ndarray:
    """Return the values of a method, images by trainings."""
    chosen = rows[(rows["method"] == method) & (rows["metric"] == metric)]
    wide = chosen.astype({"model": str}).pivot(index="image", columns="model", values="value")
    return wide.sort_index().to_numpy(float)


def interval(values: np.ndarray) -> str:
    """Return a mean with its interval over images and trainings."""
    values = values[~np.isnan(values).any(1)]
    found = estimates(values[:, :, None])
    mean, low, high = (float(part[0]) for part in found[:3])
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def spread(values: list[float]) -> str:
    """Return a mean with the lowest and the highest."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(used: dict[str, Any], rows: Frame) -> Figure:
    """Accuracy with each map in the attention's place, and how well maps point, over the price."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    prices = sorted({price_of(model) for model in used})
    for kind in ("own", "average", "other", "mean"):
        scattered(
            left, prices, REPLACEMENTS[kind], lambda model, kind=kind: used[model][kind]["accuracy"]["mean"], used
        )
    for name in (OWN, *AGAINST[:3]):
        scattered(right, prices, name, {model: mean_of(rows, model, name, "auroc") for model in used})
    left.set(xlabel="price of open attention (nats)", ylabel="accuracy")
    right.set(xlabel="price of open attention (nats)", ylabel="AUROC of pixels in the box")
    for axes in (left, right):
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def scattered(axes: Any, prices: list[float], label: str, told: dict[str, float]) -> None:
    """A line of means over trainings, with a point for each training."""
    values = [[value for model, value in told.items() if price_of(model) == price] for price in prices]
    [line] = axes.plot(prices, [np.mean(some) for some in values], label=label)
    for price, some in zip(prices, values, strict=True):
        axes.plot([price] * len(some), some, ".", color=line.get_color(), markersize=4)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
