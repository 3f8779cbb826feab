"""Learning rate by epoch."""

from ibviz.config import TrainingConfig


def learning_rate(epoch: int, config: TrainingConfig) -> float:
    """Rate of a 1-based epoch: the warm-up's own, then `lr` halved at every multiple of `halve_every`.

    >>> [learning_rate(e, TrainingConfig(lr=0.1, warmup=(0.01,), halve_every=25)) for e in (1, 2, 24, 25, 50)]
    [0.01, 0.1, 0.1, 0.05, 0.025]
    """
    if epoch <= len(config.warmup):
        return config.warmup[epoch - 1]
    return config.lr * 0.5 ** (epoch // config.halve_every)
