"""Metrics of maps enlarged bilinearly, as other libraries draw them, and attention averaged with the mirror image's.

A suite of `ibviz evaluate` names them `extras.py:AUROC`, `extras.py:POINTING` and `extras.py:mirrored`.
"""

from ibviz.attribution.intrinsic import attention_mean
from ibviz.metrics import Metric, auroc, pointing_game
from ibviz.models.loading import Classifier
from ibviz.types import Images, Maps

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


def mirrored(model: Classifier, images: Images) -> Maps:
    """Mean of the attention of an image and of its mirror image, turned back."""
    own, other = (attention_mean(model, views) for views in (images, images.flip(3)))
    return (own + other.flip(2)) / 2
