"""The classifier whose spatial attention passes an information bottleneck (Lai et al., IJCAI 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from jaxtyping import Float, Int
from torch import Tensor, nn

from ibviz.errors import InputError
from ibviz.models.attention import SpatialAttention
from ibviz.models.backbones import Parts
from ibviz.models.bottleneck import GaussianBottleneck, kl_exact
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.models.gate import FeatureGate, NormalSampler
from ibviz.models.gated_network import build_parts
from ibviz.models.quantizer import AnchorQuantizer, nearest_anchor
from ibviz.types import AttentionMap, Images, Inputs, Scores


@dataclass(frozen=True)
class Gate:
    """Attention as it entered the network, one slice per draw; `index` is None for a continuous model."""

    values: Float[Tensor, "s b gh gw"]  # before the quantiser
    index: Int[Tensor, "s b gh gw"] | None
    entered: Float[Tensor, "s b gh gw"]  # after the quantiser, with the gradient of `values`


class Inspection(NamedTuple):
    """All results of a forward pass; the latents have one row per attention draw and image."""

    logits: Float[Tensor, "b classes"]  # mean over all draws
    attention: AttentionMap  # deterministic, even if the pass samples
    gate: Gate
    latent_mean: Float[Tensor, "s b k"]
    latent_deviation: Float[Tensor, "s b k"]
    rate: Scores  # nats, exact KL, mean over attention draws


class Normalize(nn.Module):
    """Normalisation of [0, 1] pixels to the network's range and precision; its constants are in the checkpoint."""

    mean: Float[Tensor, "colours 1 1"]
    std: Float[Tensor, "colours 1 1"]

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Store one mean and deviation per channel."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Images) -> Images:
        """Subtract the mean, divide by the deviation, and convert to the precision of the network."""
        return ((images - self.mean) / self.std).to(self.mean.dtype)


HUB_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token")


class Attended(NamedTuple):
    """Attention of a batch, and its gated features."""

    attention: AttentionMap
    gate: Gate
    features: Float[Tensor, "sb c gh gw"]


