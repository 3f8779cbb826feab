"""Schedules of the learning rate and of the attention's price."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ibviz.training.recipe import TrainingConfig

_LEARNED = 0.9  # a network whose cross-entropy is below this fraction of chance has begun to learn


def learning_rate(epoch: int, config: TrainingConfig, *, within: float = 0.0) -> float:
    """Learning rate of a 1-based epoch: first the warm-up's rates, then `lr` scaled by the schedule.

    `within` is the fraction of the epoch's steps already taken, which only the cosine schedule uses.

    >>> [learning_rate(e, TrainingConfig(lr=0.1, warmup=(0.01,))) for e in (1, 2, 3, 6)]  # halved every 3 epochs
    [0.01, 0.1, 0.05, 0.025]
    """
    warm = len(config.warmup)
    if epoch <= warm:
        return config.warmup[epoch - 1]
    progress = (epoch - 1 + within - warm) / (config.epochs - warm)
    return config.lr * _SHARES[config.schedule.kind](config.schedule, epoch, progress)


# Factor on `lr`, from the schedule, the 1-based epoch and the progress from warm-up to end in [0, 1).
_SHARES: dict[str, Callable[[Any, int, float], float]] = {
    "halve": lambda schedule, epoch, _: 0.5 ** (epoch // schedule.every),
    "step": lambda schedule, epoch, _: schedule.factor ** ((epoch - 1) // schedule.every),
    "milestones": lambda schedule, epoch, _: schedule.factor ** sum(epoch > after for after in schedule.after),
    "cosine": lambda _, __, progress: (1 + math.cos(math.pi * progress)) / 2,
}


def price_share(passed: float, losses: Sequence[float], classes: int, *, warmup: float, epochs: int) -> float:
    """Return the factor on the attention's price after `passed` epochs, in [0, 1].

    It is 0 until the mean cross-entropy of an epoch is below nine tenths of chance, then rises linearly over the
    fraction `warmup` of the training: a price on a network that has not yet learned anything closes its attention for
    good. With `warmup = 0` it is always 1.

    Args:
        passed: Number of epochs so far, including the fraction of the current one.
        losses: Mean training cross-entropy of each finished epoch, in nats.
        classes: Number of classes.
        warmup: Fraction of the training over which the price rises.
        epochs: Length of the training.

    >>> [price_share(passed, [2.3, 1.5], 10, warmup=0.5, epochs=8) for passed in (2.0, 4.0, 7.0)]
    [0.0, 0.5, 1.0]
    """
    if not warmup:
        return 1.0
    learned = (epoch for epoch, loss in enumerate(losses, 1) if loss < _LEARNED * math.log(classes))
    start = next(learned, None)
    return 0.0 if start is None else min(1.0, max(0.0, (passed - start) / (warmup * epochs)))
