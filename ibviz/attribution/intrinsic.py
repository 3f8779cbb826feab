"""The attention a classifier was trained with, read off the model itself."""

import torch
from torch import nn

from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.types import AttentionMap, Images, Labels, Maps


def attention(model: nn.Module, images: Images, targets: Labels) -> AttentionMap:
    """Trained attention, quantised to its anchors where the model has them; the same for every target.

    Raises `InputError` for a network without attention of its own.
    """
    del targets  # the map is made before any class is considered
    if not isinstance(model, IBClassifier):
        raise InputError(f"{type(model).__name__} has no trained attention; choose another method, such as grad_cam, "
                         "or a model trained with `ibviz train`")  # fmt: skip
    with torch.no_grad():
        return model.inspect(images).attention


def attention_mean(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Mean of the trained attention, before the quantiser; in (0, 1)."""
    return attention(model, images, targets).mean.float()
