"""Learning rate by epoch."""

import math
from collections.abc import Callable
from typing import Any

from ibviz.config import TrainingConfig


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
    return config.lr * SHARES[config.schedule.kind](config.schedule, epoch, progress)


# Share of `lr` from a schedule, a 1-based epoch and the way from warm-up to end in [0, 1).
SHARES: dict[str, Callable[[Any, int, float], float]] = {
    "halve": lambda schedule, epoch, _: 0.5 ** (epoch // schedule.every),
    "step": lambda schedule, epoch, _: schedule.factor ** ((epoch - 1) // schedule.every),
    "milestones": lambda schedule, epoch, _: schedule.factor ** sum(epoch > after for after in schedule.after),
    "cosine": lambda _, __, progress: (1 + math.cos(math.pi * progress)) / 2,
}
