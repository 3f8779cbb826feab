"""Statistics over images: intervals of means, tests of their differences, ranks, and agreement of raters."""

from ibviz.statistics.agreement import krippendorff_alpha, rank_correlations
from ibviz.statistics.intervals import (
    RESAMPLES,
    Estimate,
    Estimates,
    bootstrap_interval,
    estimate,
    estimates,
    resamples,
)
from ibviz.statistics.pairs import holm, least_p, ranks, separable, separation, sign_flip, standardised
from ibviz.statistics.samples import LEVEL, Clusters, clusters_of, pooled, sizes_of
from ibviz.statistics.variance import LEAST_CLUSTERS

__all__ = [
    "LEAST_CLUSTERS",
    "LEVEL",
    "RESAMPLES",
    "Clusters",
    "Estimate",
    "Estimates",
    "bootstrap_interval",
    "clusters_of",
    "estimate",
    "estimates",
    "holm",
    "krippendorff_alpha",
    "least_p",
    "pooled",
    "rank_correlations",
    "ranks",
    "resamples",
    "separable",
    "separation",
    "sign_flip",
    "sizes_of",
    "standardised",
]
