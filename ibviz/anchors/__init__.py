"""Studies of anchors: their usage, interventions on the attention and their effects, and consistency under edits.

`INTERVENTIONS` names the edits of the attention that `intervene` tries, `CELL_EDITS` those of cells at some anchors.
"""

from ibviz.anchors.consistency import Consistency, consistency, summarise_edits
from ibviz.anchors.effects import AnchorEffects, anchor_effects, answer, decisions, interval, summarise_effects
from ibviz.anchors.intervene import (
    CELL_EDITS,
    INTERVENTIONS,
    CellEdit,
    Donors,
    Effects,
    Variant,
    edited,
    intervene,
    variants,
)
from ibviz.anchors.usage import Usage, drift, usage

__all__ = [
    "CELL_EDITS",
    "INTERVENTIONS",
    "AnchorEffects",
    "CellEdit",
    "Consistency",
    "Donors",
    "Effects",
    "Usage",
    "Variant",
    "anchor_effects",
    "answer",
    "consistency",
    "decisions",
    "drift",
    "edited",
    "interval",
    "intervene",
    "summarise_edits",
    "summarise_effects",
    "usage",
    "variants",
]
