"""How maps are judged: by what removing their cells does to the score, and by where they point."""

from ibviz.metrics.curves import Curve, Faithfulness, area, faithfulness, planned_states
from ibviz.metrics.grid import on_grid, paint
from ibviz.metrics.imputation import inpaint, road
from ibviz.metrics.pointing_game import PointingGame, pointing_game
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.score import probability
from ibviz.metrics.ties import TieReport, cell_order, levels, shuffles, tie_report

__all__ = [
    "Curve",
    "CurveProtocol",
    "Faithfulness",
    "PointingGame",
    "TieReport",
    "area",
    "cell_order",
    "faithfulness",
    "inpaint",
    "levels",
    "on_grid",
    "paint",
    "planned_states",
    "pointing_game",
    "probability",
    "road",
    "shuffles",
    "tie_report",
]
