"""How methods compare by each metric over some images: estimates, ranks, and how each stands against a control."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ibviz.metrics.metric import MetricFacts
from ibviz.statistics import (
    LEVEL,
    clusters_of,
    estimates,
    pooled,
    ranks,
    separable,
    separation,
    sizes_of,
    standardised,
)

Frame = Any  # a DataFrame; to a type checker nearly all that pandas returns may be a Series as well


class Numbers(NamedTuple):
    """Values of images by metric and method: `(images, columns)`, or `(images, trainings, columns)` of several."""

    values: np.ndarray
    columns: Any  # pandas' index of metrics and methods
    clusters: np.ndarray | None  # number of each image's cluster

    def of(self, which: np.ndarray) -> "Numbers":
        """Some of the columns."""
        return self._replace(values=self.values[..., which], columns=self.columns[which])

    @property
    def units(self) -> int:
        """Independent images or clusters."""
        return len(sizes_of(self.clusters, len(self.values)))


def numbers_of(frames: Sequence[Frame], shared: Frame | None) -> Numbers:
    """The values of a network, or of several with the same images and columns."""
    values = frames[0].to_numpy() if len(frames) == 1 else np.stack([one.to_numpy() for one in frames], axis=1)
    images = frames[0].index
    clusters = None if shared is None else clusters_of(shared.loc[images].to_numpy(), len(images))
    return Numbers(values, frames[0].columns, clusters)


def estimated(numbers: Numbers) -> Frame:
    """Means with intervals, one line a column, and what the images share."""
    from pandas import NA, DataFrame

    values, columns, clusters = numbers
    found = DataFrame(estimates(values, clusters=clusters)._asdict(), index=columns)
    if clusters is None:
        return found.assign(clusters=NA, largest_cluster=np.nan)
    return found.assign(clusters=numbers.units, largest_cluster=sizes_of(clusters, len(values)).max() / len(values))


def compared(numbers: Numbers, controls: Frame, metrics: Mapping[str, MetricFacts]) -> Frame:
    """Rank of each method by each metric, and its distance from the best control, the higher the better."""
    from pandas import concat

    names = numbers.columns.get_level_values("metric")
    return concat([_compared_by(metrics[name].sign, numbers.of(names == name), controls) for name in names.unique()])


def _compared_by(sign: int, numbers: Numbers, controls: Frame) -> Frame:
    from pandas import DataFrame

    oriented, clusters = numbers.values * sign, numbers.clusters
    methods = numbers.columns.get_level_values("method")
    means = np.nan_to_num(estimates(oriented, clusters=clusters).mean, nan=-np.inf)
    p, at_most = separation(oriented, clusters=clusters)
    told = separable(numbers.units, int(np.isfinite(means).sum()))
    found = DataFrame({"rank": ranks(oriented, p) if told else np.nan}, index=numbers.columns)
    control = controls[methods].to_numpy(bool)
    if np.isfinite(means[control]).any():
        best = int(np.where(control, means, -np.inf).argmax())
        differences = (oriented - oriented[..., [best]])[..., ~control]
        effect, p = estimates(differences, clusters=clusters), p[~control, best] if told else p[~control, best] * np.nan
        words = [_verdict(*one, methods[best], told=told) for one in zip(effect.mean, p, strict=True)]
        against = {
            "best_control": methods[best],
            "difference": effect.mean,
            "difference_low": effect.low,
            "difference_high": effect.high,
            "standardised": standardised(pooled(differences)),
            "p": p,
            "p_at_most": at_most[~control, best],
            "verdict": words,
        }
        found = found.join(DataFrame(against, index=numbers.columns[~control]))
    return found


def _verdict(difference: float, p: float, control: str, *, told: bool = True) -> str:
    """In words, how a method stands against a control; not `told` where no test could separate them.

    >>> _verdict(-0.1, 0.04, "centre"), _verdict(0.1, 0.06, "centre"), _verdict(np.nan, np.nan, "centre")
    ('worse than centre', 'not separated from centre', 'not compared with centre')
    """
    if not told:
        return f"cannot be tested against {control}"
    if np.isnan(p):
        return f"not compared with {control}"
    if p > LEVEL:
        return f"not separated from {control}"
    return f"{'better' if difference > 0 else 'worse'} than {control}"
