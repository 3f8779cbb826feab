"""Notes below a table: the numbers of images, clusters and trainings, and warnings if they are too small."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from ibviz.benchmark.ranking import Frame
from ibviz.metrics.metric import MetricFacts
from ibviz.statistics import LEAST_CLUSTERS, least_p, separable

COMPARED = "compared"  # column of a chosen part of a result: the number of lines whose pairs were tested
_LARGEST_SHARE = 0.5  # of the images in the largest cluster, above which intervals are too wide
INTERVALS = {  # the key is True if images lie in clusters
    False: "percentile bootstrap intervals over images",
    True: "intervals over clusters of images, by Student's t with their sizes accounted for (Bell and McCaffrey 2002)",
}


def sample_size(lines: Frame) -> str:
    """Return a sentence that counts the images, clusters and trainings behind a table."""
    images, trainings = int((lines["n"] + lines["excluded"]).max()), _trainings(lines)
    over = f"{images} images" + (f" in {lines['clusters'].max()} clusters" if lines["clusters"].notna().any() else "")
    return f"Means with 95 % intervals over {over}{f' and {trainings} trainings' * (trainings > 1)}."


def _trainings(lines: Frame) -> int:
    return int(lines["models"].max())


def cluster_notes(lines: Frame) -> list[str]:
    """Return the sample size if images are clustered or trainings are averaged, and a warning about the clusters."""
    known = bool(lines["clusters"].notna().any())
    warning = cluster_warning(lines) if known else ""
    return [sample_size(lines)] * (known or _trainings(lines) > 1) + [warning] * bool(warning)


def cluster_warning(lines: Frame) -> str:
    """Return a warning if there are too few clusters for an interval, or if one is very large; otherwise nothing."""
    needed, largest = LEAST_CLUSTERS if _trainings(lines) > 1 else 2, lines["largest_cluster"].max()
    if lines["clusters"].min() < needed:
        return f"No interval from fewer than {needed} clusters."
    wide = f"The largest cluster holds {largest:.0%} of the images; intervals may be much wider than they need be."
    return wide if largest > _LARGEST_SHARE else ""


def testing_limits(lines: Frame, metrics: Mapping[str, MetricFacts]) -> list[str]:
    """Return a sentence per group of metrics with too few images or clusters for any paired test to be significant."""
    if lines["native"].any():
        return []
    labels_by_reason: dict[str, list[str]] = {}
    for metric, part in lines[lines["mean"].notna()].groupby("metric", sort=False):
        known = part["clusters"].notna().any()
        units = int(part["clusters"].max() if known else (part["n"] + part["excluded"]).max())
        compared = int(part[COMPARED].max()) if COMPARED in part else len(part)
        if compared > 1 and not separable(units, compared):
            reason = _limit(units, compared, "clusters" if known else "images")
            labels_by_reason.setdefault(reason, []).append(metrics[str(metric)].label)
    return [f"{', '.join(labels)}: {reason}" for reason, labels in labels_by_reason.items()]


def map_errors(model: str, circumstances: Mapping[str, Any]) -> list[str]:
    """Return a sentence about the standard errors of the maps that were drawn at random; older results have none.

    >>> errors = [{"model": "vgg", "method": "RISE", "maps": 20, "median": 0.21, "largest": None}]
    >>> print(*map_errors("vgg", {"map_errors": errors}))
    Standard error of maps drawn at random, as a share of their size, median and largest: RISE 0.21 and unknown.
    """
    known = [own for own in circumstances.get("map_errors", []) if own["model"] == model]
    shares = [
        f"{own['method']} {_share(own['median'])} and {_share(own['largest'])}" for own in known if own["maps"] > 0
    ]
    about = "Standard error of maps drawn at random, as a share of their size, median and largest: "
    return [f"{about}{', '.join(shares)}."] if shares else []


def _share(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.2g}"


def _limit(units: int, lines: int, unit_name: str) -> str:
    """Return why no test between lines can be significant, and the number of images or clusters that it takes.

    >>> _limit(3, 2, "clusters")
    'from 3 clusters no p is below 0.25, times 1 for the pairs of 2 lines: nothing is tested, it takes 6 clusters.'
    """
    needed, pairs = next(more for more in count(units) if separable(more, lines)), lines * (lines - 1) // 2
    return (
        f"from {units} {unit_name} no p is below {least_p(units):.2g}, times {pairs} for the pairs of {lines} lines: "
        f"nothing is tested, it takes {needed} {unit_name}."
    )
