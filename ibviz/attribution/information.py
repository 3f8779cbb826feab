"""Information bottleneck attribution: the information in a layer's features that the predicted class needs."""

import math
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, InstanceOf
from torch import Tensor, nn

from ibviz.attribution.door import guarded
from ibviz.attribution.filters import correlate_1d, reflect_pad
from ibviz.attribution.forward_pass import at_least_float32, differentiable, in_memory_format
from ibviz.attribution.trial import refuse_misplaced_cells
from ibviz.errors import InputError
from ibviz.heads import head_of
from ibviz.models.grids import GridLayout, from_grid, layout_of, probe, to_grid
from ibviz.models.hooks import as_written, evaluating, graph_after, replaced_output
from ibviz.models.layer_choice import layer_for_attention, reaches_output, takes_rows
from ibviz.settings import Count
from ibviz.types import FeatureMaps, Images, Labels, Maps

START = 5.0  # logit of the share of signal before the first step: almost all is signal
RATE = 1.0  # learning rate of Adam
REACH = 2  # cells at which the Gaussian for smoothing, of standard deviation 1, is truncated
FLOOR = 0.01  # share of the layer's mean deviation; smaller deviations are raised to it
ACTIVE = 0.01  # a unit with no larger share of values other than 0 is inactive

Price = Annotated[float, Field(ge=0)]
Noise = Float[Tensor, "s 1 c gh gw"]  # draws, shared by all images


class FeatureStatistics(NamedTuple):
    """Statistics of a layer's features: one per unit, or one per channel if the grid has a single cell."""

    mean: FeatureMaps
    deviation: FeatureMaps
    active: FeatureMaps  # 1 for units with more than 1 % of their values other than 0; 0 for the others, left out


class Tap(NamedTuple):
    """A layer of a network whose features are read and replaced."""

    model: nn.Module
    module: nn.Module
    layout: GridLayout
    multiplies: bool  # True if the later layers accept several rows of features per image


