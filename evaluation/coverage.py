"""How often the 95 % intervals of a table hold the true mean: drawn data of known mean.

Independent images by their number and distribution; images in clusters by number and sizes of clusters; several
trainings by their number, by clusters, and by what makes the mean vary. The standard error of a share of 4,000 sets is
0.35 %.

python evaluation/coverage.py evaluation/results/coverage
"""

import json
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ibviz.progress import progress
from ibviz.statistics import RESAMPLES, Estimates, clusters_of, estimates

Row = dict[str, Any]

DISTRIBUTIONS = {
    "normal": lambda generator, shape: generator.normal(1, 1, shape),
    "exponential": lambda generator, shape: generator.exponential(1, shape),
    "log-normal": lambda generator, shape: generator.lognormal(-0.5, 1, shape),
}
IMAGES = (20, 50, 100, 200, 500)
SEEDS, SETS = 20, 200  # each seed has resamples of its own, shared by its data sets
SIZES = {  # images of each cluster
    "equal": lambda count: np.full(count, 20),
    "1 to 4": lambda count: np.where(np.arange(count) % 2, 10, 40),
    "log-normal": lambda count: np.ceil(np.random.default_rng(count).lognormal(2.5, 1, count)).astype(int),
}
CLUSTERS = (2, 3, 5, 10, 30)
BETWEEN = (0.0, 0.1, 0.5, 0.9)  # share of the variance of an image that its cluster has in common
TRAININGS = (2, 3, 5, 10, 20)
DESIGNS = {"60 images": (60, 1), "30 clusters of 2": (30, 2), "10 clusters of 5": (10, 5), "5 clusters of 8": (5, 8)}
# Variances of images (or clusters), of these by training, and of single numbers.
OTHERS = {
    "images": (1.0, 0.01, 0.0),
    "images, numbers": (1.0, 0.0, 1.0),
    "all": (1.0, 1.0, 1.0),
    "numbers": (0.0, 0.0, 1.0),
}
RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)  # variance of the mean from trainings over that from all else
DRAWN, AT_ONCE = 4000, 500


def held(found: Estimates, truth: float) -> np.ndarray:
    return (found.low <= truth) & (found.high >= truth)


def independent() -> Iterator[Row]:
    for name, images in product(DISTRIBUTIONS, IMAGES):
        hits = []
        for seed in range(SEEDS):
            values = DISTRIBUTIONS[name](np.random.default_rng([seed, images]), (images, SETS))
            found = estimates(values, seed=seed)
            hits.append([held(found, 1), (found.bca_low <= 1) & (found.bca_high >= 1)])
        percentile, bca = np.mean(hits, axis=(0, 2))
        yield {"distribution": name, "images": images, "percentile": share(percentile), "bca": share(bca)}


def clustered() -> Iterator[Row]:
    for (name, sizes), count, between in product(SIZES.items(), CLUSTERS, BETWEEN):
        clusters, hits = np.repeat(np.arange(count), sizes(count)), []
        for seed in range(DRAWN // AT_ONCE):
            generator = np.random.default_rng([seed, count])
            values = np.sqrt(between) * generator.normal(size=(count, AT_ONCE))[clusters]
            values += np.sqrt(1 - between) * generator.normal(size=(len(clusters), AT_ONCE))
            hits.append(held(estimates(values, clusters=clusters_of(clusters, len(clusters))), 0))
        largest = float(sizes(count).max() / sizes(count).sum())
        yield {
            "sizes": name,
            "clusters": count,
            "images": len(clusters),
            "largest": round(largest, 3),
            "between": between,
            "coverage": share(np.mean(hits)),
        }


def over_trainings() -> Iterator[Row]:
    cases = product(DESIGNS.items(), TRAININGS, OTHERS.items(), RATIOS)
    for (design, (count, size)), trainings, (name, others), ratio in cases:
        shared, both, single = others
        variance = shared / count + both / (count * trainings) + single / (count * size * trainings)
        own = ratio * variance * trainings
        clusters, hits = np.repeat(np.arange(count), size), []
        for seed in range(DRAWN // AT_ONCE):
            generator = np.random.default_rng([seed, count, trainings])
            values = np.sqrt(own) * generator.normal(size=(1, trainings, AT_ONCE))
            of_clusters = np.sqrt(shared) * generator.normal(size=(count, 1, AT_ONCE))
            of_clusters = of_clusters + np.sqrt(both) * generator.normal(size=(count, trainings, AT_ONCE))
            values = values + of_clusters[clusters]
            if single:
                values += np.sqrt(single) * generator.normal(size=values.shape)
            hits.append(held(estimates(values, clusters=None if size == 1 else clusters), 0))
        yield {
            "design": design,
            "trainings": trainings,
            "others": name,
            "ratio": ratio,
            "coverage": share(np.mean(hits)),
        }


def share(part: np.floating[Any]) -> float:
    return round(float(part), 4)


def pages(found: dict[str, list[Row]]) -> str:
    """Tables of `README.md`, the least and the greatest share of each line."""
    lines = ["| distribution | images | percentile | BCa |", "| --- | --- | --- | --- |"]
    lines += [
        "| {distribution} | {images} | {percentile:.3f} | {bca:.3f} |".format(**row) for row in found["independent"]
    ]
    lines += ["", f"| sizes | {' | '.join(f'{count} clusters' for count in CLUSTERS)} |", "| --- " * 6 + "|"]
    lines += [
        _line(name, [_span(found["clustered"], sizes=name, clusters=count) for count in CLUSTERS]) for name in SIZES
    ]
    lines += ["", f"| images | {' | '.join(f'{count} trainings' for count in TRAININGS)} |", "| --- " * 6 + "|"]
    lines += [
        _line(name, [_span(found["trainings"], design=name, trainings=count) for count in TRAININGS])
        for name in DESIGNS
    ]
    return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _span(rows: list[Row], **fixed: Any) -> str:
    kept = [row["coverage"] for row in rows if all(row[key] == value for key, value in fixed.items())]
    return f"{min(kept):.3f} to {max(kept):.3f}"


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    begun, parts = time.monotonic(), {"independent": independent, "clustered": clustered, "trainings": over_trainings}
    found = {name: list(progress(make(), name)) for name, make in parts.items()}
    facts = {
        "independent_sets": SEEDS * SETS,
        "other_sets": DRAWN,
        "resamples": RESAMPLES,
        "seconds": round(time.monotonic() - begun),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ibviz", "numpy", "scipy")},
    }
    (out / "coverage.json").write_text(json.dumps(facts | found, indent=1) + "\n")
    print(pages(found))


if __name__ == "__main__":
    main()
