"""Gradients of the target with respect to the pixels, through Captum."""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ibviz.types import Images, Labels, Maps

Steps = Annotated[int, Field(ge=1)]


def integrated_gradients(model: nn.Module, images: Images, targets: Labels, *, steps: Steps = 32) -> Maps:
    """Integrated gradients of the logit from a black image (Sundararajan 2017), summed over colours, signed.

    The native grid is that of the pixels. The sum over a map approaches f(image) - f(black) as `steps` grow.
    """
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - a second to import

    inputs = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        method = IntegratedGradients(model)
        parts = method.attribute(inputs, baselines=0.0, target=targets, n_steps=steps, internal_batch_size=len(images))
    return cast(Tensor, parts).detach().sum(1).float()
