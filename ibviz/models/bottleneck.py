"""The Gaussian bottleneck on the latent z, and its KL divergence."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.models.attention import DEVIATION_SHIFT

Latents = Float[Tensor, "*b k"]
Nats = Float[Tensor, "*b"]


def kl_exact(mean: Latents, deviation: Latents) -> Nats:
    """KL( N(mean, deviation²) || N(0, 1) ), summed over the latent dimensions, in nats.

    >>> kl_exact(torch.zeros(1, 4), torch.ones(1, 4))
    tensor([0.])
    """
    floor = torch.finfo(deviation.dtype).tiny  # softplus may underflow to 0, for which the KL would be infinite
    return (0.5 * (deviation.square() + mean.square() - 1) - deviation.clamp_min(floor).log()).sum(-1)


def kl_official(mean: Latents, deviation: Latents) -> Float[Tensor, "*b"]:
    """Compute the rate term of the authors' code, which uses exp(deviation) in place of the deviation.

    It shrinks the noise to zero and does not measure information; for parity only.
    """
    return (0.5 * ((2 * deviation).exp() + mean.square() - 1) - deviation).sum(-1)


KL: dict[str, Callable[[Latents, Latents], Float[Tensor, "*b"]]] = {"exact": kl_exact, "official": kl_official}


def bits(nats: float) -> float:
    """Convert nats to bits.

    >>> round(bits(1.0), 4)
    1.4427
    """
    return nats / math.log(2)


class GaussianBottleneck(nn.Module):
    """q(z | x, a) = N(mean, deviation²) of dimension `latent`; deviation = softplus(raw - 5)."""

    def __init__(self, width: int, latent: int) -> None:
        """Project `width` features to `latent` means and `latent` deviations."""
        super().__init__()
        self.project = nn.Linear(width, 2 * latent)

    def forward(self, features: Float[Tensor, "b width"]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Return mean and deviation of z."""
        mean, raw = self.project(features).chunk(2, dim=-1)
        return mean, F.softplus(raw - DEVIATION_SHIFT)
