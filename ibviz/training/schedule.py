"""Learning rate by epoch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ibviz.config import TrainingConfig

_LEARNED = 0.9  # of the cross-entropy of chance: an epoch below it has begun to learn


def learning_rate(epoch: int, config: TrainingConfig, *, within: float = 0.0) -> float:
    """Rate of a 1-based epoch: the warm-up's own, then `lr` as the schedule has it.

    `within` is the share of the epoch's steps already taken, which only the cosine looks at.

    >>> [learning_rate(e, TrainingConfig(lr=0.1, warmup=(0.01,))) for e in (1, 2, 3, 6)]  # halved every 3 epochs
    [0.01, 0.1, 0.05, 0.025]
    """
    warm = len(config.warmup)
    if epoch <= warm:
        return config.warmup[epoch - 1]
    progress = (epoch - 1 + within - warm) / (config.epochs - warm)
    return config.lr * _SHARES[config.schedule.kind](config.schedule, epoch, progress)


# Share of `lr` from a schedule, a 1-based epoch and the way from warm-up to end in [0, 1).
_SHARES: dict[str, Callable[[Any, int, float], float]] = {
    "halve": lambda schedule, epoch, _: 0.5 ** (epoch // schedule.every),
    "step": lambda schedule, epoch, _: schedule.factor ** ((epoch - 1) // schedule.every),
    "milestones": lambda schedule, epoch, _: schedule.factor ** sum(epoch > after for after in schedule.after),
    "cosine": lambda _, __, progress: (1 + math.cos(math.pi * progress)) / 2,
}


def price_share(passed: float, losses: Sequence[float], classes: int, *, warmup: float, epochs: int) -> float:
    """Return the share of the attention's price that counts after `passed` epochs, in [0, 1].

    It is 0 until an epoch has ended with a mean cross-entropy below nine tenths of that of chance, then rises evenly
    over `warmup` of all `epochs`: a price on a network that has learned nothing yet closes its attention for good.
    With `warmup = 0` the whole price counts from the first step.

    Args:
        passed: Epochs finished, and the part of the present one.
        losses: Mean training cross-entropy of each finished epoch, in nats.
        classes: Number of classes.
        warmup: Share of the training.
        epochs: Length of the training.

    >>> [price_share(passed, [2.3, 1.5], 10, warmup=0.5, epochs=8) for passed in (2.0, 4.0, 7.0)]
    [0.0, 0.5, 1.0]
    """
    if not warmup:
        return 1.0
    learned = (epoch for epoch, loss in enumerate(losses, 1) if loss < _LEARNED * math.log(classes))
    start = next(learned, None)
    return 0.0 if start is None else min(1.0, max(0.0, (passed - start) / (warmup * epochs)))
