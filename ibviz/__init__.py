"""Explanations of image classifiers: train attention, compute attribution maps, evaluate and draw them.

Names are imported on first use, so that `import ibviz` costs next to nothing. The names in the `__all__` of a package
are public; its modules are not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibviz import anchors, attribution, benchmark, data, figures, metrics, models
    from ibviz.attribution.methods import explain, predict
    from ibviz.benchmark.evaluation import evaluate
    from ibviz.errors import InputError
    from ibviz.models.attach import attach
    from ibviz.models.loading import load, wrap
    from ibviz.types import AttentionMap
    from ibviz.workflows.explore import explore

__all__ = [
    "AttentionMap",
    "InputError",
    "anchors",
    "attach",
    "attribution",
    "benchmark",
    "data",
    "evaluate",
    "explain",
    "explore",
    "figures",
    "load",
    "metrics",
    "models",
    "predict",
    "wrap",
]
__version__ = "0.1.0"

_HOMES = {
    "AttentionMap": "ibviz.types",
    "InputError": "ibviz.errors",
    "attach": "ibviz.models.attach",
    "evaluate": "ibviz.benchmark.evaluation",
    "explain": "ibviz.attribution.methods",
    "explore": "ibviz.workflows.explore",
    "load": "ibviz.models.loading",
    "predict": "ibviz.attribution.methods",
    "wrap": "ibviz.models.loading",
}  # all other names are packages


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in __all__:
        raise AttributeError(f"ibviz has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name) if name in _HOMES else import_module(f"ibviz.{name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
