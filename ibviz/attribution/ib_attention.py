"""Trained attention as an attribution of Captum, in a module of its own since Captum takes a second to import."""

import warnings
from functools import cache
from typing import Any, Literal

from captum.attr import Attribution
from captum.log import log_usage  # pyright: ignore[reportAttributeAccessIssue] - chosen when imported
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ibviz.attribution.intrinsic import attention
from ibviz.models.classifier import IBClassifier
from ibviz.models.hooks import evaluating
from ibviz.types import Images


class IBAttention(Attribution):
    """Attention of an `IBClassifier` with Captum's interface, for its tools, such as `NoiseTunnel`.

    >>> import torch
    >>> from ibviz.models.config import InputConfig, ModelConfig
    >>> spec = InputConfig(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=tuple("0123456789"))
    >>> IBAttention(IBClassifier(ModelConfig(), spec)).attribute(torch.rand(2, 3, 48, 48)).shape
    torch.Size([2, 1, 12, 12])
    """

    def __init__(self, model: IBClassifier) -> None:
        """Keep the classifier; it runs in eval mode and is left as it was."""
        super().__init__(model)
        self.model = model

    @log_usage()  # NoiseTunnel calls what it wraps
    def attribute(  # pyright: ignore[reportIncompatibleVariableOverride] - Captum declares it as an attribute
        self, inputs: Images, target: Any = None, upsample: Literal["nearest", "bilinear"] | None = None
    ) -> Float[Tensor, "b 1 gh gw"]:
        """Return the attention, quantised if the model has anchors.

        Args:
            inputs: Images `(b, channels, h, w)` in [0, 1].
            target: Ignored: the map does not depend on the class. The first call with one in a process warns.
            upsample: Interpolation to the size of the images; if None, the map stays on its own grid.

        Returns:
            Attention in the range of the anchors, or in (0, 1) without anchors.
        """
        if target is not None:
            _warn_of_target()
        with evaluating(self.model):
            maps = attention(self.model, inputs).values().unsqueeze(1)
        return maps if upsample is None else F.interpolate(maps, inputs.shape[2:], mode=upsample)


@cache
def _warn_of_target() -> None:
    warnings.warn("trained attention is made before any class is considered; `target` changes nothing", stacklevel=4)
