"""How often the 95 % intervals of a table hold the true mean: drawn data of known mean 1, by number of images.

python evaluation/coverage.py > coverage.json
"""

import json
import platform
import sys
from importlib.metadata import version

import numpy as np

from ibviz.statistics import RESAMPLES, estimates

DISTRIBUTIONS = {
    "normal": lambda generator, shape: generator.normal(1, 1, shape),
    "exponential": lambda generator, shape: generator.exponential(1, shape),
    "log-normal": lambda generator, shape: generator.lognormal(-0.5, 1, shape),
}
IMAGES = (20, 50, 100, 200, 500)
SEEDS, SETS = 20, 200  # each seed has resamples of its own, shared by its data sets


def coverage(distribution: str, images: int) -> dict[str, float]:
    hits = []
    for seed in range(SEEDS):
        values = DISTRIBUTIONS[distribution](np.random.default_rng([seed, images]), (images, SETS))
        found = estimates(values, seed=seed)
        hits.append([(found.low <= 1) & (found.high >= 1), (found.bca_low <= 1) & (found.bca_high >= 1)])
    percentile, bca = np.mean(hits, axis=(0, 2))
    return {"percentile": round(float(percentile), 4), "bca": round(float(bca), 4)}


def main() -> None:
    rows = [{"distribution": name, "images": n, **coverage(name, n)} for name in DISTRIBUTIONS for n in IMAGES]
    for row in rows:
        print("{distribution:12} {images:4} {percentile:.3f} {bca:.3f}".format(**row), file=sys.stderr)
    facts = {"sets": SEEDS * SETS, "resamples": RESAMPLES, "python": platform.python_version(),
             "versions": {name: version(name) for name in ("ibviz", "numpy", "scipy")}}  # fmt: skip
    print(json.dumps(facts | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
