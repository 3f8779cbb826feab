"""The training objective, term by term, in nats.

    CE + beta·KL + codebook·VQ + commitment·CM + share·(attention_price·A + capacity·C)

CE is the cross-entropy, KL the rate of the latent, VQ and CM the two losses of the quantiser (Lai et al. 2021). A and C
are ours: the mean attention that entered the network, and the mean over units of `ibviz.models.gate.capacity`. Without
a price on being open, nothing in the objective decides where the attention lies. `share` rises from 0 to 1 in training.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.config import ObjectiveConfig
from ibviz.models.bottleneck import KL
from ibviz.models.classifier import IBClassifier, Inspection
from ibviz.models.gate import NormalSampler, capacity
from ibviz.types import Inputs, Labels

Scalar = Float[Tensor, ""]


class Losses(NamedTuple):
    """Batch means: `total`, `cross_entropy`, `rate` and `capacity` in nats, the quantiser's two in squared attention.

    Cross-entropy is against the labels as smoothed; with `kl = "official"`, `rate` is a price and has no unit.
    `attention` is a mean, in [0, 1]; `capacity`, per unit, is 0 if it has no price.
    """

    total: Scalar
    cross_entropy: Scalar
    rate: Scalar
    codebook: Scalar
    commitment: Scalar
    attention: Scalar
    capacity: Scalar


def codebook_loss(values: Float[Tensor, "*cells"], anchored: Float[Tensor, "*cells"]) -> Scalar:
    """Mean squared distance that moves the anchors towards the attention."""
    return F.mse_loss(anchored, values.detach())


def commitment_loss(values: Float[Tensor, "*cells"], anchored: Float[Tensor, "*cells"]) -> Scalar:
    """The same number, but it moves the attention towards the anchors."""
    return F.mse_loss(values, anchored.detach())


def rate_loss(seen: Inspection, *, kl: str) -> Scalar:
    """Mean price of the latent: its rate in nats (`exact`), or the authors' `official` form, which has no unit."""
    return KL[kl](seen.latent_mean.float(), seen.latent_deviation.float()).mean()


class Objective(nn.Module):
    """The loss of a classifier as one module, so that data-parallel wrappers see a plain forward pass."""

    def __init__(self, classifier: IBClassifier, config: ObjectiveConfig) -> None:
        """Weigh the terms by `config`."""
        super().__init__()
        self.classifier, self.config = classifier, config

    def forward(self, images: Inputs, labels: Labels, draw: NormalSampler, share: Scalar | float = 1.0) -> Losses:
        """Return the losses of one noisy pass over a batch, with this share of the attention's price."""
        return self.losses(self.classifier.decide(images, (1, 1), draw), labels, share)

    def losses(self, seen: Inspection, labels: Labels, share: Scalar | float = 1.0) -> Losses:
        """Return every term of an inspection."""
        config = self.config
        smoothing = config.label_smoothing
        cross_entropy = F.cross_entropy(seen.logits.float(), labels, label_smoothing=smoothing)
        rate = rate_loss(seen, kl=config.kl)
        codebook, commitment = self._quantizer_losses(seen)
        attention = seen.gate.entered.float().mean()
        passed = capacity(seen.gate.entered.float()).mean() if config.capacity else attention.new_zeros(())
        total = cross_entropy + config.beta * rate + config.codebook * codebook + config.commitment * commitment
        if config.attention_price or config.capacity:
            total = total + share * (config.attention_price * attention + config.capacity * passed)
        return Losses(total, cross_entropy, rate, codebook, commitment, attention, passed)

    def _quantizer_losses(self, seen: Inspection) -> tuple[Scalar, Scalar]:
        quantizer, values, index = self.classifier.quantizer, seen.gate.values, seen.gate.index
        if quantizer is None or index is None:
            return values.new_zeros(()), values.new_zeros(())
        anchored = quantizer.anchors[index]
        return codebook_loss(values, anchored), commitment_loss(values, anchored)
