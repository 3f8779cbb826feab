"""Would pairs of draws help VarGrad, infidelity, sensitivity-n and max-sensitivity? Measured, not built.

usage: python -m evaluation.paired_metrics DATA [--out evaluation/results/passes]

By the bundled networks, 8 embedded digits and the first 8 photographs of DATA (`photos/annotations.json` with
`photos/images`) with an object of an ImageNet class. For each image a pool of pairs is computed once: draws and their
complements. Estimates of the usual number of draws are then taken from it many times, from single draws or from whole
pairs. The gain is the mean squared error of the former over that of the latter, towards the value of the whole pool;
both draw without replacement from the same pool, so that its size cancels. Writes `metrics.json` and `metrics.md`.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.passes import photographs
from ibviz.attribution.gradients import gradient
from ibviz.attribution.methods import explain, predict, values
from ibviz.attribution.stability import NOISE
from ibviz.benchmark.evaluation import versions
from ibviz.data.image_set import to_float
from ibviz.data.synthetic import digits
from ibviz.files import replacing
from ibviz.metrics.grid import on_grid, paint
from ibviz.metrics.score import scorer
from ibviz.models.hooks import evaluating
from ibviz.models.loading import Classifier, load
from ibviz.progress import progress
from ibviz.table_formats import TextTable, markdown_of
from ibviz.types import Images, Labels, Maps

IMAGES, SIDE = 8, 128
PAIRS, RESAMPLES, SEED = 200, 400, 0
AT_ONCE = 50  # changed images in one pass
DEVIATION, RADIUS = 0.15, 0.02  # defaults of VarGrad and max-sensitivity
DRAWS = {"VarGrad": 50, "infidelity": 100, "sensitivity-n": 100, "max-sensitivity": 10}  # defaults
Pool = Float[Tensor, "2 pairs ..."]  # numbers of draws, and of their complements
Estimator = Callable[[Tensor], Tensor]  # of draws along the first axis
Row = dict[str, Any]


def variance(gradients: Float[Tensor, "n colours h w"]) -> Float[Tensor, "h w"]:
    """VarGrad."""
    return gradients.var(0, correction=0).sum(0)


def infidelity(numbers: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
    """Infidelity from what the map predicts and how the logit changes, the map's scale fitted."""
    predicted, change = numbers.unbind(1)
    scale = (predicted * change).mean() / predicted.square().mean()
    return (scale * predicted - change).square().mean()


