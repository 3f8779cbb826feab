"""Attention through an information bottleneck: trained, extracted, judged, drawn.

Names are imported on first use, so that `import ibviz` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibviz import anchors as anchors
    from ibviz import attribution as attribution
    from ibviz import figures as figures
    from ibviz import metrics as metrics
    from ibviz.attribution.methods import explain as explain
    from ibviz.benchmark.evaluation import evaluate as evaluate
    from ibviz.models.attach import attach as attach
    from ibviz.models.loading import load as load
    from ibviz.models.loading import wrap as wrap

__version__ = "0.1.0"

HOMES = {
    "attach": "ibviz.models.attach",
    "evaluate": "ibviz.benchmark.evaluation",
    "explain": "ibviz.attribution.methods",
    "load": "ibviz.models.loading",
    "wrap": "ibviz.models.loading",
}
PACKAGES = ("anchors", "attribution", "figures", "metrics")


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name in PACKAGES:
        return import_module(f"ibviz.{name}")
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"ibviz has no attribute {name!r}; it has {', '.join([*HOMES, *PACKAGES])}")


def __dir__() -> list[str]:
    return [*HOMES, *PACKAGES, "__version__"]
