"""Gates: the effect of attention on the features of a cell, from open (1) to closed (0).

| gate | features after it | source |
| --- | --- | --- |
| residual | f·(1 + a) | published (Lai et al. 2021); later layers can undo it |
| mul | f·a | ours |
| mean | a·f + (1 - a)·m, with m the mean of each channel over images and cells | ours |
| noise | a·f + (1 - a)·e, with e normal with the channel's mean and deviation | amortised IBA (Schulz 2020) |

In `eval()` there is no noise, and the gate "noise" equals the gate "mean".

Batch norm that trains behind the gate divides a factor common to all maps out again. There, a price on open attention
has no effect with "mul" and "mean", and "noise" is the gate to take (evaluation/results/attention).
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.types import FeatureMaps

NormalSampler = Callable[[tuple[int, ...]], Tensor]  # returns standard normal numbers of a shape, on the images' device
_MIN_WEIGHT = 0.01  # weight of a new batch in the running statistics after the first hundred


def capacity(attention: Float[Tensor, "*cells"]) -> Float[Tensor, "*cells"]:
    """Compute the capacity of a unit of the noise gate in nats: KL(N(a·r, (1 - a)²) || N(0, 1)) for a mean r² of 1.

    This is ½[(1 - a)² + a² - 1] - ln(1 - a), the cost of Schulz et al. (2020) for features of unit variance: with the
    actual r², cells of bright objects would cost more. Attention is clipped at 0.999.

    >>> capacity(torch.tensor([0.0, 0.5]))
    tensor([0.0000, 0.4431])
    """
    passed = attention.clamp(max=0.999)
    closed = 1 - passed
    return 0.5 * (closed.square() + passed.square() - 1) - closed.log()


class ChannelStatistics(nn.Module):
    """Running mean and deviation of each channel over images and cells, stored in the checkpoint.

    The first hundred batches have equal weight; later, a new batch has the weight 0.01. No gradient passes. With
    several processes, the statistics cover the images of all.
    """

    mean: Float[Tensor, " c"]
    deviation: Float[Tensor, " c"]
    batches: Tensor

    def __init__(self, channels: int) -> None:
        """Start with mean 0 and deviation 1, which the first batch replaces."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("batches", torch.tensor(0))

    @torch.no_grad()
    def update(self, features: FeatureMaps) -> None:
        """Update the statistics with a batch."""
        values = features.double()
        sums = [values.sum((0, 2, 3)), values.square().sum((0, 2, 3))]
        totals = torch.cat([*sums, values.new_tensor([values.numel() / values.shape[1]])])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
        mean, square = (totals[:-1] / totals[-1]).chunk(2)
        self.batches.add_(1)
        weight = (1 / self.batches).clamp(min=_MIN_WEIGHT)
        self.mean.lerp_(mean.to(self.mean), weight.to(self.mean))
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        self.deviation.lerp_(deviation.to(self.deviation), weight.to(self.deviation))


class FeatureGate(nn.Module):
    """Gate of the features by attention maps, in one of four ways (see the module).

    It has no `forward`, so that methods that search for layers with a grid do not find it.
    """

    def __init__(self, kind: str, channels: int) -> None:
        """Create the statistics of the channels if the gate needs them."""
        super().__init__()
        self.kind = kind
        self.statistics = ChannelStatistics(channels) if kind in ("mean", "noise") else None

    def gated(
        self, features: FeatureMaps, attention: Float[Tensor, "s b gh gw"], draw: NormalSampler | None = None
    ) -> Float[Tensor, "sb c gh gw"]:
        """Return the features gated by each of `s` maps per image; `draw` returns noise for the gate "noise"."""
        attention = attention.unsqueeze(2)
        if self.statistics is None:
            return (features * (1 + attention if self.kind == "residual" else attention)).flatten(0, 1)
        if self.training:
            self.statistics.update(features)
        closed = self.statistics.mean.to(features.dtype).view(-1, 1, 1)
        if self.kind == "noise" and draw is not None:
            deviation = self.statistics.deviation.to(features.dtype).view(-1, 1, 1)
            closed = closed + deviation * draw((len(attention), *features.shape)).to(features.dtype)
        return (attention * features + (1 - attention) * closed).flatten(0, 1)
