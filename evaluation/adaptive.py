"""Passes and errors of curves with fewer points, adaptive and even, beside 32 even steps.

usage: python -m evaluation.adaptive DATA [--out evaluation/results/adaptive] [--scene NAME]

The suite `evaluation/suites/digits.toml` by the bundled network, and photographs by the bundled network `photos` and by
SqueezeNet 1.1 with ImageNet's weights. DATA holds `imagenet_model/squeezenet1_1.safetensors` and
`photos/annotations.json` with `photos/images`. All rules see the same scores: a masked image passes the network once
and is remembered, so that a difference is one of the points alone. Writes `adaptive.json` and `table.md`.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evaluation.passes import photographs, squeezenet
from ibviz.attribution.methods import explain, predict, values
from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.evaluation import controls, default_protocol, versions
from ibviz.benchmark.throughput import at_best_pace
from ibviz.data.image_set import to_float
from ibviz.data.sources import choose_images
from ibviz.files import replacing
from ibviz.metrics.curves import Faithfulness, faithfulness
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.score import scorer
from ibviz.models.hooks import evaluating
from ibviz.models.loading import Classifier, load
from ibviz.progress import progress
from ibviz.settings import read_toml
from ibviz.statistics import estimate
from ibviz.table_formats import TextTable, markdown_of
from ibviz.types import Images, Labels, Maps, Score, Scores

PHOTOGRAPHS, SIDE = 32, 128
SUITE = Path("evaluation/suites/digits.toml")
METRICS = {"SRG": "srg", "deletion": "deletion_auc", "insertion": "insertion_auc"}
EVEN = "even 32"
RULES: dict[str, dict[str, Any]] = {
    EVEN: {},
    "even 16": {"steps": 16},
    "even 8": {"steps": 8},
    **{
        f"adaptive, {tolerance:g}": {"steps": "adaptive", "tolerance": tolerance}
        for tolerance in (0.003, 0.01, 0.02, 0.05)
    },
}
TIMED, TIMES = (EVEN, "adaptive, 0.01"), 3  # on the map that takes the fewest passes
Row = dict[str, Any]


class Scene(NamedTuple):
    """A network, images, and the maps of methods and controls."""

    model: Classifier
    images: Images
    targets: Labels
    maps: Mapping[str, Maps]
    protocol: CurveProtocol


class Remembered:
    """A score that asks the network once for each masked image."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.known: dict[tuple[int, int], float] = {}

    def __call__(self, states: Images, rows: Labels) -> Scores:
        keys = [(row, hash(state.numpy().tobytes())) for row, state in zip(rows.tolist(), states, strict=True)]
        new = [place for place, key in enumerate(keys) if key not in self.known]
        if new:
            scores = self.score(states[new], rows[new]).tolist()
            self.known |= zip((keys[place] for place in new), scores, strict=True)
        return torch.tensor([self.known[key] for key in keys])


def scene(model: Classifier, images: Images, methods: Mapping[str, tuple[str, dict[str, Any]]]) -> Scene:
    targets = predict(model, images).argmax(1)
    explained = {label: explain(model, images, name, targets=targets, **own) for label, (name, own) in methods.items()}
    protocol = default_protocol(model, explained)
    assert protocol.grid is not None
    explained |= controls(model, images, targets, protocol.grid)
    return Scene(model, images, targets, {label: values(own) for label, own in explained.items()}, protocol)


def digits_scene() -> Scene:
    suite = read_toml(SUITE, SuiteConfig)
    chosen = choose_images(suite.data, suite.split, None, count=suite.images, seed=suite.seed)
    methods = {config.label or config.method: (config.method, config.options) for config in suite.methods}
    return scene(load("digits"), to_float(chosen.read(0, len(chosen.labels)).images), methods)


def photo_scene(data: Path) -> Scene:
    names = ("attention", "attention_mean", "grad_cam", "integrated_gradients")
    _, images = photographs(data, PHOTOGRAPHS, SIDE)
    return scene(load("photos"), images, {name: (name, {}) for name in names})


def squeezenet_scene(data: Path) -> Scene:
    names = ("grad_cam", "saliency", "integrated_gradients", "occlusion")
    _, images = photographs(data, PHOTOGRAPHS, SIDE)
    return scene(squeezenet(data, SIDE), images, {name: (name, {}) for name in names})


SCENES: dict[str, Callable[[Path], Scene]] = {
    "digits": lambda _: digits_scene(),
    "photos": photo_scene,
    "SqueezeNet 1.1": squeezenet_scene,
}


