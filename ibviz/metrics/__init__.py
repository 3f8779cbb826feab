"""How maps are judged: by what removing their cells does to the score, and by where they point."""

from ibviz.metrics.baselines import BASELINES, IMPUTERS
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
from ibviz.metrics.pointing_game import PointingGame, pointing_game
from ibviz.metrics.protocol import PRESETS, Card, CurveProtocol, preset
from ibviz.metrics.score import SCORES, TARGETS, Targets, scorer, targets_by
from ibviz.metrics.ties import TieReport, cell_order, levels, shuffles, tie_orders, tie_report

__all__ = [
    "BASELINES",
    "IMPUTERS",
    "PRESETS",
    "SCORES",
    "TARGETS",
    "Card",
    "Curve",
    "CurveProtocol",
    "Faithfulness",
    "PointingGame",
    "Targets",
    "TieReport",
    "abpc",
    "aopc",
    "cell_order",
    "enlarged",
    "faithfulness",
    "inpaint",
    "least_first",
    "levels",
    "normalised",
    "on_grid",
    "paint",
    "planned_states",
    "pointing_game",
    "preset",
    "random_order_area",
    "road",
    "scorer",
    "shuffles",
    "targets_by",
    "tie_orders",
    "tie_report",
    "trapezoid",
]
