"""What the numbers of a table rest on, in words: images, clusters and trainings, and where they are too few."""

from collections.abc import Mapping
from itertools import count

from ibviz.benchmark.ranking import Frame
from ibviz.metrics.metric import MetricFacts
from ibviz.statistics import LEAST_CLUSTERS, least_p, separable

_LARGEST_SHARE = 0.5  # share of the images that the largest cluster may hold for an interval that is not too wide
INTERVALS = {  # by whether images lie in clusters
    False: "percentile bootstrap intervals over images",
    True: "intervals over clusters of images, by Student's t with their sizes accounted for (Bell and McCaffrey 2002)",
}


def basis(lines: Frame) -> str:
    """What means and intervals of a table are over, in words."""
    images, trainings = int((lines["n"] + lines["excluded"]).max()), _trainings(lines)
    over = f"{images} images" + (f" in {lines['clusters'].max()} clusters" if lines["clusters"].notna().any() else "")
    return f"Means with 95 % intervals over {over}{f' and {trainings} trainings' * (trainings > 1)}."


def _trainings(lines: Frame) -> int:
    return int(lines["models"].max())


def shared(lines: Frame) -> list[str]:
    """What intervals are over, where it is more than single images, and where they are none or wide."""
    known = bool(lines["clusters"].notna().any())
    return [basis(lines)] * (known or _trainings(lines) > 1) + ([too_few(lines)] if known and too_few(lines) else [])


def too_few(lines: Frame) -> str:
    """Where clusters are too few for an interval, or one of them too large for a narrow one; nothing otherwise."""
    needed, largest = LEAST_CLUSTERS if _trainings(lines) > 1 else 2, lines["largest_cluster"].max()
    if lines["clusters"].min() < needed:
        return f"No interval from fewer than {needed} clusters."
    wide = f"The largest cluster holds {largest:.0%} of the images; intervals may be much wider than they need be."
    return wide if largest > _LARGEST_SHARE else ""


def limits(lines: Frame, metrics: Mapping[str, MetricFacts]) -> list[str]:
    """Metrics whose lines no test could separate, however far they lie apart, and what it would take."""
    if lines["native"].any():
        return []
    found: dict[str, list[str]] = {}
    for metric, part in lines[lines["mean"].notna()].groupby("metric", sort=False):
        known = part["clusters"].notna().any()
        units = int(part["clusters"].max() if known else (part["n"] + part["excluded"]).max())
        if len(part) > 1 and not separable(units, len(part)):
            words = _limit(units, len(part), "clusters" if known else "images")
            found.setdefault(words, []).append(metrics[str(metric)].label)
    return [f"{', '.join(labels)}: {words}" for words, labels in found.items()]


def _limit(units: int, lines: int, what: str) -> str:
    """What is too few for a test of some lines.

    >>> _limit(3, 2, "clusters")
    'from 3 clusters no p is below 0.25, times 1 for the pairs of 2 lines: nothing is tested, it takes 6 clusters.'
    """
    needed, pairs = next(more for more in count(units) if separable(more, lines)), lines * (lines - 1) // 2
    return (
        f"from {units} {what} no p is below {least_p(units):.2g}, times {pairs} for the pairs of {lines} lines: "
        f"nothing is tested, it takes {needed} {what}."
    )
