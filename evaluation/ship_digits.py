"""The bundled network: a finished run of `recipes/digits.toml` in half precision, with what proves where it is from.

usage: python evaluation/ship_digits.py RUN [OUT]      OUT: the file that `ibviz.load("digits")` reads
"""

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ibviz.data.config import DataConfig
from ibviz.data.sources import load_images
from ibviz.data.synthetic import SPLITS, digits
from ibviz.errors import InputError
from ibviz.models.checkpoint import load_model, read_tensors, write_tensors
from ibviz.models.loading import BUNDLED
from ibviz.settings import read_toml
from ibviz.training.loaders import make_loader
from ibviz.training.loop import train, validate
from ibviz.training.recipe import Recipe

RECIPE = Path(__file__).parent / "recipes/digits.toml"
HASHED = 200  # images of each split; one image's pixels follow from split, seed and its place alone
FEW = 256  # images of the few steps


def main(run: Path, out: Path) -> None:
    recipe = read_toml(RECIPE, Recipe)

    def measured() -> dict[str, Any]:
        return {
            "data_sha256": data_hash(recipe.data),
            "test": test_accuracy(out, recipe.data),
            "few_steps": few_steps(recipe),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "command": "python evaluation/ship_digits.py RUN, after ibviz train evaluation/recipes/digits.toml "
            "--out RUN",
        }

    ship(run, RECIPE, out, measured)


def ship(run: Path, path: Path, out: Path, measured: Callable[[], dict[str, Any]]) -> None:
    """Write the model of a finished run of the recipe at `path` in half precision, with facts measured on that file."""
    tensors, header = read_tensors(run / "model.safetensors", "model")
    if header["facts"]["recipe"] != json.loads(read_toml(path, Recipe).model_dump_json()):
        raise InputError(f"{run} is no run of {path.name}; train it anew")
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_tensors(out, halves, header)
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("ibviz", "torch", "numpy")}
    header["facts"] |= measured() | {"versions": versions}
    write_tensors(out, halves, header)
    print(json.dumps({key: header["facts"][key] for key in ("epoch", "validation", "test")}, indent=1))
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def data_hash(config: DataConfig) -> str:
    """Of pixels and labels of the first images of each split."""
    digest = hashlib.sha256()
    for split in SPLITS:
        few = digits(split, count=HASHED, seed=config.seed)
        digest.update(few.images.numpy().tobytes() + few.labels.numpy().tobytes())
    return digest.hexdigest()


def test_accuracy(path: Path, config: DataConfig) -> dict[str, float]:
    """On all test images, as `ibviz.load` gives the network: half-precision weights, computed with in float32."""
    images = load_images(config, "test", None)
    return {"n": len(images.labels), **validate(load_model(path), make_loader(images, torch.device("cpu")))}


def few_steps(recipe: Recipe) -> dict[str, Any]:
    """What one epoch on a few images leaves in the log: four steps from the recipe's seed, with its own settings."""
    changes = {"data": {"limit": FEW}, "training": {"epochs": 1}}
    short = Recipe.model_validate(
        {part: values | changes.get(part, {}) for part, values in recipe.model_dump().items()}
    )
    with tempfile.TemporaryDirectory() as folder:
        [row] = train(short, Path(folder) / "run", report=lambda _: None)
    return {"images": FEW} | {name: row[name] for name in ("train_total_nats", "train_rate_nats", "anchors")}


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else BUNDLED["digits"])