class FixedInputs(NamedTuple):
    """The inputs that stay fixed while the noise of a batch is optimised."""

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
    """IBA (Schulz 2020), per sample: bits of information about the image that each cell of a layer lets pass.

    Noise is mixed into the features of a layer. Adam minimises cross-entropy (minus the log-probability of the target
    by the network's head) + `beta` · mean KL, both in nats, over the share of noise in every unit.

    As in the authors' code (github `BioroboticsLab/IBA`, MIT), the share of signal is smoothed by a Gaussian with
    reflected borders, and an inactive unit, one that is 0 in at least 99 % of the data, passes 0 and carries no bits.
    There are two differences. The map is that after the last step, theirs that before it: `steps = 9` gives their map
    of 10 steps (the last step moves maps of the network `digits` by up to 21 % of their peak). Deviations are at least
    1 % of the layer's mean deviation, not at least 0.01, so that a map does not depend on the scale of the features.

    Args:
        model: Any network whose head has probabilities.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of the submodule; if None, one that the whole network passes through. If information can bypass the
            layer, the bits are no bound.
        statistics: Statistics of the layer's features, best those of a data set by `feature_statistics`; if None, those
            of each channel over the cells of each image, so that a map depends on no other image.
        beta: Weight of the information; larger values leave fewer bits.
        steps: Steps of Adam.
        samples: Draws of noise per step, the same for every image and device.
        seed: Seed of the noise.
        batch_size: The most images in one pass.

    Returns:
        Bits per cell, summed over channels, never negative.

    Raises:
        InputError: For a network without probabilities (a regression), or if the output does not depend on the layer.
    """
    tap, draws, maps = find_tap(model, images, layer), torch.Generator().manual_seed(seed), []
    shape = (samples, 1, tap.layout.channels, *tap.layout.grid)
    noise = [
        torch.randn(shape, generator=draws, dtype=at_least_float32(images).dtype).to(images.device)
        for _ in range(steps)
    ]
    for index in torch.arange(len(images), device=images.device).split(max(1, batch_size // samples)):
        features = read_features(tap, images[index])
        known = statistics or channel_statistics(features)
        with differentiable(images[index]) as inputs:
            fixed = FixedInputs(tap, inputs.detach(), targets[index], features, known)
            share = optimise(fixed, noise, beta=beta, batch_size=batch_size)
        maps.append(information(features, share, known).sum(1) / math.log(2))
    return torch.cat(maps).float()


def information(features: FeatureMaps, share: FeatureMaps, statistics: FeatureStatistics) -> FeatureMaps:
    """Return the KL divergence, in nats, of every unit mixed with a share of noise from the noise alone.

    It is the closed form for two normal distributions, and 0 for inactive units.

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
    """Return the mean, sample deviation and activity of every unit of a layer over the images of a data set, for `iba`.

    Args:
        model: Any network; it runs in eval mode and is left as it was.
        images: `(n, channels, h, w)` in [0, 1].
        layer: Name of the submodule; if None, that of `iba`.
        batch_size: The most images in one pass.

    Returns:
        Statistics `(1, c, gh, gw)`.

    >>> pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    >>> feature_statistics(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), pixels, layer="0").deviation[0, 0]
    tensor([[0.7071, 0.7071],
            [0.7071, 0.7071]])
    """
    total, squares, nonzero = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    with evaluating(model), as_written(model), guarded(model, images):
        tap = find_tap(model, images, layer)
        for part in images.split(batch_size):
            features = read_features(tap, part).double()  # the difference of squares below cancels digits
            total, squares = total.to(features) + features.sum(0), squares.to(features) + features.square().sum(0)
            nonzero = nonzero.to(features) + (features != 0).sum(0)
    mean = total / len(images)
    deviation = ((squares - len(images) * mean.square()) / max(1, len(images) - 1)).clamp(min=0).sqrt()
    active = nonzero / len(images) > ACTIVE
    mean, deviation, active = (part.to(at_least_float32(images)).unsqueeze(0) for part in (mean, deviation, active))
    return FeatureStatistics(mean, _floored(deviation), active)


def channel_statistics(features: FeatureMaps) -> FeatureStatistics:
    """Return the mean, deviation and activity of every channel over the cells of each image."""
    cells = {"dim": (2, 3), "keepdim": True}
    active = (features != 0).to(features).mean(**cells) > ACTIVE
    return FeatureStatistics(features.mean(**cells), _floored(features.std(correction=0, **cells)), active.to(features))


def _floored(deviation: FeatureMaps) -> FeatureMaps:
    least = FLOOR * deviation.flatten(1).mean(1).view(-1, 1, 1, 1)
    return torch.maximum(deviation, least).clamp(min=torch.finfo(deviation.dtype).tiny)


def layer_of_iba(model: nn.Module, images: Images) -> str:
    """Return the name of the layer that `iba` takes for images of this size if none is named."""
    return layer_for_attention(model, probe((images.shape[2], images.shape[3]), images.shape[1]).to(images))


def find_tap(model: nn.Module, images: Images, layer: str | None) -> Tap:
    """Return the named layer, or the layer for attention if None; raise `InputError` if the output ignores it."""
    image = probe((images.shape[2], images.shape[3]), images.shape[1]).to(images)
    name = layer_of_iba(model, images) if layer is None else layer
    layout = layout_of(model, image, name)
    refuse_misplaced_cells(model, image, name)
    if layer is not None and not reaches_output(model, image, name):
        raise InputError(
            f"the output does not depend on what layer {layer} holds at its cells, so that nothing bounds "
            "their bits; leave layer out, or name an earlier one"
        )
    module = model.get_submodule(name)
    return Tap(model, module, layout, multiplies=takes_rows(model, image.repeat(2, 1, 1, 1), module))


def read_features(tap: Tap, images: Images) -> FeatureMaps:
    """Return a copy of the features of a layer, in float32 or finer."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(at_least_float32(to_grid(output, tap.layout)).clone())
        return output

    with torch.no_grad(), replaced_output(tap.module, keep):
        tap.model(images)
    return kept[0]


def logits_with_features(
    tap: Tap, images: Images, features: Float[Tensor, "rows c gh gw"]
) -> Float[Tensor, "rows classes"]:
    """Return the logits with `features` in place of the layer's own: one or more rows per image, draw by draw."""
    inputs = images if tap.multiplies else images.repeat(len(features) // len(images), 1, 1, 1)

    def replace(output: Tensor) -> Tensor:
        return from_grid(features.to(output.dtype), output, tap.layout)

    with graph_after(tap.model, tap.module), replaced_output(tap.module, replace):
        return tap.model(inputs)


def optimise(fixed: FixedInputs, noise: list[Noise], *, beta: float, batch_size: int) -> FeatureMaps:
    """Return the optimised share of noise in every unit.

    Args:
        fixed: The layer, a batch of images, their targets, features and statistics.
        noise: The draws of each step.
        beta: Weight of the information.
        batch_size: The most images in one pass, which has at least one draw for every image.
    """
    logit = torch.full_like(fixed.features, START).requires_grad_()
    optimizer = torch.optim.Adam([logit], lr=RATE)
    for draws in noise:
        price = beta * information(fixed.features, noise_share(logit), fixed.statistics).flatten(1).mean(1).sum()
        [logit.grad] = torch.autograd.grad(price, [logit])
        for part in draws.split(max(1, batch_size // len(logit))):
            logit.grad += torch.autograd.grad(_cross_entropy(fixed, logit, part) / len(draws), [logit])[0]
        optimizer.step()
    return noise_share(logit.detach())


def _cross_entropy(fixed: FixedInputs, logit: FeatureMaps, noise: Noise) -> Float[Tensor, ""]:
    """Return minus the log-probability of the targets under draws of noise, summed over draws and images."""
    share, (mean, deviation, active) = noise_share(logit), fixed.statistics
    blended = active * ((1 - share) * fixed.features + share * (mean + deviation * noise))
    logits = logits_with_features(fixed.tap, fixed.images, in_memory_format(blended.flatten(0, 1)))
    likelihood = head_of(fixed.tap.model).log_probability(logits.to(logit.dtype))
    return -likelihood.gather(1, fixed.targets.repeat(len(noise)).unsqueeze(1)).sum()


def noise_share(logit: FeatureMaps) -> FeatureMaps:
    """Return the share of noise, from the logit of the share of signal: Gaussian smoothing, reflected borders."""
    gaussian = [math.exp(-(cells**2) / 2) for cells in range(-REACH, REACH + 1)]
    weights = [weight / sum(gaussian) for weight in gaussian]
    rows = correlate_1d(reflect_pad((-logit).sigmoid(), REACH, 2), weights, 2)
    return correlate_1d(reflect_pad(rows, REACH, 3), weights, 3)