def correlation(numbers: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
    """Sensitivity-n from sums of the map and drops of the score."""
    x, y = (numbers - numbers.mean(0)).unbind(1)
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def estimates(pool: Pool, estimator: Estimator, draws: int) -> dict[str, Float[Tensor, "resamples ..."]]:
    """Return estimates from single draws and from whole pairs, and that of the whole pool.

    >>> pool = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    >>> estimates(pool, lambda draws: draws.mean(0), 2)["paired"].unique()
    tensor([0.])
    """
    generator, pairs = torch.Generator().manual_seed(SEED), pool.shape[1]
    flat = pool.flatten(0, 1)
    chosen = [torch.randperm(2 * pairs, generator=generator)[:draws] for _ in range(RESAMPLES)]
    halves = [torch.randperm(pairs, generator=generator)[: draws // 2] for _ in range(RESAMPLES)]
    return {
        "plain": torch.stack([estimator(flat[places]) for places in chosen]),
        "paired": torch.stack([estimator(flat[torch.cat([places, places + pairs])]) for places in halves]),
        "whole": estimator(flat),
    }


def gain(pool: Pool, estimator: Estimator, draws: int) -> float:
    """Return the mean squared error of single draws over that of pairs."""
    found = estimates(pool, estimator, draws)
    plain, paired = ((found[kind] - found["whole"]).square().mean() for kind in ("plain", "paired"))
    return float(plain / paired)


def gradient_pools(model: Classifier, images: Images, targets: Labels, draws: torch.Generator) -> Iterator[Pool]:
    """Gradients under noise and under its negative."""
    for place in range(len(images)):
        image, target = images[[place]], targets[[place]]
        noise = DEVIATION * torch.randn(PAIRS, *image.shape[1:], generator=draws)
        both = [
            torch.cat([gradient(model, image + part, target.expand(len(part))) for part in shift.split(AT_ONCE)])
            for shift in (noise, -noise)
        ]
        yield torch.stack(both)


def infidelity_pools(
    model: Classifier, images: Images, targets: Labels, maps: Maps, draws: torch.Generator
) -> Iterator[Pool]:
    """What a map predicts of the change of the logit by noise of its cells, and the change, for both signs."""
    size = (images.shape[2], images.shape[3])
    score, spread = scorer(model, targets, kind="logit"), on_grid(maps, size)
    noise = NOISE * on_grid(torch.randn(PAIRS, maps.shape[1], maps.shape[2], generator=draws), size)
    for place, image in enumerate(images):
        predicted = (spread[place] * noise).sum((1, 2))
        row = torch.tensor([place])
        whole = score(image[None], row)
        changes = [
            whole - torch.cat([score(image - part[:, None], row.expand(len(part))) for part in shift.split(AT_ONCE)])
            for shift in (noise, -noise)
        ]
        yield torch.stack([torch.stack([predicted, changes[0]], 1), torch.stack([-predicted, changes[1]], 1)])


def subset_pools(
    model: Classifier, images: Images, targets: Labels, maps: Maps, draws: torch.Generator, n: int
) -> Iterator[Pool]:
    """Sums of a map over n cells and drops of the logit without them, for disjoint pairs of subsets."""
    size, cells = (images.shape[2], images.shape[3]), maps[0].numel()
    score = scorer(model, targets, kind="logit")
    orders = torch.stack([torch.randperm(cells, generator=draws) for _ in range(PAIRS)])
    for place, image in enumerate(images):
        row, both = torch.tensor([place]), []
        whole = score(image[None], row)
        for subsets in (orders[:, :n], orders[:, n : 2 * n]):
            removed = torch.zeros(PAIRS, cells, dtype=torch.bool).scatter_(1, subsets, True)
            hidden = paint(removed.unflatten(1, tuple(maps.shape[1:])), size).unsqueeze(1)
            states = torch.where(hidden, torch.full_like(image, 0.5), image)
            scores = torch.cat([score(part, row.expand(len(part))) for part in states.split(AT_ONCE)])
            both.append(torch.stack([maps[place].flatten()[subsets].sum(1), whole - scores], 1))
        yield torch.stack(both)


def stability_pools(model: Classifier, images: Images, targets: Labels, draws: torch.Generator) -> Iterator[Pool]:
    """Relative changes of Grad-CAM under small perturbations and under their negatives."""
    for place in range(len(images)):
        image = images[[place]]
        noise = RADIUS * (2 * torch.rand(PAIRS, *image.shape[1:], generator=draws) - 1)
        plain = values(explain(model, image, "grad_cam", targets=targets[[place]]))
        both = []
        for shift in (noise, -noise):
            states = (image + shift).clamp(0, 1)
            moved = values(explain(model, states, "grad_cam", targets=targets[[place]].expand(PAIRS)))
            both.append((moved - plain).flatten(1).norm(dim=1) / plain.norm())
        yield torch.stack(both)


def rows_of(name: str, model: Classifier, images: Images) -> Iterator[Row]:
    """Measure every metric on every image."""
    targets, draws = predict(model, images).argmax(1), torch.Generator().manual_seed(SEED)
    with evaluating(model):
        maps = values(explain(model, images, "grad_cam", targets=targets))
        cells = maps[0].numel()
        for pool in gradient_pools(model, images, targets, draws):
            yield {"metric": "VarGrad", "gain": gain(pool, variance, DRAWS["VarGrad"])}
        for pool in infidelity_pools(model, images, targets, maps, draws):
            yield {"metric": "infidelity", "gain": gain(pool, infidelity, DRAWS["infidelity"])}
        for part, n in (("complements of half the cells", cells // 2), ("disjoint quarters", cells // 4)):
            for pool in subset_pools(model, images, targets, maps, draws, n):
                yield {"metric": f"sensitivity-n, {part}", "gain": gain(pool, correlation, DRAWS["sensitivity-n"])}
        for pool in stability_pools(model, images, targets, draws):
            found = estimates(pool, lambda changes: changes.amax(0), DRAWS["max-sensitivity"])
            yield {
                "metric": "max-sensitivity",
                "share of the pool's maximum": {
                    kind: float(found[kind].mean() / found["whole"]) for kind in ("plain", "paired")
                },
            }


def table(rows: list[Row]) -> TextTable:
    """Return the gains by metric and network, as median, least and most over images."""
    cells = []
    for metric, network in dict.fromkeys((row["metric"], row["network"]) for row in rows):
        own = [row for row in rows if (row["metric"], row["network"]) == (metric, network)]
        if metric == "max-sensitivity":
            plain, paired = (
                median(row["share of the pool's maximum"][kind] for row in own) for kind in ("plain", "paired")
            )
            said = f"{plain:.3f} of the pool's maximum from single draws, {paired:.3f} from pairs"
        else:
            gains = sorted(row["gain"] for row in own)
            said = f"{median(gains):.2f} [{gains[0]:.2f}, {gains[-1]:.2f}]"
        cells.append([metric, network, str(len(own)), str(DRAWS[metric.partition(",")[0]]), said])
    return TextTable("", ["metric", "network", "images", "draws", "gain by pairs: median [least, most]"], cells)


def main(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    begun, rows = time.perf_counter(), list[Row]()
    scenes = {
        "digits": (load("digits"), to_float(digits("test", count=IMAGES, seed=SEED).images)),
        "photos": (load("photos"), photographs(data, IMAGES, SIDE)[1]),
    }
    for name, (model, images) in progress(scenes.items(), "networks", total=len(scenes)):
        rows += [{"network": name, **row} for row in rows_of(name, model, images)]
    record = {
        "command": "python -m evaluation.paired_metrics DATA",
        "versions": versions(),
        "device": f"CPU, {torch.get_num_threads()} thread",
        "pairs": PAIRS,
        "resamples": RESAMPLES,
        "seed": SEED,
        "seconds": round(time.perf_counter() - begun, 1),
        "rows": rows,
    }
    with replacing(out / "metrics.json") as beside:
        beside.write_text(json.dumps(record, indent=1) + "\n")
    with replacing(out / "metrics.md") as beside:
        beside.write_text(markdown_of(table(rows)) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("evaluation/results/passes"))
    given = parser.parse_args()
    main(given.data, given.out)
