"""The smallest inputs of every command, for studies that run each of them hundreds of times."""

import tomllib
from pathlib import Path
from typing import Any

from ibviz.benchmark.config import SuiteConfig
from ibviz.training.recipe import Recipe

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


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder by their place in it, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_times(held: Any) -> Any:
    """Leave out what differs between the JSON of two equal runs."""
    if isinstance(held, dict):
        return {key: without_times(value) for key, value in held.items() if key not in ("seconds", "sha256", "command")}
    return [without_times(value) for value in held] if isinstance(held, list) else held
