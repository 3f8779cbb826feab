"""Classifiers: networks cut at an attended feature, their objective, their checkpoints, other people's weights.

`ibviz.load`, `ibviz.wrap` and `ibviz.attach` make them.
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
