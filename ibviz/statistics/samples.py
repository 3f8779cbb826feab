"""Array types for values per image, and helpers for clusters of images."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ibviz.errors import InputError

# One row per image and one column per mean; NaN where a value is not defined.
Values = Float[np.ndarray, "images columns"]
Trained = Float[np.ndarray, "images trainings columns"]  # the same for several trainings
Column = Float[np.ndarray, " columns"]
Clusters = Int[np.ndarray, " images"]  # cluster number of each image: 0, 1, ..., without gaps

LEVEL = 0.05
_ENTRIES = 2_000_000  # random numbers held in memory at once


def clusters_of(names: Sequence[object] | np.ndarray, images: int) -> Clusters:
    """Number the clusters of images by their names; raise `InputError` unless there is one name per image.

    >>> clusters_of(["b", "a", "b"], 3)
    array([1, 0, 1])
    """
    if len(names) != images:
        raise InputError(f"clusters name the cluster of each image: expected {images} names, got {len(names)}")
    return np.unique(np.asarray([str(name) for name in names]), return_inverse=True)[1]


def sizes_of(clusters: Clusters | None, images: int) -> Int[np.ndarray, " clusters"]:
    """Count the images of each cluster; without clusters, each image is a cluster."""
    return np.ones(images, int) if clusters is None else np.bincount(clusters)


def subset_clusters(clusters: Clusters | None, rows: Bool[np.ndarray, " images"]) -> Int[np.ndarray, " kept"] | None:
    """Clusters of the selected images, renumbered without gaps."""
    return None if clusters is None else np.unique(clusters[rows], return_inverse=True)[1]


def cluster_sums(values: Values, clusters: Clusters | None) -> Float[np.ndarray, "clusters columns"]:
    """Sum the values over the images of each cluster.

    >>> cluster_sums(np.array([[1.0], [2.0], [4.0]]), np.array([1, 0, 1]))
    array([[2.],
           [5.]])
    """
    if clusters is None:
        return values
    order = np.argsort(clusters, kind="stable")
    return np.add.reduceat(values[order], np.flatnonzero(np.diff(clusters[order], prepend=-1)), axis=0)


def pooled(values: Values | Trained) -> Values:
    """Mean over trainings per image, NaN if a training has no value; values of a single training are unchanged."""
    return values if values.ndim == 2 else values.mean(1)


def group_by_defined(
    defined: Bool[np.ndarray, "images columns"],
) -> Iterator[tuple[Bool[np.ndarray, " images"], Int[np.ndarray, " _"]]]:
    """Yield groups of columns that are defined for the same images: those images, then the columns."""
    patterns, group_of_column = np.unique(np.packbits(defined, axis=0), axis=1, return_inverse=True)
    for group in range(patterns.shape[1]):
        columns = np.flatnonzero(group_of_column.ravel() == group)
        yield defined[:, columns[0]], columns


def row_blocks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows with `width` numbers each, as large as memory should hold at once.

    >>> [part.stop for part in row_blocks(3, _ENTRIES)]
    [1, 2, 3]
    """
    size = max(1, _ENTRIES // width)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
