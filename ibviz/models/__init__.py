"""Classifiers: networks with an attention gate, their training objective, checkpoints, and published weights.

`ibviz.load`, `ibviz.wrap` and `ibviz.attach` build them.
"""

from ibviz.models.attach import without_attention
from ibviz.models.classifier import IBClassifier, Inspection
from ibviz.models.config import ObjectiveConfig
from ibviz.models.loading import WrappedClassifier
from ibviz.models.objective import Objective
from ibviz.models.targets import box_scores, region_logits
from ibviz.models.texts import texts_as_classes

__all__ = [
    "IBClassifier",
    "Inspection",
    "Objective",
    "ObjectiveConfig",
    "WrappedClassifier",
    "box_scores",
    "region_logits",
    "texts_as_classes",
    "without_attention",
]
