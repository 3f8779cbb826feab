"""Publication figures from arrays: panels of images by methods, curves, dots, anchor usage, rate-accuracy and tables.

Each figure is saved with a sidecar and its data, from which `ibviz figure` redraws it. `by_seed`, `by_class`,
`by_list` and `by_quantile` choose the images of a figure by a rule that its sidecar records.
"""

from ibviz.figures.anchor_usage import anchor_usage
from ibviz.figures.choice import by_class, by_list, by_quantile, by_seed
from ibviz.figures.curves import curves
from ibviz.figures.dots import dots
from ibviz.figures.panel import overlay, panel
from ibviz.figures.rate_accuracy import rate_accuracy
from ibviz.figures.settings import Template, settings
from ibviz.figures.sidecar import Panel
from ibviz.figures.table import table
from ibviz.figures.trainings import trainings

__all__ = [
    "Panel",
    "Template",
    "anchor_usage",
    "by_class",
    "by_list",
    "by_quantile",
    "by_seed",
    "curves",
    "dots",
    "overlay",
    "panel",
    "rate_accuracy",
    "settings",
    "table",
    "trainings",
]
