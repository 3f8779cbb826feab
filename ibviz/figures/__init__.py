"""Figures for papers, from arrays: panels of images by methods, curves, anchors, tables; and the choice of images.

Each is saved with a sidecar and its data, from which `ibviz figure` draws it again.
"""

from ibviz.figures.bottleneck import anchor_usage, rate_accuracy
from ibviz.figures.choice import by_list, by_quantile, by_seed
from ibviz.figures.curves import curves
from ibviz.figures.output import Panel
from ibviz.figures.panel import overlay, panel
from ibviz.figures.settings import settings
from ibviz.figures.table import table

__all__ = [
    "Panel",
    "anchor_usage",
    "by_list",
    "by_quantile",
    "by_seed",
    "curves",
    "overlay",
    "panel",
    "rate_accuracy",
    "settings",
    "table",
]
