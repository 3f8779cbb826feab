"""Metrics of attribution maps: deletion and insertion curves, localisation, sparseness and complexity.

Choices by name: `METRICS`, `BASELINES` (values of removed pixels), `SCORES`, `TARGETS`. Settings of other programs:
`PRESETS` for curves, `POINTING_PRESETS` for the pointing game.
"""

from typing import TYPE_CHECKING

from ibviz.metrics.baselines import BASELINES, Baseline
from ibviz.metrics.catalogue import METRICS
from ibviz.metrics.concentration import complexity, sparseness
from ibviz.metrics.curves import (
    Curve,
    Faithfulness,
    abpc,
    aopc,
    faithfulness,
    least_first,
    normalised,
    planned_states,
    random_order_area,
    trapezoid,
)
from ibviz.metrics.grid import enlarged, on_grid, paint
from ibviz.metrics.imputation import inpaint, road
from ibviz.metrics.localisation.boxes import (
    BoxAccuracy,
    box_accuracy,
    box_hits,
    max_box_acc,
    overlaps,
    pixel_counts,
    pxap,
)
from ibviz.metrics.localisation.energy import (
    Energy,
    auroc,
    energy_pointing_game,
    iou_at_quantile,
    top_cell_precision,
)
from ibviz.metrics.localisation.pointing_game import (
    POINTING_PRESETS,
    Averages,
    Pointing,
    averages,
    pointing_game,
    torchray_pointing_game,
)
from ibviz.metrics.metric import Metric, MetricInput
from ibviz.metrics.protocol import PRESETS, Card, CurveProtocol, preset
from ibviz.metrics.quantus_metrics import quantus_metric
from ibviz.metrics.score import SCORES, TARGETS, Targets, scorer, targets_by
from ibviz.metrics.score_drop import Drop, SensitivityN, average_drop, sensitivity_n
from ibviz.metrics.ties import TieReport, cell_order, levels, shuffles, tie_orders, tie_report

if TYPE_CHECKING:
    from ibviz.metrics.torchmetrics_classes import SRG, Deletion, EnergyPointingGame, Insertion, MaxBoxAcc, PointingGame

__all__ = [
    "BASELINES",
    "METRICS",
    "POINTING_PRESETS",
    "PRESETS",
    "SCORES",
    "SRG",
    "TARGETS",
    "Averages",
    "Baseline",
    "BoxAccuracy",
    "Card",
    "Curve",
    "CurveProtocol",
    "Deletion",
    "Drop",
    "Energy",
    "EnergyPointingGame",
    "Faithfulness",
    "Insertion",
    "MaxBoxAcc",
    "Metric",
    "MetricInput",
    "Pointing",
    "PointingGame",
    "SensitivityN",
    "Targets",
    "TieReport",
    "abpc",
    "aopc",
    "auroc",
    "average_drop",
    "averages",
    "box_accuracy",
    "box_hits",
    "cell_order",
    "complexity",
    "energy_pointing_game",
    "enlarged",
    "faithfulness",
    "inpaint",
    "iou_at_quantile",
    "least_first",
    "levels",
    "max_box_acc",
    "normalised",
    "on_grid",
    "overlaps",
    "paint",
    "pixel_counts",
    "planned_states",
    "pointing_game",
    "preset",
    "pxap",
    "quantus_metric",
    "random_order_area",
    "road",
    "scorer",
    "sensitivity_n",
    "shuffles",
    "sparseness",
    "targets_by",
    "tie_orders",
    "tie_report",
    "top_cell_precision",
    "torchray_pointing_game",
    "trapezoid",
]

_TORCHMETRICS = {"Deletion", "EnergyPointingGame", "Insertion", "MaxBoxAcc", "PointingGame", "SRG"}


def __getattr__(name: str) -> object:
    """Import torchmetrics only if one of its classes is requested, since the import takes a second."""
    if name not in _TORCHMETRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ibviz.metrics import torchmetrics_classes

    return getattr(torchmetrics_classes, name)
