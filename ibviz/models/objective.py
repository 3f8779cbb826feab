"""The training objective and its terms, in nats.

    CE + beta·KL + codebook·VQ + commitment·CM + share·(attention_price·A + capacity·C)

CE is the cross-entropy, KL the rate of the latent, VQ and CM the two losses of the quantiser (Lai et al. 2021). A and C
are our additions: the mean attention that enters the network, and the mean of `ibviz.models.gate.capacity`. Without
such a price on open attention, the objective does not decide where the attention lies. `share` rises from 0 to 1 during
training.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.models.bottleneck import KL
from ibviz.models.classifier import IBClassifier, Inspection
from ibviz.models.config import ObjectiveConfig
from ibviz.models.gate import NormalSampler, capacity
from ibviz.types import Inputs, Labels

Scalar = Float[Tensor, ""]


class Losses(NamedTuple):
    """Means of all terms over a batch.

    `total`, `cross_entropy` (against smoothed labels), `rate` and `capacity` (per unit; 0 if it has no price) are in
    nats, the two losses of the quantiser in squared attention, and `attention` is in [0, 1]. With `kl = "official"`,
    `rate` has no unit.
    """

    total: Scalar
    cross_entropy: Scalar
    rate: Scalar
    codebook: Scalar
    commitment: Scalar
    attention: Scalar
    capacity: Scalar


def codebook_loss(values: Float[Tensor, "*cells"], anchored: Float[Tensor, "*cells"]) -> Scalar:
    """Mean squared distance between attention and anchors; its gradient moves the anchors."""
    return F.mse_loss(anchored, values.detach())


def commitment_loss(values: Float[Tensor, "*cells"], anchored: Float[Tensor, "*cells"]) -> Scalar:
    """Mean squared distance between attention and anchors; its gradient moves the attention."""
    return F.mse_loss(values, anchored.detach())


def rate_loss(inspection: Inspection, *, kl: str) -> Scalar:
    """Mean rate of the latent: in nats (`exact`), or the authors' `official` form, which has no unit."""
    return KL[kl](inspection.latent_mean.float(), inspection.latent_deviation.float()).mean()


class Objective(nn.Module):
    """Classifier and loss in one module, so that data-parallel wrappers see a plain forward pass."""

    def __init__(self, classifier: IBClassifier, config: ObjectiveConfig) -> None:
        """Weight the terms by `config`."""
        super().__init__()
        self.classifier, self.config = classifier, config

    def forward(self, images: Inputs, labels: Labels, draw: NormalSampler, share: Scalar | float = 1.0) -> Losses:
        """Compute the losses of one noisy pass over a batch.

        Args:
            images: Images, or stored features for a classifier of `after_gate`.
            labels: Class of each image.
            draw: Source of the noise.
            share: Factor on the attention's price, in [0, 1].
        """
        return self.losses(self.classifier.decide(images, (1, 1), draw), labels, share)

    def losses(self, inspection: Inspection, labels: Labels, share: Scalar | float = 1.0) -> Losses:
        """Compute all terms from the results of a pass."""
        config = self.config
        smoothing = config.label_smoothing
        cross_entropy = F.cross_entropy(inspection.logits.float(), labels, label_smoothing=smoothing)
        rate = rate_loss(inspection, kl=config.kl)
        codebook, commitment = self._quantizer_losses(inspection)
        attention = inspection.gate.entered.float().mean()
        passed = capacity(inspection.gate.entered.float()).mean() if config.capacity else attention.new_zeros(())
        total = cross_entropy + config.beta * rate + config.codebook * codebook + config.commitment * commitment
        if config.attention_price or config.capacity:
            total = total + share * (config.attention_price * attention + config.capacity * passed)
        return Losses(total, cross_entropy, rate, codebook, commitment, attention, passed)

    def _quantizer_losses(self, inspection: Inspection) -> tuple[Scalar, Scalar]:
        quantizer, values, index = self.classifier.quantizer, inspection.gate.values, inspection.gate.index
        if quantizer is None or index is None:
            return values.new_zeros(()), values.new_zeros(())
        anchored = quantizer.anchors[index]
        return codebook_loss(values, anchored), commitment_loss(values, anchored)
