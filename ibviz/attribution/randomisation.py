"""Sanity checks: does a map change when what the network has learned is lost (Adebayo 2018)?

Maps keep their sign. SSIM and HOG compare maps enlarged bilinearly to the images and divided by their largest size;
Spearman's rank correlation compares cells as they are. A constant map has no correlation: NaN.
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

HOG_CELLS = 14  # a side; 16 pixels each in an image of 224

Values = NDArray[np.float64]


class Randomised(NamedTuple):
    """A layer whose parameters were drawn anew, and how alike the maps before and after are: one value an image."""

    layer: str
    similarity: dict[str, Scores]  # by the names of SIMILARITIES; 1 for equal maps


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
    """Compare maps of a method of `METHODS` before and after parameters are drawn anew, layer by layer.

    `layers` are submodules in the order in which to take them, by default all with parameters, the last to finish
    first; `cascading` keeps those before randomised, otherwise each is alone. A tensor's new values are normal with the
    mean and deviation of its old ones and follow from `seed` and its name. `targets`, by default the classes predicted
    before, stay. `options` are those of `explain`. The model's parameters are restored to the bit, also after an error.

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
                redraw(parameters, seed)
                after = values(explain(model, images, method, targets=targets, **options))
            rows.append(Randomised(layer, similarity(before, after, (images.shape[2], images.shape[3]))))
    return rows


@torch.no_grad()
def redraw(parameters: dict[str, nn.Parameter], seed: int) -> None:
    """Draw each tensor anew in place: normal, with its own mean and deviation."""
    for name, parameter in parameters.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.copy_(parameter.mean() + parameter.std(correction=0) * noise)


def similarity(before: Maps, after: Maps, size: Grid) -> dict[str, Scores]:
    """How alike maps of the same images are, by every measure of `SIMILARITIES`; `size` is that of the images."""
    native = [one.double().cpu() for one in (before, after)]
    large = [F.interpolate(_scaled(one).unsqueeze(1), size, mode="bilinear").squeeze(1) for one in native]
    compared = {name: native if name == "spearman" else large for name in SIMILARITIES}
    return {
        name: torch.tensor([SIMILARITIES[name](*pair) for pair in zip(*(one.numpy() for one in maps), strict=True)])
        for name, maps in compared.items()
    }


def ssim(first: Values, second: Values) -> float:
    """Structural similarity (Wang 2004), in windows of 7 x 7 pixels; of signed values zero is the middle of the range.

    It is for values from 0 to 1: with means of either sign, opposite maps would be alike.
    """
    from skimage.metrics import structural_similarity

    if min(first.min(), second.min()) < 0:
        first, second = (first + 1) / 2, (second + 1) / 2
    return cast(float, structural_similarity(first, second, data_range=1.0))


def spearman(first: Values, second: Values) -> float:
    """Correlation of ranks; tied cells share theirs."""
    from scipy.stats import rankdata

    return pearson(rankdata(first), rankdata(second))


def hog(first: Values, second: Values) -> float:
    """Correlation of histograms of oriented gradients (Dalal & Triggs 2005)."""
    from skimage.feature import hog as histograms

    cells = tuple(max(2, side // HOG_CELLS) for side in first.shape)
    return pearson(*(histograms(one, pixels_per_cell=cells) for one in (first, second)))


def pearson(first: Values, second: Values) -> float:
    """Correlation, NaN where one of both is constant.

    >>> round(pearson(np.array([0.0, 1.0]), np.array([1.0, 0.0])), 6)
    -1.0
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    one, other = (values.ravel() - values.mean() for values in (first, second))
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


SIMILARITIES: dict[str, Callable[[Values, Values], float]] = {"ssim": ssim, "spearman": spearman, "hog": hog}


def _scaled(maps: Maps) -> Maps:
    top = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where(top == 0, 1.0, top)


def _parameters_by_layer(model: nn.Module, image: Images) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters of each layer, the last to finish first; one belongs to the deepest module above it that runs."""
    finished: list[str] = []

    def note(name: str, output: object) -> object:
        finished.append(name)
        return output

    with ExitStack() as watching, torch.no_grad(), evaluating(model), as_written(model), guarded(model, image):
        for name, module in model.named_modules():
            if "parametrizations" in name.split("."):
                continue  # what makes a layer's weight is no layer
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
    """Put the parameters back after the block, bit for bit."""
    kept = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)
