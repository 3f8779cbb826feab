"""Information bottleneck attribution: how much noise a layer's features bear before the class is lost."""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, InstanceOf
from torch import Tensor, nn

from ibviz.attribution.door import guarded
from ibviz.attribution.passes import Count, differentiable, fine, laid_out
from ibviz.attribution.trial import refuse_cropping_before
from ibviz.errors import InputError
from ibviz.heads import head_of
from ibviz.models.grids import GridLayout, from_grid, layout_of, probe, to_grid
from ibviz.models.hooks import as_written, evaluating, graph_after, replaced_output
from ibviz.models.layer_choice import layer_for_attention, reaches_output, takes_rows
from ibviz.types import FeatureMaps, Images, Labels, Maps

START = 5.0  # logit of the share of signal before the first step: almost all
RATE = 1.0  # Adam's learning rate
REACH = 2  # cells; smoothing by a Gaussian of deviation 1 is cut off there
FLOOR = 0.01  # of the mean deviation: less is taken for a unit that never changes
ACTIVE = 0.01  # share of a unit's values that are not 0: with no more, it is taken out

Price = Annotated[float, Field(ge=0)]
Noise = Float[Tensor, "s 1 c gh gw"]  # draws for all images


class FeatureStatistics(NamedTuple):
    """Facts about a layer's features: of every unit or, with one cell a side, of every channel."""

    mean: FeatureMaps
    deviation: FeatureMaps
    active: FeatureMaps  # 1 where more than 1 % of the values are not 0, else 0: the unit is taken out


class Tap(NamedTuple):
    """A place in a network where features are read and replaced."""

    model: nn.Module
    module: nn.Module
    layout: GridLayout
    multiplies: bool  # whether the layers after it take several rows of features for one image


class Given(NamedTuple):
    """What is fixed while the noise of a batch is optimised."""

    tap: Tap
    images: Images
    targets: Labels
    features: FeatureMaps
    statistics: FeatureStatistics


