"""The smallest inputs of every command, for studies that run each of them hundreds of times."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from ibviz.benchmark.config import SuiteConfig
from ibviz.data import synthetic
from ibviz.data.image_set import ImageSet
from ibviz.data.listing import Split
from ibviz.training.recipe import Recipe

FEW = 40
RECIPE = """
[data]
limit = 32
[model]
latent = 4
[training]
epochs = 3
"""
SUITE = """
images = 6
batch = 2
pictures = 2
models = [{ name = "digits" }]
methods = [{ method = "attention" }, { method = "grad_cam" }]
protocols = [{ grid = [4, 4], steps = 4, orders = 2, batch_size = 32 }]
"""


def recipe() -> Recipe:
    return Recipe.model_validate(tomllib.loads(RECIPE))


def suite() -> SuiteConfig:
    return SuiteConfig.model_validate(tomllib.loads(SUITE))


def draw_few() -> None:
    """Let this process, and those forked from it, draw at most 40 embedded images of a split, and those once."""
    drawn = cache(synthetic.digits)

    def digits(split: Split, *, count: int, **options: Any) -> ImageSet:
        return drawn(split, count=min(count, FEW), **options)

    synthetic.digits = digits
    for split in ("train", "validation", "test"):
        digits(split, count=FEW, seed=0, background="leaves")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder by their place in it, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_times(held: Any) -> Any:
    """Leave out what differs between the JSON of two equal runs."""
    if isinstance(held, dict):
        return {key: without_times(value) for key, value in held.items() if key not in ("seconds", "sha256", "command")}
    return [without_times(value) for value in held] if isinstance(held, list) else held
