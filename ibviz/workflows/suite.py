"""Suites as the command line reads them: a file, with values of flags in the place of its own."""

from pathlib import Path
from typing import Any

from ibviz.benchmark.config import NamedModel, SuiteConfig
from ibviz.errors import InputError
from ibviz.settings import read_toml


def read_suite(paths: list[Path], *, model: str | None, weights: Path | None, limit: int | None) -> SuiteConfig:
    """Read a suite and replace some of its settings by those of flags.

    Args:
        paths: The TOML file, as the only item.
        model: The name of a network that replaces those of the suite.
        weights: The weights of `model`.
        limit: The largest number of images.

    Raises:
        InputError: Several paths, weights without a model, or a file that is no suite.
    """
    if len(paths) > 1:
        raise InputError(f"expected one suite; got {len(paths)}. Folders of one run go with --merge")
    suite = read_toml(paths[0], SuiteConfig)
    changes: dict[str, Any] = {} if model is None else {"models": (NamedModel(name=model, weights=weights),)}
    if weights is not None and model is None:
        raise InputError("--weights belongs to --model; those of a suite stand beside its [[models]]")
    if limit is not None:
        changes["images"] = limit if suite.images is None else min(limit, suite.images)
    return suite.model_copy(update=changes)
