"""The training objective, term by term: CE + beta·KL + lambda_vq·VQ + lambda_commit·CM, in nats."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from ibviz.config import ObjectiveConfig
from ibviz.models.bottleneck import KL
from ibviz.models.classifier import Draw, IBClassifier, Inspection
from ibviz.types import Images, Labels

Scalar = Float[Tensor, ""]


class Losses(NamedTuple):
    """Batch means: `total`, `cross_entropy` and `rate` in nats, the quantiser's two in squared attention.

    Cross-entropy is against the labels as smoothed. With `kl = "official"`, `rate` is a price and has no unit.
    """

    total: Scalar
    cross_entropy: Scalar
    rate: Scalar
    codebook: Scalar
    commitment: Scalar


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

    def forward(self, images: Images, labels: Labels, draw: Draw) -> Losses:
        """One noisy pass over a batch."""
        return self.losses(self.classifier.decide(images, (1, 1), draw), labels)

    def losses(self, seen: Inspection, labels: Labels) -> Losses:
        """Every term of an inspection."""
        config = self.config
        smoothing = config.label_smoothing
        cross_entropy = F.cross_entropy(seen.logits.float(), labels, label_smoothing=smoothing)
        rate = rate_loss(seen, kl=config.kl)
        codebook, commitment = self._quantizer_losses(seen)
        total = cross_entropy + config.beta * rate + config.codebook * codebook + config.commitment * commitment
        return Losses(total, cross_entropy, rate, codebook, commitment)

    def _quantizer_losses(self, seen: Inspection) -> tuple[Scalar, Scalar]:
        quantizer, values, index = self.classifier.quantizer, seen.gate.values, seen.gate.index
        if quantizer is None or index is None:
            return values.new_zeros(()), values.new_zeros(())
        anchored = quantizer.anchors[index]
        return codebook_loss(values, anchored), commitment_loss(values, anchored)
