"""Numbers of single images: how they lie in arrays, and what the images share."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ibviz.errors import InputError

# One row per image, NaN where a number is not defined; one column for each mean, all of the same images.
Values = Float[np.ndarray, "images columns"]
Trained = Float[np.ndarray, "images trainings columns"]  # the same of several trainings, as arrays of three axes
Column = Float[np.ndarray, " columns"]
Clusters = Int[np.ndarray, " images"]  # number of the cluster of each image, from 0, none left out

LEVEL = 0.05
_ENTRIES = 2_000_000  # of drawn numbers held at once


def clusters_of(names: Sequence[object] | np.ndarray, images: int) -> Clusters:
    """Number the clusters of images by their names; as many names as images, or an `InputError`.

    >>> clusters_of(["b", "a", "b"], 3)
    array([1, 0, 1])
    """
    if len(names) != images:
        raise InputError(f"clusters name the cluster of each image: expected {images} names, got {len(names)}")
    return np.unique(np.asarray([str(name) for name in names]), return_inverse=True)[1]


def sizes_of(clusters: Clusters | None, images: int) -> Int[np.ndarray, " clusters"]:
    """Count the images of each cluster; without clusters each image is its own."""
    return np.ones(images, int) if clusters is None else np.bincount(clusters)


def subset_clusters(clusters: Clusters | None, rows: Bool[np.ndarray, " images"]) -> Int[np.ndarray, " kept"] | None:
    """Clusters of some of the images, numbered anew."""
    return None if clusters is None else np.unique(clusters[rows], return_inverse=True)[1]


def cluster_sums(values: Values, clusters: Clusters | None) -> Float[np.ndarray, "clusters columns"]:
    """Sums over the images of each cluster.

    >>> cluster_sums(np.array([[1.0], [2.0], [4.0]]), np.array([1, 0, 1]))
    array([[2.],
           [5.]])
    """
    if clusters is None:
        return values
    order = np.argsort(clusters, kind="stable")
    return np.add.reduceat(values[order], np.flatnonzero(np.diff(clusters[order], prepend=-1)), axis=0)


def pooled(values: Values | Trained) -> Values:
    """Mean of each image over trainings, NaN where one has no value; of a single training, the values themselves."""
    return values if values.ndim == 2 else values.mean(1)


def group_by_defined(
    defined: Bool[np.ndarray, "images columns"],
) -> Iterator[tuple[Bool[np.ndarray, " images"], Int[np.ndarray, " _"]]]:
    """Sets of columns that are defined for the same images, with those images."""
    patterns, which = np.unique(np.packbits(defined, axis=0), axis=1, return_inverse=True)
    for one in range(patterns.shape[1]):
        columns = np.flatnonzero(which.ravel() == one)
        yield defined[:, columns[0]], columns


def row_blocks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows of `width` numbers, as many at once as memory should hold.

    >>> [part.stop for part in row_blocks(3, _ENTRIES)]
    [1, 2, 3]
    """
    size = max(1, _ENTRIES // width)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
