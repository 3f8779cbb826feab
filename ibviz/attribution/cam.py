"""Class activation maps: weighted sums of the features on the grid of one layer.

`layer=None` takes the last layer that all of the network passes, with at least 4 x 4 cells. Layers hold
`(b, c, h, w)`, `(b, h, w, c)` as in Swin, or tokens as in a vision transformer; the maps are the same functions of the
grid. Raises `InputError` for a layer that is unknown or has no grid, naming those that have one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ibviz.attribution.gradients import guided_gradient
from ibviz.attribution.passes import LAYOUT, Count, differentiable, rows_a_pass
from ibviz.attribution.perturbation import asked, enlarged, logits_of
from ibviz.attribution.trial import refuse_cropping_before
from ibviz.errors import InputError, NoMapError, not_finite
from ibviz.models.grids import (
    GridLayout,
    from_grid,
    influential_layers,
    layout_in,
    layout_of,
    listed,
    probe,
    spatial_layers,
    to_grid,
)
from ibviz.models.hooks import graph_after, replaced_output
from ibviz.models.layer_choice import is_cut, reaches_output, takes_rows
from ibviz.types import FeatureMaps, Images, Labels, Maps

LEAST_SIDE = 4  # cells a side that a layer chosen automatically has at least
ROUNDING = 1e-3  # of a logit: a channel that takes no larger share of it along may take nothing
Weights = Float[Tensor, "b c"]


class Seen(NamedTuple):
    """One pass of a batch: the features of a layer and the gradient of the target's logit there, both float32."""

    features: FeatureMaps
    gradient: FeatureMaps


def grad_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Grad-CAM with its ReLU (Selvaraju 2017), through Captum: channels weighted by their mean gradient."""
    from captum.attr import LayerGradCam

    with graph_from_grid(model, images, layer) as (grid, inputs):
        cam = cast(Tensor, LayerGradCam(model, grid).attribute(inputs, target=targets, relu_attributions=True))
    return _depending(cam, model, images, layer).detach().squeeze(1).float()


def grad_cam_pp(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Grad-CAM++ (Chattopadhay 2018), its factor exp(logit), the same all over an image, left out."""
    features, gradient = features_and_gradient(model, images, targets, layer)
    share = 2 * gradient.square() + features.sum((2, 3), keepdim=True) * gradient**3
    alpha = torch.where(share == 0, 0.0, gradient.square() / torch.where(share == 0, 1.0, share))
    return _weighted(features, (alpha * gradient.relu()).sum((2, 3))).relu()


def hires_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """HiResCAM (Draelos 2020): features times their gradient, signed; sums to the logit where the rest is linear."""
    features, gradient = features_and_gradient(model, images, targets, layer)
    return (features * gradient).sum(1)


