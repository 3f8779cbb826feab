"""Parameter randomisation test (Adebayo 2018): similarity of maps before and after learned parameters are replaced.

Maps keep their sign. SSIM and HOG compare maps enlarged bilinearly to the images and divided by their largest absolute
value; Spearman's rank correlation compares cells as they are. A constant map has no correlation: NaN.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ibviz.attribution.door import guarded
from ibviz.attribution.methods import explain, predict, values
from ibviz.errors import unknown
from ibviz.heads import head_of
from ibviz.metrics.score import targets_by
from ibviz.models.hooks import as_written, evaluating, replaced_output
from ibviz.progress import progress
from ibviz.types import Grid, Images, Labels, Maps, Scores

HOG_CELLS = 14  # cells per side; 16 pixels each in an image of 224

MapArray = NDArray[np.float64]


class Randomised(NamedTuple):
    """A layer with randomised parameters, and the similarity of the maps before and after, one value per image."""

    layer: str
    similarity: dict[str, Scores]  # by measure of `SIMILARITIES`; 1 for equal maps


def randomise(  # noqa: PLR0913 - what is explained, and what is randomised
    model: nn.Module,
    images: Images,
    method: str,
    *,
    cascading: bool = True,
    layers: Sequence[str] | None = None,
    targets: Labels | None = None,
    seed: int = 0,
    **options: Any,
) -> list[Randomised]:
    """Compare the maps of a method before and after parameters are randomised, layer by layer.

    New parameters are normal, with the mean and the deviation of the old tensor, and follow from `seed` and the name of
    the tensor. The model's parameters are restored exactly, also after an error.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        method: A method of `METHODS`.
        cascading: True to keep earlier layers randomised, False to randomise each layer alone.
        layers: Names of submodules in the order in which to randomise them; by default all with parameters, beginning
            with the last to run.
        targets: Class of each image; by default those predicted before.
        seed: Seed of the new parameters.
        options: Options of `explain` and of the method.

    Returns:
        One row per layer, in order.

    Raises:
        InputError: For a layer that is unknown or has no parameters.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> [row.layer for row in randomise(network, torch.rand(1, 3, 16, 16), "grad_cam", layer="0")]
    ['3', '0']
    """
    if targets is None:
        targets = targets_by("predicted", predict(model, images), head=head_of(model)).classes
    before = values(explain(model, images, method, targets=targets, **options))
    chosen = _parameters_by_layer(model, images[:1]) if layers is None else _parameters_under(model, layers)
    rows = []
    with _restored(model.parameters()):
        for layer, parameters in progress(chosen.items(), method, total=len(chosen)):
            with ExitStack() as alone:
                if not cascading:
                    alone.enter_context(_restored(parameters.values()))
                randomise_parameters(parameters, seed)
                after = values(explain(model, images, method, targets=targets, **options))
            rows.append(Randomised(layer, similarity(before, after, (images.shape[2], images.shape[3]))))
    return rows


@torch.no_grad()
def randomise_parameters(parameters: dict[str, nn.Parameter], seed: int) -> None:
    """Fill each tensor in place with normal values of its own mean and deviation."""
    for name, parameter in parameters.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.copy_(parameter.mean() + parameter.std(correction=0) * noise)


def similarity(before: Maps, after: Maps, size: Grid) -> dict[str, Scores]:
    """Return the similarity of two maps per image by every measure of `SIMILARITIES`; `size` is that of the images."""
    native = [maps.double().cpu() for maps in (before, after)]
    large = [F.interpolate(_scaled(maps).unsqueeze(1), size, mode="bilinear").squeeze(1) for maps in native]
    compared = {name: native if name == "spearman" else large for name in SIMILARITIES}
    return {
        name: torch.tensor([SIMILARITIES[name](*pair) for pair in zip(*(maps.numpy() for maps in sides), strict=True)])
        for name, sides in compared.items()
    }


def ssim(first: MapArray, second: MapArray) -> float:
    """Return the structural similarity (Wang 2004) in windows of 7 x 7 pixels.

    Maps with negative values are moved from [-1, 1] to [0, 1] first: with signed means, opposite maps would be similar.
    """
    from skimage.metrics import structural_similarity

    if min(first.min(), second.min()) < 0:
        first, second = (first + 1) / 2, (second + 1) / 2
    return cast(float, structural_similarity(first, second, data_range=1.0))


def spearman(first: MapArray, second: MapArray) -> float:
    """Return the correlation of ranks; tied cells share their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(first), rankdata(second))


def hog(first: MapArray, second: MapArray) -> float:
    """Return the correlation of histograms of oriented gradients (Dalal & Triggs 2005)."""
    from skimage.feature import hog as histograms

    cells = tuple(max(2, side // HOG_CELLS) for side in first.shape)
    return pearson(*(histograms(values, pixels_per_cell=cells) for values in (first, second)))


def pearson(first: MapArray, second: MapArray) -> float:
    """Return the correlation of two arrays, NaN if one of them is constant.

    >>> round(pearson(np.array([0.0, 1.0]), np.array([1.0, 0.0])), 6)
    -1.0
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    first, second = (values.ravel() - values.mean() for values in (first, second))
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


SIMILARITIES: dict[str, Callable[[MapArray, MapArray], float]] = {"ssim": ssim, "spearman": spearman, "hog": hog}


def _scaled(maps: Maps) -> Maps:
    top = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where(top == 0, 1.0, top)


def _parameters_by_layer(model: nn.Module, image: Images) -> dict[str, dict[str, nn.Parameter]]:
    """Return the parameters of each layer, the last to run first; each belongs to the innermost module that runs."""
    finished: list[str] = []

    def note(name: str, output: object) -> object:
        finished.append(name)
        return output

    with ExitStack() as watching, torch.no_grad(), evaluating(model), as_written(model), guarded(model, image):
        for name, module in model.named_modules():
            if "parametrizations" in name.split("."):
                continue  # a parametrization computes a layer's weight and is not a layer
            watching.enter_context(replaced_output(module, partial(note, name)))
        model(image)
    layers: dict[str, dict[str, nn.Parameter]] = {name: {} for name in dict.fromkeys(reversed(finished))}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        while owner not in layers:
            owner = owner.rpartition(".")[0]
        layers[owner][name] = parameter
    return {name: parameters for name, parameters in layers.items() if parameters}


def _parameters_under(model: nn.Module, layers: Sequence[str]) -> dict[str, dict[str, nn.Parameter]]:
    modules = dict(model.named_modules())
    for layer in layers:
        if not any(True for _ in modules.get(layer, nn.Identity()).parameters()):
            known = [name for name, module in modules.items() if name and any(True for _ in module.parameters())]
            raise unknown("layer with parameters", layer, known)
    return {layer: dict(modules[layer].named_parameters(prefix=layer)) for layer in layers}


@contextmanager
def _restored(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Restore the parameters exactly after the block."""
    kept = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)
