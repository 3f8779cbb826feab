"""Training of one batch over several processes and passes, with the result of a single process.

Each pass holds some rows of the batch; random numbers and batch statistics are those of the whole batch.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class BatchShard(NamedTuple):
    """Rows of a whole batch that one pass of one process holds: every `step`-th from `first`."""

    first: int
    step: int
    whole: int  # size of the batch over all processes and passes

    def rows(self, batch: Tensor, count: int | None = None) -> Tensor:
        """Select the rows of this shard from a tensor for the whole batch; only the first `count`, if given.

        >>> BatchShard(1, 2, 5).rows(torch.arange(5))
        tensor([1, 3])
        """
        return batch[self.first :: self.step][:count]

    @torch.compiler.disable()  # it does not support generators; this leaves a single graph break
    def randn(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw standard normal `(draws, rows, ...)` for the whole batch, and return the rows of this shard."""
        draws, count, *rest = shape
        drawn = torch.randn((draws, self.whole, *rest), generator=generator, device=generator.device)
        return self.rows(drawn.transpose(0, 1), count).transpose(0, 1)

    def weight(self, processes: int) -> float:
        """Weight of this shard's mean, so that the sum over passes, averaged over processes, is the batch mean.

        >>> [BatchShard(first, 2, 5).weight(2) for first in (0, 1)]
        [1.2, 0.8]
        """
        return len(range(self.first, self.whole, self.step)) * processes / self.whole


def batch_shards(whole: int, *, process: int, processes: int, passes: int) -> list[BatchShard]:
    """Divide a batch over processes and passes, and return the shards of one process, one per pass.

    Args:
        whole: Size of the batch.
        process: Index of the process.
        processes: Number of processes.
        passes: Passes per batch in each process.

    >>> [list(range(5))[first::step] for first, step, _ in batch_shards(5, process=1, processes=2, passes=2)]
    [[2], [3]]
    """
    return [BatchShard(number + process * passes, processes * passes, whole) for number in range(passes)]


class _Sum(torch.autograd.Function):
    """Sum over all processes: of values in the forward pass, of gradients in the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004 - the signature of autograd
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004 - see above
        return _Sum.apply(*gradients)  # pyright: ignore[reportReturnType] - apply is untyped


class WholeBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on any device, as `torch.nn.SyncBatchNorm` on CUDA.

    Sums are taken in double precision around the common mean, to avoid cancellation.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise by the whole batch in training, by the running statistics otherwise."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        local = values.sum((0, 2, 3), dtype=torch.float64)
        total = _sum(torch.cat([local, local.new_tensor([values.numel() / len(local)])]))
        count = total[-1]
        centred = values - (total[:-1] / count).float()[:, None, None]
        variance = _sum(centred.square().sum((0, 2, 3), dtype=torch.float64)) / count
        self._remember((total[:-1] / count).detach(), (variance * count / (count - 1)).detach())
        scale = torch.rsqrt(variance + self.eps).float() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.float(), self.momentum)
        self.running_var.lerp_(variance.float(), self.momentum)


def _sum(values: Tensor) -> Tensor:
    return _Sum.apply(values)  # pyright: ignore[reportReturnType] - apply is untyped


class WholeBatchDropout(nn.Module):
    """Dropout that draws for the whole batch from torch's generator, and uses the rows of its `shard`."""

    shard = BatchShard(0, 1, 0)

    def __init__(self, probability: float) -> None:
        """Drop values with `probability`, and scale the rest."""
        super().__init__()
        self.probability = probability

    def forward(self, features: Tensor) -> Tensor:
        """Apply dropout in training; return the features unchanged otherwise."""
        if not self.training:
            return features
        shape = (self.shard.whole, *features.shape[1:])
        ones = torch.empty_strided(shape, features.stride(), dtype=features.dtype, device=features.device).fill_(1)
        mask = F.dropout(ones, self.probability)  # the same numbers as a single process would draw for these strides
        return features * self.shard.rows(mask, len(features))


def use_whole_batch_layers(model: nn.Module, *, processes: int, passes: int, device: torch.device) -> None:
    """Replace batch norm and dropout by versions for a batch that is split over processes and passes.

    Names of parameters are unchanged. Layers of other types (stochastic depth, timm's batch norm with activation) are
    not replaced. On CUDA, batch norm becomes torch's `SyncBatchNorm`, which waits for the device in every step.

    Args:
        model: Model to change.
        processes: Number of processes.
        passes: Passes per batch in each process.
        device: Device of the training.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d and processes > 1:
                setattr(parent, name, _whole_batch_norm(child, device))
            if type(child) is nn.Dropout and processes * passes > 1:
                setattr(parent, name, WholeBatchDropout(child.p))


def _whole_batch_norm(norm: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    assert norm.momentum is not None
    whole = WholeBatchNorm(norm.num_features, norm.eps, norm.momentum)
    whole.load_state_dict(norm.state_dict())
    return whole
