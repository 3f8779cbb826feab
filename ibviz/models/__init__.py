"""Classifiers: networks cut at an attended feature, their objective, their checkpoints, other people's weights.

`ibviz.load`, `ibviz.wrap` and `ibviz.attach` make them.
"""

from ibviz.config import ObjectiveConfig
from ibviz.models.attach import without_attention
from ibviz.models.classifier import IBClassifier, Inspection
from ibviz.models.loading import WrappedClassifier
from ibviz.models.objective import Objective

__all__ = ["IBClassifier", "Inspection", "Objective", "ObjectiveConfig", "WrappedClassifier", "without_attention"]