class IBClassifier(nn.Module, ModelHubMixin):
    """Classifier of [0, 1] images with spatial attention and a Gaussian bottleneck.

    `forward` returns logits alone, `inspect` all parts. In `eval()` both are deterministic: the attention mean is
    quantised and the latent mean decoded. In `train()` one draw of each is taken. `layer` names the submodule whose
    output is gated.

    >>> spec = InputConfig(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=tuple("0123456789"))
    >>> model = IBClassifier(ModelConfig(anchors=5), spec).eval()
    >>> inspection = model.inspect(torch.rand(2, 3, 48, 48))
    >>> inspection.attention.values().shape, inspection.logits.shape
    (torch.Size([2, 12, 12]), torch.Size([2, 10]))
    """

    def __init__(self, config: ModelConfig, spec: InputConfig, parts: Parts | None = None) -> None:
        """Build from the configuration of a checkpoint, or around given parts (see `ibviz.attach`)."""
        super().__init__()
        parts = parts or build_parts(config, spec)
        self.config, self.spec, self.layer = config, spec, f"network.{parts.layer}"
        self.facts: Mapping[str, Any] = {}  # about its training, from its file
        self.normalize = Normalize(spec.mean, spec.std)
        self.network = parts.network
        self.attention = SpatialAttention(parts.head, config.smoothing)
        self.gate = FeatureGate(config.gate, parts.channels)
        self.quantizer = None if config.anchors is None else AnchorQuantizer(config.anchors)
        self.bottleneck = GaussianBottleneck(parts.width, config.latent)
        self.decoder = parts.decoder
        if parts.initialise is not None:
            parts.initialise(self)
        if config.open_at_start is not None:
            self.attention.open_at(config.open_at_start)

    def forward(
        self, images: Inputs, *, samples: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "rows classes"]:
        """Return logits, averaged over draws if `samples` is given; one row per image (more if hooks repeat rows)."""
        return self.inspect(images, samples=samples, generator=generator).logits

    def inspect(
        self, images: Inputs, *, samples: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> Inspection:
        """Run the network and return all its results.

        `samples=(S_a, S_z)` draws S_a attention maps, and S_z latents for each, from `generator` (None: torch's own).
        """
        if samples is None and self.training:
            samples = (1, 1)
        return self.decide(images, samples, partial(torch.randn, generator=generator, device=images.device))

    def decide(self, images: Inputs, samples: tuple[int, int] | None, draw: NormalSampler) -> Inspection:
        """Run one pass, deterministic if `samples` is None; `draw` returns noise of a given shape, recorded or new.

        The noise of the attention `(S_a, b, gh, gw)` is drawn first and that of the latents `(S_z, S_a·b, k)` last; in
        training with the gate "noise", that of the features `(S_a, b, c, gh, gw)` is drawn in between.
        """
        kept: list[Attended] = []

        def gate(features: Tensor) -> Tensor:
            kept.append(self._attend(features, samples, draw))
            return kept[0].features

        latent_mean, latent_deviation = self.bottleneck(self.network(self.normalize(images), gate))
        latent = latent_mean.unsqueeze(0)
        if samples is not None:
            latent = latent_mean + latent_deviation * draw((samples[1], *latent_mean.shape))
        rows = (1 if samples is None else samples[0], -1)  # images, or more rows if a hook repeats them
        latent_mean, latent_deviation = latent_mean.unflatten(0, rows), latent_deviation.unflatten(0, rows)
        return Inspection(
            logits=self.decoder(latent).unflatten(1, rows).mean((0, 1)),
            attention=kept[0].attention,
            gate=kept[0].gate,
            latent_mean=latent_mean,
            latent_deviation=latent_deviation,
            rate=kl_exact(latent_mean.float(), latent_deviation.float()).mean(0),
        )

    def with_gate(self, images: Inputs, values: Float[Tensor, "s b gh gw"]) -> Float[Tensor, "s b classes"]:
        """Return logits with given values instead of the attention, `s` maps per image, through the latent mean.

        The network runs once up to the gate. With `inspect(images).attention.values()[None]` these are the logits of
        `model(images)` in eval mode. Raises `InputError` if the grid or the number of images differs.
        """

        def gate(features: Tensor) -> Tensor:
            expected = (len(features), *features.shape[2:])
            if values.shape[1:] != expected:
                raise InputError(
                    f"values for the gate are (maps, images, rows, columns), here (any, "
                    f"{', '.join(map(str, expected))}); got {tuple(values.shape)}"
                )
            return self.gate.gated(features, values.to(features.dtype))

        latent_mean, _ = self.bottleneck(self.network(self.normalize(images), gate))
        return self.decoder(latent_mean).unflatten(0, values.shape[:2])

    def _save_pretrained(self, save_directory: Path) -> None:
        from ibviz.models.checkpoint import save_model

        save_model(save_directory / "model.safetensors", self, self.facts)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **where: Any) -> "IBClassifier":
        from ibviz.models.checkpoint import load_model

        if Path(model_id).is_dir():
            return load_model(Path(model_id) / "model.safetensors")
        kept = {name: value for name, value in where.items() if name in HUB_OPTIONS}
        return load_model(Path(hf_hub_download(model_id, "model.safetensors", **kept)))

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Return the README of a saved model: recipe, data, accuracy and anchors, as far as they are known."""
        from ibviz.models.checkpoint import model_card

        return model_card(self)

    def _attend(self, features: Tensor, samples: tuple[int, int] | None, draw: NormalSampler) -> Attended:
        mean, deviation = self.attention(features)
        values = mean.unsqueeze(0) if samples is None else mean + deviation * draw((samples[0], *mean.shape))
        entered, index = (values, None) if self.quantizer is None else self.quantizer(values)
        gated = self.gate.gated(features, entered, draw if self.training else None)
        return Attended(self._attention_map(mean, deviation), Gate(values, index, entered), gated)

    def _attention_map(self, mean: Tensor, deviation: Tensor) -> AttentionMap:
        if self.quantizer is None:
            return AttentionMap(mean, deviation, None, None)
        anchors = self.quantizer.anchors.detach()
        return AttentionMap(mean, deviation, nearest_anchor(mean, anchors), anchors)