def iba(  # noqa: PLR0913 - three inputs, seven options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    layer: str | None = None,
    statistics: InstanceOf[FeatureStatistics] | None = None,
    beta: Price = 10.0,
    steps: Count = 10,
    samples: Count = 10,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """Per-sample IBA (Schulz 2020): bits that a cell lets pass, summed over channels; never negative.

    Every unit is blended with normal noise such that cross-entropy (minus the log-probability of the target by the
    network's head; a regression, which has none, is refused) + `beta` · mean KL, in nats, falls in `steps` of
    Adam, over `samples` draws of noise a step, the same for every image and device. It happens at the submodule
    `layer`, by default one through which all of the network passes: where something passes by, the bits bound nothing.
    Noise has the `statistics` of the layer's features, best taken from a data set by `feature_statistics`; where they
    are not given, those of each channel over the cells of the one image, so that a map depends on no other image.

    As in the authors' code (github `BioroboticsLab/IBA`, MIT), the share of signal is smoothed by a Gaussian with
    reflected borders, and a unit that is 0 in 99 % of the data or more (an inactive one) passes 0 and carries no bits.
    Different from it: the map is that after the last step, theirs that before it, so that `steps = 9` gives theirs of
    10 (the last step moves maps of the network `digits` by up to 35 % of their peak); deviations are at least 1 % of
    the layer's mean deviation, not at least 0.01, so that a map does not depend on the scale of the features.
    """
    tap, draws, maps = tap_at(model, images, layer), torch.Generator().manual_seed(seed), []
    shape = (samples, 1, tap.layout.channels, *tap.layout.grid)
    noise = [torch.randn(shape, generator=draws, dtype=fine(images).dtype).to(images.device) for _ in range(steps)]
    for index in torch.arange(len(images), device=images.device).split(max(1, batch_size // samples)):
        features = read(tap, images[index])
        known = statistics or own_statistics(features)
        with differentiable(images[index]) as inputs:
            given = Given(tap, inputs.detach(), targets[index], features, known)
            share = optimise(given, noise, beta=beta, rows=batch_size)
        maps.append(information(features, share, known).sum(1) / math.log(2))
    return torch.cat(maps).float()


def information(features: FeatureMaps, share: FeatureMaps, statistics: FeatureStatistics) -> FeatureMaps:
    """KL in nats of every unit, blended with a share of noise, to the noise alone: closed form of two normals.

    It is 0 for inactive units.

    >>> known = FeatureStatistics(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    >>> information(torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 1, 1, 1), known).item()  # nothing but noise
    0.0
    """
    signal = (1 - share) * (features - statistics.mean) / statistics.deviation
    return statistics.active * (signal.square() + share.square() - 2 * share.log() - 1) / 2


@torch.no_grad()
def feature_statistics(
    model: nn.Module, images: Images, *, layer: str | None = None, batch_size: int = 64
) -> FeatureStatistics:
    """Mean, sample deviation and activity of every unit of a layer over the images of a data set, for `iba`.

    The model runs in eval mode and is left as it was.

    >>> pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    >>> feature_statistics(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), pixels, layer="0").deviation[0, 0]
    tensor([[0.7071, 0.7071],
            [0.7071, 0.7071]])
    """
    total, squares, nonzero = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    with evaluating(model), as_written(model), guarded(model, images):
        tap = tap_at(model, images, layer)
        for part in images.split(batch_size):
            features = read(tap, part).double()  # as squares cancel
            total, squares = total.to(features) + features.sum(0), squares.to(features) + features.square().sum(0)
            nonzero = nonzero.to(features) + (features != 0).sum(0)
    mean = total / len(images)
    deviation = ((squares - len(images) * mean.square()) / max(1, len(images) - 1)).clamp(min=0).sqrt()
    active = nonzero / len(images) > ACTIVE
    mean, deviation, active = (part.to(fine(images)).unsqueeze(0) for part in (mean, deviation, active))
    return FeatureStatistics(mean, _floored(deviation), active)


def own_statistics(features: FeatureMaps) -> FeatureStatistics:
    """Mean, deviation and activity of every channel over the cells of each image."""
    cells = {"dim": (2, 3), "keepdim": True}
    active = (features != 0).to(features).mean(**cells) > ACTIVE
    return FeatureStatistics(features.mean(**cells), _floored(features.std(correction=0, **cells)), active.to(features))


def _floored(deviation: FeatureMaps) -> FeatureMaps:
    least = FLOOR * deviation.flatten(1).mean(1).view(-1, 1, 1, 1)
    return torch.maximum(deviation, least).clamp(min=torch.finfo(deviation.dtype).tiny)


def tap_at(model: nn.Module, images: Images, layer: str | None) -> Tap:
    """The named layer, on which the output has to depend, or one chosen as for attention."""
    image = probe((images.shape[2], images.shape[3]), images.shape[1]).to(images)
    name = layer_for_attention(model, image) if layer is None else layer
    layout = layout_of(model, image, name)
    refuse_cropping_before(model, image, name)
    if layer is not None and not reaches_output(model, image, name):
        raise InputError(
            f"the output does not depend on what layer {layer} holds at its cells, so that nothing bounds "
            "their bits; leave layer out, or name an earlier one"
        )
    module = model.get_submodule(name)
    return Tap(model, module, layout, multiplies=takes_rows(model, image.repeat(2, 1, 1, 1), module))


def read(tap: Tap, images: Images) -> FeatureMaps:
    """Features of a layer, float32 or finer, out of reach of later layers that work in place."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(fine(to_grid(output, tap.layout)).clone())
        return output

    with torch.no_grad(), replaced_output(tap.module, keep):
        tap.model(images)
    return kept[0]


def run_with(tap: Tap, images: Images, features: Float[Tensor, "rows c gh gw"]) -> Float[Tensor, "rows classes"]:
    """Logits where `features`, of which an image may have several rows, sample-major, stand for the layer's own."""
    given = images if tap.multiplies else images.repeat(len(features) // len(images), 1, 1, 1)

    def replace(output: Tensor) -> Tensor:
        return from_grid(features.to(output.dtype), output, tap.layout)

    with graph_after(tap.model, tap.module), replaced_output(tap.module, replace):
        return tap.model(given)


def optimise(given: Given, noise: list[Noise], *, beta: float, rows: int) -> FeatureMaps:
    """Share of noise in every unit after a step for each of `noise`; a pass has at most `rows` images, or one draw."""
    logit = torch.full_like(given.features, START).requires_grad_()
    optimizer = torch.optim.Adam([logit], lr=RATE)
    for draws in noise:
        price = beta * information(given.features, noise_share(logit), given.statistics).flatten(1).mean(1).sum()
        [logit.grad] = torch.autograd.grad(price, [logit])
        for part in draws.split(max(1, rows // len(logit))):
            logit.grad += torch.autograd.grad(_misfit(given, logit, part) / len(draws), [logit])[0]
        optimizer.step()
    return noise_share(logit.detach())


def _misfit(given: Given, logit: FeatureMaps, noise: Noise) -> Float[Tensor, ""]:
    """Minus log-probability of the targets under some draws of noise, summed over draws and images."""
    share, (mean, deviation, active) = noise_share(logit), given.statistics
    blended = active * ((1 - share) * given.features + share * (mean + deviation * noise))
    logits = run_with(given.tap, given.images, laid_out(blended.flatten(0, 1)))
    likelihood = head_of(given.tap.model).log_probability(logits.to(logit.dtype))
    return -likelihood.gather(1, given.targets.repeat(len(noise)).unsqueeze(1)).sum()


def noise_share(logit: FeatureMaps) -> FeatureMaps:
    """Share of noise, from the logit of the share of signal, smoothed over neighbouring cells; borders are mirrors."""
    bell = [math.exp(-(cells**2) / 2) for cells in range(-REACH, REACH + 1)]
    weights = [one / sum(bell) for one in bell]
    rows = weighed(mirrored((-logit).sigmoid(), 2), weights, 2)
    return weighed(mirrored(rows, 3), weights, 3)


def mirrored(planes: Tensor, axis: int) -> Tensor:
    """Planes with `REACH` more cells at both ends of an axis, reflected at the last cell, however few there are.

    >>> mirrored(torch.tensor([0.0, 1.0, 2.0, 3.0]), 0)
    tensor([2., 1., 0., 1., 2., 3., 2., 1.])
    >>> mirrored(torch.tensor([0.0, 1.0]), 0), mirrored(torch.tensor([5.0]), 0)
    (tensor([0., 1., 0., 1., 0., 1.]), tensor([5., 5., 5., 5., 5.]))
    """
    length = planes.shape[axis]
    period = max(1, 2 * (length - 1))
    before, after = (
        [planes.narrow(axis, min(cell % period, -cell % period), 1) for cell in range(start, start + REACH)]
        for start in (-REACH, length)
    )
    return torch.cat([*before, planes, *after], axis)


def weighed(planes: Tensor, weights: Sequence[float], axis: int) -> Tensor:
    """Weighted sums of neighbours along an axis: a convolution that neither autocast nor TF32 rounds.

    >>> weighed(torch.tensor([1.0, 2.0, 4.0]), (-1.0, 1.0), 0)
    tensor([1., 2.])
    """
    length = planes.shape[axis] - len(weights) + 1
    first, *others = (weight * planes.narrow(axis, start, length) for start, weight in enumerate(weights))
    return sum(others, first)
