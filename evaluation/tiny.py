"""The smallest inputs of every command, for studies that run each of them hundreds of times."""

import tomllib
from pathlib import Path

from ibviz.config import Recipe, SuiteConfig

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