def layer_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Layer-CAM (Jiang 2021): features times the positive part of their gradient."""
    features, gradient = features_and_gradient(model, images, targets, layer)
    return (features * gradient.relu()).sum(1).relu()


def xgrad_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """XGrad-CAM (Fu 2020): channels weighted by their gradient, averaged in proportion to their features."""
    features, gradient = features_and_gradient(model, images, targets, layer)
    total = features.sum((2, 3))
    weights = (features * gradient).sum((2, 3)) / torch.where(total == 0, 1.0, total)
    return _weighted(features, weights).relu()


def score_cam(
    model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None, batch_size: Count = 64
) -> Maps:
    """Score-CAM (Wang 2020): channels weighted by the logit of the image seen through them, softmax over channels.

    Every channel is enlarged, stretched to [0, 1] and multiplied with the pixels; a constant one shows nothing.
    """
    questions = asked(images, targets)
    seen = questions.images
    with grid_of(model, seen, layer) as grid:
        features = _activations(model, seen, grid)
    masks = features.flatten(0, 1)
    alive = (masks.amax((1, 2)) > masks.amin((1, 2))).nonzero().squeeze(1)
    scores = logits_of(model, torch.zeros_like(seen[:1]))[:, questions.classes].repeat(len(masks), 1)
    for index in alive.split(rows_a_pass(images, batch_size)):
        states = seen[index.div(features.shape[1], rounding_mode="floor")]
        scores[index] = logits_of(model, states * _stretched(masks[index], states))[:, questions.classes]
    weights = scores.unflatten(0, features.shape[:2])[questions.image, :, questions.target]
    return _weighted(features[questions.image], weights.softmax(1)).relu()


def ablation_cam(
    model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None, batch_size: Count = 64
) -> Maps:
    """Ablation-CAM (Desai 2020): channels weighted by the share of the logit that is lost without them."""
    rows = rows_a_pass(images, batch_size)
    with grid_of(model, images, layer) as grid, torch.no_grad():
        with _kept(grid) as kept:
            logits = model(images).float().gather(1, targets.unsqueeze(1))
        features, once = _finite(kept[0]), takes_rows(model, images[:1], grid)
        left = logits.repeat(1, features.shape[1])
        for image, target, channels, found in zip(images.split(1), targets.tolist(), features, left, strict=True):
            for index in channels.flatten(1).any(1).nonzero().squeeze(1).split(rows):  # a channel of zeros is absent
                found[index] = _logits_without(model, image, grid, index, once=once)[:, target]
    lost = _depending(logits - left, model, images, layer, rounding=ROUNDING * logits.abs())
    return _weighted(features, lost / torch.where(logits == 0, 1.0, logits)).relu()


def eigen_cam(model: nn.Module, images: Images, *, layer: str | None = None) -> Maps:
    """Eigen-CAM (Muhammad 2020): features on their first principal direction, of the sign that sums above 0."""
    with grid_of(model, images, layer) as grid:
        features = _activations(model, images, grid)
    projected = _weighted(features, _principal(features.flatten(2)))
    return projected * torch.where(projected.sum((1, 2), keepdim=True) < 0, -1.0, 1.0)


def guided_grad_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Guided backprop times the enlarged Grad-CAM (Selvaraju 2017), the largest size over colours, on pixels."""
    cam = grad_cam(model, images, targets, layer=layer)
    size = guided_gradient(model, images, targets).abs().amax(1).float()
    return size * enlarged(cam.unsqueeze(1), images).squeeze(1)


def choose_layer(model: nn.Module, images: Images) -> str:
    """Name of the last layer that all of the network passes and whose grid has at least 4 x 4 cells.

    A layer with a channel for each class, such as the last convolution of SqueezeNet, is passed over: all maps are the
    same there. Where a network has no such layer, the last on which the output depends. The same for all images of a
    size. It takes a few passes of one image, forwards and backwards: name the layer to save them.
    """
    image = probe((images.shape[2], images.shape[3]), images.shape[1]).to(images)
    layers, classes = _layers_that_matter(model, image), logits_of(model, image).shape[1]
    fitting = [name for name, layout in layers.items() if min(layout.grid) >= LEAST_SIDE]
    if not fitting:
        raise NoMapError(
            f"no layer has a grid of {LEAST_SIDE} x {LEAST_SIDE} cells; name one of those with a grid: "
            f"{listed(layers)}; or choose a method on pixels, such as integrated_gradients"
        )
    telling = [name for name in fitting if layers[name].channels != classes] or fitting
    return next((name for name in reversed(telling) if is_cut(model, image, name)), telling[-1])


@contextmanager
def grid_of(model: nn.Module, images: Images, layer: str | None) -> Iterator[nn.Module]:
    """Inside the block, a module through which the grid of a layer passes as `(b, c, gh, gw)`: a place for hooks.

    The one owner of hooks for all of these methods; what it puts into the network is gone after the block. The first
    pass has to be that of `images`: how the grid lies is read off what the layer gives, so that it costs no other.
    """
    name = choose_layer(model, images) if layer is None else layer
    refuse_cropping_before(model, images, name)
    module = dict(model.named_modules()).get(name, model)
    if module is model or not any(True for _ in module.parameters()):  # unknown, or perhaps an attention matrix
        layouts = [layout_of(model, images[:1], name)]
    else:
        layouts: list[GridLayout] = []
    grid, runs, looking = nn.Identity(), 0, False

    def through(output: Tensor) -> Tensor:
        nonlocal runs, looking
        if looking:
            return output
        if not layouts:
            looking = True  # inside the look the layer is as it was
            layouts.append(layout_in(output, model, images) or layout_of(model, images[:1], name))
            looking = False
        runs += 1
        if runs > 1:
            raise InputError(f"layer {name} runs more than once in a pass; name one that runs once")
        return from_grid(grid(to_grid(output, layouts[0])), output, layouts[0])

    def start(model: nn.Module, inputs: object) -> None:  # noqa: ARG001 - a hook's signature
        nonlocal runs
        runs = 0

    begun = model.register_forward_pre_hook(start)
    try:
        with replaced_output(module, through):
            yield grid
    finally:
        begun.remove()


