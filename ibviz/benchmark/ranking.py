"""Comparisons of methods by each metric: estimates, ranks, and the difference of each from the best control."""

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

Frame = Any  # a pandas DataFrame; Any, since to a type checker most results of pandas may also be a Series


class Numbers(NamedTuple):
    """Values per image of each metric and method: `(images, columns)`, or `(images, trainings, columns)`."""

    values: np.ndarray
    columns: Any  # a pandas index of metrics and methods
    clusters: np.ndarray | None  # number of each image's cluster

    def of(self, which: np.ndarray) -> "Numbers":
        """Return a selection of the columns."""
        return self._replace(values=self.values[..., which], columns=self.columns[which])

    @property
    def units(self) -> int:
        """The number of clusters, or of images if they are independent."""
        return len(sizes_of(self.clusters, len(self.values)))


def numbers_of(frames: Sequence[Frame], shared: Frame | None) -> Numbers:
    """Return the values of a network, or of several with the same images and columns."""
    values = frames[0].to_numpy() if len(frames) == 1 else np.stack([frame.to_numpy() for frame in frames], axis=1)
    images = frames[0].index
    clusters = None if shared is None else clusters_of(shared.loc[images].to_numpy(), len(images))
    return Numbers(values, frames[0].columns, clusters)


def estimated(numbers: Numbers) -> Frame:
    """Return means with intervals, one line per column, with the number of clusters and the share of the largest."""
    from pandas import NA, DataFrame

    values, columns, clusters = numbers
    lines = DataFrame(estimates(values, clusters=clusters)._asdict(), index=columns)
    if clusters is None:
        return lines.assign(clusters=NA, largest_cluster=np.nan)
    return lines.assign(clusters=numbers.units, largest_cluster=sizes_of(clusters, len(values)).max() / len(values))


def compared(numbers: Numbers, controls: Frame, metrics: Mapping[str, MetricFacts]) -> Frame:
    """Return the rank of each method by each metric, and its difference from the best control; positive is better."""
    from pandas import concat

    names = numbers.columns.get_level_values("metric")
    return concat([_compared_by(metrics[name].sign, numbers.of(names == name), controls) for name in names.unique()])


def _compared_by(sign: int, numbers: Numbers, controls: Frame) -> Frame:
    from pandas import DataFrame

    oriented, clusters = numbers.values * sign, numbers.clusters
    methods = numbers.columns.get_level_values("method")
    means = np.nan_to_num(estimates(oriented, clusters=clusters).mean, nan=-np.inf)
    p, at_most = separation(oriented, clusters=clusters)
    testable = separable(numbers.units, int(np.isfinite(means).sum()))
    lines = DataFrame({"rank": ranks(oriented, p) if testable else np.nan}, index=numbers.columns)
    control = controls[methods].to_numpy(bool)
    if np.isfinite(means[control]).any():
        best = int(np.where(control, means, -np.inf).argmax())
        differences = (oriented - oriented[..., [best]])[..., ~control]
        effect, p = (
            estimates(differences, clusters=clusters),
            p[~control, best] if testable else p[~control, best] * np.nan,
        )
        verdicts = [
            _verdict(difference, p_value, methods[best], testable=testable)
            for difference, p_value in zip(effect.mean, p, strict=True)
        ]
        against = {
            "best_control": methods[best],
            "difference": effect.mean,
            "difference_low": effect.low,
            "difference_high": effect.high,
            "standardised": standardised(pooled(differences)),
            "p": p,
            "p_at_most": at_most[~control, best],
            "verdict": verdicts,
        }
        lines = lines.join(DataFrame(against, index=numbers.columns[~control]))
    return lines


def _verdict(difference: float, p: float, control: str, *, testable: bool = True) -> str:
    """Return the comparison of a method with a control, in words; not `testable` if no test could separate them.

    >>> _verdict(-0.1, 0.04, "centre"), _verdict(0.1, 0.06, "centre"), _verdict(np.nan, np.nan, "centre")
    ('worse than centre', 'not separated from centre', 'not compared with centre')
    """
    if not testable:
        return f"cannot be tested against {control}"
    if np.isnan(p):
        return f"not compared with {control}"
    if p > LEVEL:
        return f"not separated from {control}"
    return f"{'better' if difference > 0 else 'worse'} than {control}"
