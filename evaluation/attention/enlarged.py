"""Metrics of maps that are enlarged bilinearly, as other libraries draw them.

A suite of `ibviz evaluate` names them `enlarged.py:AUROC` and `enlarged.py:POINTING`.
"""

from ibviz.metrics import Metric, auroc, pointing_game

AUROC = Metric(
    lambda given: auroc(given.maps, given.regions, enlargement="bilinear"),
    "AUROC, bilinear",
    "probability that a pixel of the object has a higher value than one of the background, of the enlarged map",
    needs="objects",
)
POINTING = Metric(
    lambda given: pointing_game(given.maps, given.regions, enlargement="bilinear").hit,
    "Pointing, bilinear",
    "1 if the highest pixel of the enlarged map lies on or near the object, otherwise 0",
    needs="objects",
)
