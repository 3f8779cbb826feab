"""The setting of a comparison, shared by evaluations in memory and suites: grid, colour, hashes, versions."""

import hashlib
import math
from collections.abc import Mapping
from importlib.metadata import version

from torch import Tensor, nn

from ibviz.attribution.catalogue import Explanation
from ibviz.attribution.methods import values
from ibviz.errors import InputError
from ibviz.models.loading import Classifier
from ibviz.types import AttentionMap, Grid


def comparison_grid(explanations: Mapping[str, Explanation]) -> Grid:
    """Return the grid of the first trained attention, otherwise the coarsest of all.

    >>> import torch
    >>> comparison_grid({"fine": torch.rand(1, 32, 32), "coarse": torch.rand(1, 8, 8)})
    (8, 8)
    """
    trained = [given.mean for given in explanations.values() if isinstance(given, AttentionMap)]
    grids = [maps.shape[1:] for maps in trained[:1] or map(values, explanations.values())]
    rows, columns = min(grids, key=math.prod)
    return rows, columns


def training_colour(model: Classifier) -> tuple[float, ...]:
    """Return the mean colour of the network's training data, in [0, 1], one number per channel."""
    return tuple(with_normalisation(model).normalize.mean.flatten().tolist())


def with_normalisation(model: nn.Module) -> Classifier:
    """Return the network if it states the normalisation of its images, which baselines need; otherwise refuse it."""
    if not isinstance(model, Classifier):
        raise InputError(
            f"{type(model).__name__} does not say how its images are normalised, by which masked ones are "
            "painted; give ibviz.wrap(network, mean=..., std=..., class_names=..., size=...)"
        )
    return model


def fingerprint(tensors: list[Tensor]) -> str:
    """Return twelve hexadecimal digits of the SHA-256 of tensors, in row-major order whatever their memory format.

    >>> import torch
    >>> fingerprint([torch.zeros(2)])
    'af5570f5a181'
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def versions() -> dict[str, str]:
    """Return the versions of the packages that a number depends on."""
    return {name: version(name) for name in ("ibviz", "torch", "torchvision", "numpy", "captum")}
