"""A small folder as `ibviz evaluate` writes it, made without a network: numbers are drawn, but belong together."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ibviz.benchmark.results import COLUMNS
from ibviz.metrics.protocol import Card, CurveProtocol

SIDE = 16
CLASSES = ("circle", "square", "star")
METHODS = {"Attention": 0.6, "Grad-CAM": 0.4, "centre": 0.4, "uniform": 0.0}  # how much better than chance
CONTROLS = ("centre", "uniform")
GRIDS = {"Attention": "4 x 4", "Grad-CAM": "8 x 8", "centre": "16 x 16", "uniform": "1 x 1"}
COMMON = "4 x 4"
FRACTIONS = np.linspace(0, 1, 5, dtype=np.float32)


def write_results(
    folder: Path, *, images: int = 12, models: tuple[str, ...] = ("net",), pictures: int = 4, boxes: bool = True
) -> Path:
    """Write a result of `METHODS`; images without `boxes` have no pointing game, which is then left out with a reason.

    "Attention" is better than "Grad-CAM", which is not separated from "centre"; "Grad-CAM" is judged on its own grid
    as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    seen = _images(images, pictures, boxes, generator)
    predictions = [row for model in models for row in _predictions(model, seen, generator)]
    rows, curves = [], []
    for predicted in predictions:
        for method, skill in METHODS.items():
            sides = _sides(skill, predicted["probability"], generator)
            rows += _rows(method, False, seen[predicted["image"]], predicted, sides)
            curves += [_curve(method, predicted, side, scores) for side, scores in sides.items()]
            if method == "Grad-CAM":
                own = _sides(skill, predicted["probability"], generator)
                rows += _rows(method, True, seen[predicted["image"]], predicted, own)
    for name, content in {"rows": rows, "images": seen, "predictions": predictions, "curves": curves}.items():
        pq.write_table(
            pa.Table.from_pylist([{key: one[key] for key in COLUMNS[name]} for one in content]),
            folder / f"{name}.parquet",
        )
    (folder / "circumstances.json").write_text(json.dumps(_circumstances(images, models, boxes), indent=1) + "\n")
    return folder


def card(native: bool = False) -> Card:
    protocol = CurveProtocol(colour=(0.5, 0.5, 0.5), grid=None if native else (4, 4), steps=4)
    return Card(protocol=protocol, data="0" * 12, weights="1" * 12, versions={"ibviz": "0.1.0"})


def _images(count: int, pictures: int, boxes: bool, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Grey noise with a bright square; the last image has no known label."""
    found = []
    for image in range(count):
        side = int(generator.integers(3, 12))
        x, y = (int(one) for one in generator.integers(0, SIDE - side, 2))
        pixels = generator.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[y : y + side, x : x + side] += 120
        label = None if image == count - 1 else image % len(CLASSES)
        found.append(
            {
                "image": image,
                "name": f"{image:03}.png",
                "label": label,
                "box": [float(edge) for edge in (x, y, x + side, y + side)] if boxes else None,
                "object_share": side**2 / SIDE**2 if boxes else None,
                "picture": _png(pixels) if image < pictures else None,
            }
        )
    return found


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _predictions(model: str, images: list[dict[str, Any]], generator: np.random.Generator) -> list[dict[str, Any]]:
    """Every fourth image is taken for the next class."""
    found = []
    for one in images:
        predicted = ((one["label"] or 0) + (one["image"] % 4 == 0)) % len(CLASSES)
        probability = float(generator.uniform(0.5, 1.0))
        found.append(
            {
                "model": model,
                "image": one["image"],
                "predicted": predicted,
                "probability": probability,
                "runner_up": (predicted + 1) % len(CLASSES),
                "runner_up_probability": (1 - probability) * 0.8,
            }
        )
    return found


def _sides(skill: float, start: float, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Curves between 0.1 and the score of the image: with skill, deletion falls early and insertion rises early."""
    bend = skill + generator.normal(0, 0.1 * (skill > 0))
    falls, rises = (1 - FRACTIONS) ** np.exp(bend), 1 - (1 - FRACTIONS) ** np.exp(bend)
    return {
        side: (0.1 + (start - 0.1) * one).astype(np.float32)
        for side, one in {"deletion": falls, "insertion": rises}.items()
    }


def _rows(
    method: str, native: bool, image: dict[str, Any], predicted: dict[str, Any], sides: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    areas = {side: float(np.trapezoid(scores, FRACTIONS)) for side, scores in sides.items()}
    values = {"srg": areas["insertion"] - areas["deletion"], **areas}
    if image["box"] is not None and not native:
        values["pointing_game"] = float((image["image"] * 7 % 10) / 10 < METHODS[method] + 0.3)
    label = image["label"]
    fixed = {
        "model": predicted["model"],
        "image": image["image"],
        "method": method,
        "control": method in CONTROLS,
        "native": native,
        "grid": GRIDS[method] if native else COMMON,
        "protocol": "default",
        "hash": card(native).hash,
        "tie_sd": 0.0,
        "target": predicted["predicted"],
        "label": label,
        "correct": None if label is None else label == predicted["predicted"],
        "f_image": predicted["probability"],
        "f_baseline": 0.1,
        "random_order": None if native else (predicted["probability"] + 0.1) / 2,
        "levels": 1 if method == "uniform" else 16,
        "tie_fraction": float(method == "uniform"),
        "zero_share": 0.0,
        "object_share": image["object_share"],
    }
    return [fixed | {"metric": metric, "value": value} for metric, value in values.items()]


def _curve(method: str, predicted: dict[str, Any], side: str, scores: np.ndarray) -> dict[str, Any]:
    return {
        "model": predicted["model"],
        "method": method,
        "control": method in CONTROLS,
        "protocol": "default",
        "image": predicted["image"],
        "side": side,
        "fractions": FRACTIONS,
        "scores": scores,
    }


def _circumstances(images: int, models: tuple[str, ...], boxes: bool) -> dict[str, Any]:
    common, skipped = card(), "pointing_game needs boxes or masks, which the data does not have"
    protocols = {"default": common.model_dump(mode="json") | {"hash": common.hash}}
    return {
        "command": "ibviz evaluate suite.toml --out results",
        "commit": None,
        "suite": {"data": {"name": "drawn"}, "images": images},
        "models": {
            name: {
                "name": "vgg32",
                "weights": "1" * 12,
                "class_names": list(CLASSES),
                "size": SIDE,
                "protocols": protocols,
            }
            for name in models
        },
        "methods": {
            name: {"method": name.lower().replace("-", "_"), "options": {}, "control": name in CONTROLS}
            for name in METHODS
        },
        "protocols": protocols,
        "images": images,
        "skipped": ["broken.png"],
        "failures": [
            {"model": models[0], "method": "Rollout", "images": list(range(images)), "error": "no attention block"}
        ],
        "left_out": [] if boxes else [{"model": name, "metric": "pointing_game", "reason": skipped} for name in models],
        "forward_passes": 1234,
        "seconds": 5.6,
        "device": "CPU, 2 threads",
        "python": "3.11.7",
        "versions": common.versions,
    }
