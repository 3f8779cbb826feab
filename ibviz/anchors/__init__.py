"""What anchor values are worth: how they are used, what the network does without them, and whether they hold still."""

from ibviz.anchors.consistency import Consistency, consistency, summarise_edits
from ibviz.anchors.effects import AnchorEffects, anchor_effects, answer, summarise
from ibviz.anchors.intervene import INTERVENTIONS, Effects, Variant, edited, intervene, variants
from ibviz.anchors.usage import Usage, drift, usage

__all__ = [
    "INTERVENTIONS",
    "AnchorEffects",
    "Consistency",
    "Effects",
    "Usage",
    "Variant",
    "anchor_effects",
    "answer",
    "consistency",
    "drift",
    "edited",
    "intervene",
    "summarise",
    "summarise_edits",
    "usage",
    "variants",
]