@contextmanager
def graph_from_grid(model: nn.Module, images: Images, layer: str | None) -> Iterator[tuple[nn.Module, Images]]:
    """`grid_of`, and images whose pass keeps for gradients what comes after the grid alone."""
    with (
        grid_of(model, images, layer) as grid,
        differentiable(images) as inputs,
        graph_after(model, grid),
        replaced_output(grid, lambda features: features.detach().requires_grad_()),
    ):
        yield grid, inputs


def features_and_gradient(model: nn.Module, images: Images, targets: Labels, layer: str | None) -> Seen:
    """The features of a layer and the gradient of the targets' logits there, in one pass for the whole batch."""
    with graph_from_grid(model, images, layer) as (grid, inputs), _kept(grid) as kept:
        score = model(inputs).gather(1, targets.unsqueeze(1)).sum()
        [gradient] = torch.autograd.grad(score, kept)
    return Seen(kept[0].detach().float(), _depending(gradient, model, images, layer).float())


def _activations(model: nn.Module, images: Images, grid: nn.Module) -> FeatureMaps:
    with torch.no_grad(), _kept(grid) as kept:
        model(images)
    return _finite(kept[0])


def _finite(features: FeatureMaps) -> FeatureMaps:
    if not features.isfinite().all():
        raise not_finite("features of the layer")
    return features.float()


def _depending(
    values: Tensor, model: nn.Module, images: Images, layer: str | None, *, rounding: float | Tensor = 0.0
) -> Tensor:
    """The values of a batch; where an image has none beyond rounding, a named layer has to reach the output."""
    if layer is not None and not (values.flatten(1).abs() > rounding).any(1).all():
        image = probe((images.shape[2], images.shape[3]), images.shape[1]).to(images)
        if not reaches_output(model, image, layer):
            others = listed(influential_layers(model, image))
            raise InputError(
                f"the output does not depend on what layer {layer} holds at its cells, so that its map is "
                f"zero; leave layer out, or name one of: {others}"
            )
    return values


@contextmanager
def _kept(grid: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block, every output of the module is kept, out of reach of layers that work in place."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    with replaced_output(grid, keep):
        yield kept


def _layers_that_matter(model: nn.Module, image: Images) -> dict[str, GridLayout]:
    try:
        layers = influential_layers(model, image)
    except InputError:  # no gradients: methods without them take any layer, the others say what is wrong
        layers = {}
    return layers or spatial_layers(model, image)


def _logits_without(
    model: nn.Module, image: Images, grid: nn.Module, channels: Int[Tensor, " n"], *, once: bool
) -> Float[Tensor, "n classes"]:
    """Logits of one image without each of some channels of a layer.

    `once`: the layers before need the image but once, since those after take the several rows that leave the layer.
    """

    def without(features: Tensor) -> Tensor:
        rows = features.expand(len(channels), -1, -1, -1).clone(memory_format=LAYOUT.get())
        rows[torch.arange(len(channels), device=rows.device), channels] = 0
        return rows

    with replaced_output(grid, without):
        return model(image if once else image.expand(len(channels), -1, -1, -1)).float()


def _weighted(features: FeatureMaps, weights: Weights) -> Maps:
    return (weights[..., None, None] * features).sum(1)  # not as a product of matrices, which autocast would round


def _principal(channels: Float[Tensor, "b c n"]) -> Weights:
    """First right singular vectors of `n` cells, from the smaller of the two matrices of products."""
    channels = channels.double()  # squares lose half of the digits
    if channels.shape[1] <= channels.shape[2]:
        return torch.linalg.eigh(channels @ channels.mT).eigenvectors[..., -1].float()
    across = torch.linalg.eigh(channels.mT @ channels).eigenvectors[..., -1:]
    return nn.functional.normalize((channels @ across).squeeze(2), dim=1).float()


def _stretched(masks: Maps, images: Images) -> Float[Tensor, "b 1 h w"]:
    """Enlarged to the images, then to the range [0, 1]; zeros where that leaves a mask constant."""
    large = enlarged(masks.unsqueeze(1), images)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    return (large - low) / torch.where(high == low, 1.0, high - low)