def rows_of(given: Scene) -> Iterator[Row]:
    """Judge every map by every rule; a row holds what a rule costs and misses on one map."""
    with evaluating(given.model), at_best_pace(given.model, given.images, given.protocol) as (images, paced):
        plain = scorer(given.model, given.targets, kind=paced.score)
        passes = {}
        for method, maps in progress(given.maps.items(), "methods", total=len(given.maps)):
            score = Remembered(plain)
            judged = {
                rule: faithfulness(score, images, maps, protocol=paced.model_copy(update=own))
                for rule, own in RULES.items()
            }
            passes[method] = judged[EVEN].forward_passes
            for rule, found in judged.items():
                yield {"method": method, "rule": rule} | _compared(found, judged[EVEN])
        method = min(passes, key=lambda name: passes[name])
        for rule in TIMED:
            protocol = paced.model_copy(update=RULES[rule])
            times = [_seconds(plain, images, given.maps[method], protocol) for _ in range(TIMES)]
            yield {"method": method, "rule": rule, "seconds": times}


def _seconds(score: Score, images: Images, maps: Maps, protocol: CurveProtocol) -> float:
    begun = time.perf_counter()
    faithfulness(score, images, maps, protocol=protocol)
    return time.perf_counter() - begun


def _compared(found: Faithfulness, even: Faithfulness) -> Row:
    row: Row = {
        "passes": found.forward_passes,
        "bound": _rounded(found.area_error),
        "differences": _rounded(found.srg - even.srg),
    }
    for metric, field in METRICS.items():
        area, exact = getattr(found, field), getattr(even, field)
        interval = estimate(exact.tolist())
        row[metric] = {
            "mean": interval.mean,
            "width": interval.high - interval.low,
            "moved": float((area - exact).mean()),
        }
    return row


def _rounded(numbers: Tensor) -> list[float]:
    return [round(number, 6) for number in numbers.tolist()]


def table(name: str, rows: list[Row], count: int) -> TextTable:
    """Return one line per rule: passes, and errors over all lines, metrics and images."""
    judged = [row for row in rows if "passes" in row]
    whole = sum(row["passes"] for row in judged if row["rule"] == EVEN)
    cells = []
    for rule in RULES:
        own = [row for row in judged if row["rule"] == rule]
        passes = sum(row["passes"] for row in own)
        differences = torch.tensor([row["differences"] for row in own]).abs()
        shares = {
            (row["method"], metric): abs(row[metric]["moved"]) / row[metric]["width"]
            for row in own
            for metric in METRICS
            if row[metric]["width"] > 1e-6  # not rounding, as of the SRG of a constant map
        }
        (method, metric), most = max(shares.items(), key=lambda item: item[1])
        bound = torch.tensor([row["bound"] for row in own])
        within = float((differences <= bound + 1e-6).float().mean())
        cells.append(
            [
                rule,
                f"{passes:,}",
                f"{passes / whole:.0%}",
                f"{differences.mean():.4f}",
                f"{differences.flatten().quantile(0.95):.4f}",
                f"{differences.max():.3f}",
                f"{sorted(shares.values())[len(shares) // 2]:.3f}",
                f"{most:.3f} ({method}, {metric})" if most else "0",
                f"{bound.mean():.4f}" if "adaptive" in rule else "-",
                f"{within:.0%}" if "adaptive" in rule else "-",
            ]
        )
    header = ["steps", "passes", "share", "mean error of an image's SRG", "95 %", "largest"]
    header += ["error of a mean / interval's width: median", "largest", "mean bound of SRG", "images within it"]
    return TextTable(f"{name}: {count} images, {len(judged) // len(RULES)} maps each", header, cells)


def main(data: Path, out: Path, scenes: list[str]) -> None:
    torch.set_num_threads(1)
    path = out / "adaptive.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"scenes": {}}
    record |= {
        "command": "python -m evaluation.adaptive DATA",
        "versions": versions(),
        "device": f"CPU, {torch.get_num_threads()} thread",
    }
    for name in scenes:
        if name in record["scenes"]:
            continue
        begun, given = time.perf_counter(), SCENES[name](data)
        rows = list(rows_of(given))
        record["scenes"][name] = {
            "images": len(given.images),
            "protocol": given.protocol.model_dump(mode="json"),
            "rows": rows,
            "took": round(time.perf_counter() - begun, 1),
        }
        with replacing(path) as beside:
            beside.write_text(json.dumps(record) + "\n")
    texts = [markdown_of(table(name, own["rows"], own["images"])) for name, own in record["scenes"].items()]
    with replacing(out / "table.md") as beside:
        beside.write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("evaluation/results/adaptive"))
    parser.add_argument(
        "--scene", choices=SCENES, action="append", help="only this one; those of earlier runs are kept"
    )
    given = parser.parse_args()
    main(given.data, given.out, given.scene or list(SCENES))
