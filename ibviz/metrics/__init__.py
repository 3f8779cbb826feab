"""How maps are judged: by what removing their cells does to the score, and by where they point."""

from ibviz.metrics.curves import Curve, Faithfulness, area, faithfulness, planned_states
from ibviz.metrics.grid import on_grid, paint
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
from ibviz.metrics.localisation.energy import Energy, energy_pointing_game, iou_at_quantile, top_cell_precision
from ibviz.metrics.localisation.pointing_game import (
    Averages,
    Pointing,
    averages,
    pointing_game,
    torchray_pointing_game,
)
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.score import probability
from ibviz.metrics.stability import Drop, SensitivityN, average_drop, complexity, sensitivity_n, sparseness
from ibviz.metrics.ties import TieReport, cell_order, levels, shuffles, tie_report

__all__ = [
    "Averages",
    "BoxAccuracy",
    "Curve",
    "CurveProtocol",
    "Drop",
    "Energy",
    "Faithfulness",
    "Pointing",
    "SensitivityN",
    "TieReport",
    "area",
    "average_drop",
    "averages",
    "box_accuracy",
    "box_hits",
    "cell_order",
    "complexity",
    "energy_pointing_game",
    "faithfulness",
    "inpaint",
    "iou_at_quantile",
    "levels",
    "max_box_acc",
    "on_grid",
    "overlaps",
    "paint",
    "pixel_counts",
    "planned_states",
    "pointing_game",
    "probability",
    "pxap",
    "road",
    "sensitivity_n",
    "shuffles",
    "sparseness",
    "tie_report",
    "top_cell_precision",
    "torchray_pointing_game",
]
