"""Attribution methods: functions `(model, images, targets, **options)`, all in `METHODS`.

`CONTROLS` has the names of the controls by label. `IBAttention`, the trained attention for tools of Captum, is imported
on first use, since Captum takes a second to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ibviz.attribution.catalogue import CONTROLS, METHODS, Method
from ibviz.attribution.information import feature_statistics
from ibviz.attribution.map_files import SavedMaps, load_maps, save_maps
from ibviz.attribution.methods import explain
from ibviz.attribution.randomisation import randomise
from ibviz.attribution.sampling import recorded_errors

if TYPE_CHECKING:
    from ibviz.attribution.ib_attention import IBAttention as IBAttention

__all__ = [
    "CONTROLS",
    "METHODS",
    "IBAttention",
    "Method",
    "SavedMaps",
    "explain",
    "feature_statistics",
    "load_maps",
    "randomise",
    "recorded_errors",
    "save_maps",
]


def __getattr__(name: str) -> Any:
    """Import `IBAttention`, and with it Captum, on first use."""
    if name == "IBAttention":
        return import_module("ibviz.attribution.ib_attention").IBAttention
    raise AttributeError(f"ibviz.attribution has no attribute {name!r}")
