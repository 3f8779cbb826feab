"""The classifier whose spatial attention passes an information bottleneck (Lai et al., IJCAI 2021)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ibviz.config import InputConfig, ModelConfig
from ibviz.models.attention import SpatialAttention
from ibviz.models.backbones import BACKBONES
from ibviz.models.bottleneck import GaussianBottleneck, kl_exact
from ibviz.models.quantizer import AnchorQuantizer, nearest_anchor
from ibviz.types import AttentionMap, Images, Scores


class Noise(NamedTuple):
    """Standard normal draws: S_a for each cell of the attention, then S_z for each latent of the S_a·b rows."""

    attention: Float[Tensor, "sa b gh gw"]
    latent: Float[Tensor, "sz sa*b k"]


@dataclass(frozen=True)
class Gate:
    """Attention as it entered the network, one slice a draw; `index` is None for a continuous model."""

    values: Float[Tensor, "s b gh gw"]  # before the quantiser
    index: Int[Tensor, "s b gh gw"] | None


class Inspection(NamedTuple):
    """Everything a forward pass knows; the latents have one row for each attention draw and image."""

    logits: Float[Tensor, "b classes"]  # mean over all draws
    attention: AttentionMap  # deterministic, also when the pass sampled
    gate: Gate
    latent_mean: Float[Tensor, "s b k"]
    latent_deviation: Float[Tensor, "s b k"]
    rate: Scores  # nats, exact KL, mean over attention draws


class Normalize(nn.Module):
    """[0, 1] pixels to the network's own range; constants travel in the checkpoint."""

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Keep one mean and deviation a channel."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Images) -> Images:
        """Subtract the mean, divide by the deviation."""
        return (images - self.mean) / self.std


Features = Float[Tensor, "b c gh gw"]
GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "residual": lambda features, gate: features * (1 + gate),
    "mul": lambda features, gate: features * gate,
}


class IBClassifier(nn.Module):
    """Logits of [0, 1] images, through attention and a Gaussian bottleneck.

    `forward` gives logits alone, `inspect` the named parts. In `eval()` both are deterministic: the attention mean is
    quantised and the latent mean decoded. In `train()` one draw of each is taken.

    >>> spec = InputConfig(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=tuple("0123456789"))
    >>> model = IBClassifier(ModelConfig(anchors=5), spec).eval()
    >>> seen = model.inspect(torch.rand(2, 3, 48, 48))
    >>> seen.attention.values().shape, seen.logits.shape
    (torch.Size([2, 12, 12]), torch.Size([2, 10]))
    """

    def __init__(self, config: ModelConfig, spec: InputConfig) -> None:
        """Build from what a checkpoint stores."""
        super().__init__()
        parts = BACKBONES[config.backbone](config, len(spec.class_names))
        self.config, self.spec = config, spec
        self.normalize = Normalize(spec.mean, spec.std)
        self.stem = parts.stem
        self.attention = SpatialAttention(parts.head)
        self.quantizer = None if config.anchors is None else AnchorQuantizer(config.anchors)
        self.encoder = parts.encoder
        self.bottleneck = GaussianBottleneck(parts.width, config.latent)
        self.decoder = parts.decoder
        if parts.initialise is not None:
            self.apply(parts.initialise)

    def forward(
        self, images: Images, *, samples: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b classes"]:
        """Logits, averaged over draws where `samples` asks for them."""
        return self.inspect(images, samples=samples, generator=generator).logits

    def inspect(
        self, images: Images, *, samples: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> Inspection:
        """Run the network and keep its parts.

        `samples=(S_a, S_z)` draws S_a attention maps and S_z latents for each from `generator` (None: torch's own).
        """
        features = self.stem(self.normalize(images))
        if samples is None and self.training:
            samples = (1, 1)
        return self.decide(features, samples and self.draw(features, samples, generator))

    def draw(self, features: Features, samples: tuple[int, int], generator: torch.Generator | None) -> Noise:
        """Noise for `decide`; first the attention's, then the latent's."""
        (draws, latent_draws), (count, _, *grid) = samples, features.shape
        shapes = (draws, count, *grid), (latent_draws, draws * count, self.config.latent)
        return Noise(*(torch.randn(shape, generator=generator, device=features.device) for shape in shapes))

    def decide(self, features: Features, noise: Noise | None = None) -> Inspection:
        """From tapped features to logits; with given noise, or from the means where it is None."""
        mean, deviation = self.attention(features)
        values = mean.unsqueeze(0) if noise is None else mean + deviation * noise.attention
        gate, index = (values, None) if self.quantizer is None else self.quantizer(values)
        gated = GATES[self.config.gate](features, gate.unsqueeze(2))
        latent_mean, latent_deviation = self.bottleneck(self.encoder(gated.flatten(0, 1)))
        latent = latent_mean.unsqueeze(0) if noise is None else latent_mean + latent_deviation * noise.latent
        rows = values.shape[:2]
        latent_mean, latent_deviation = latent_mean.unflatten(0, rows), latent_deviation.unflatten(0, rows)
        return Inspection(
            logits=self.decoder(latent).unflatten(1, rows).mean((0, 1)),
            attention=self._attention_map(mean, deviation),
            gate=Gate(values, index),
            latent_mean=latent_mean,
            latent_deviation=latent_deviation,
            rate=kl_exact(latent_mean.float(), latent_deviation.float()).mean(0),
        )

    def _attention_map(self, mean: Tensor, deviation: Tensor) -> AttentionMap:
        if self.quantizer is None:
            return AttentionMap(mean, deviation, None, None)
        anchors = self.quantizer.anchors.detach()
        return AttentionMap(mean, deviation, nearest_anchor(mean, anchors), anchors)
