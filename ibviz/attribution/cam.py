"""Class activation maps: weighted sums of the features on the grid of one layer.

`layer=None` takes the last layer to finish whose grid has at least 4 x 4 cells and reaches the output. Layers hold
`(b, c, h, w)`, `(b, h, w, c)` as in Swin, or tokens as in a vision transformer; the maps are the same functions of the
grid. Raises `InputError` for a layer that is unknown or has no grid, naming those that have one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.attribution.gradients import Count, differentiable, guided_gradient
from ibviz.attribution.perturbation import enlarged, target_logits
from ibviz.errors import InputError, not_finite
from ibviz.models.grids import (
    Features,
    Layout,
    from_grid,
    influential_layers,
    layout_of,
    replaced_output,
    spatial_layers,
    to_grid,
)
from ibviz.types import Images, Labels, Maps

LEAST_SIDE = 4  # cells a side that a layer chosen automatically has at least
LayerSearch = Callable[[nn.Module, Images], dict[str, Layout]]
REMEMBERED: "WeakKeyDictionary[nn.Module, dict[LayerSearch, tuple[tuple[int, ...], dict[str, Layout]]]]"
REMEMBERED = WeakKeyDictionary()
Weights = Float[Tensor, "b c"]


class Seen(NamedTuple):
    """One pass of a batch: the features of a layer and the gradient of the target's logit there, both float32."""

    features: Features
    gradient: Features


def grad_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Grad-CAM with its ReLU (Selvaraju 2017), through Captum: channels weighted by their mean gradient."""
    from captum.attr import LayerGradCam  # noqa: PLC0415 - a second to import

    with grid_of(model, images, layer) as grid, differentiable(images) as inputs:
        cam = LayerGradCam(model, grid).attribute(inputs, target=targets, relu_attributions=True)
    return cast(Tensor, cam).detach().squeeze(1).float()


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
    with grid_of(model, images, layer) as grid:
        features = _activations(model, images, grid)
    masks = features.flatten(0, 1)
    alive = (masks.amax((1, 2)) > masks.amin((1, 2))).nonzero().squeeze(1)
    scores = target_logits(model, torch.zeros_like(images), targets).repeat_interleave(features.shape[1])
    for index in alive.split(batch_size):
        rows = index.div(features.shape[1], rounding_mode="floor")
        states = images[rows]
        scores[index] = target_logits(model, states * _stretched(masks[index], states), targets[rows])
    return _weighted(features, scores.view(features.shape[:2]).softmax(1)).relu()


def ablation_cam(
    model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None, batch_size: Count = 64
) -> Maps:
    """Ablation-CAM (Desai 2020): channels weighted by the share of the logit that is lost without them."""
    logits = target_logits(model, images, targets).unsqueeze(1)
    with grid_of(model, images, layer) as grid:
        features = _activations(model, images, grid)
        one = [_logits_without(model, *pair, grid, batch_size) for pair in zip(images.split(1), targets, strict=True)]
    weights = (logits - torch.stack(one)) / torch.where(logits == 0, 1.0, logits)
    return _weighted(features, weights).relu()


def eigen_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Eigen-CAM (Muhammad 2020): features on their first principal direction, of the sign that sums above 0."""
    del targets  # no class is considered
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
    """Name of the last layer to finish whose grid has at least 4 x 4 cells, of those on which the output depends."""
    layers = remembered(_layers_that_matter, model, images)
    fitting = [name for name, layout in layers.items() if min(layout.grid) >= LEAST_SIDE]
    if not fitting:
        listed = ", ".join(f"{name} ({layout})" for name, layout in layers.items()) or "none"
        raise InputError(f"no layer has a grid of {LEAST_SIDE} x {LEAST_SIDE} cells; name one of those with a grid: "
                         f"{listed}; or choose a method on pixels, such as integrated_gradients")  # fmt: skip
    return fitting[-1]


def remembered(look: LayerSearch, model: nn.Module, images: Images) -> dict[str, Layout]:
    """What `look` finds for one image, kept while the network lives, has the same modules and sees the same size.

    A look costs up to a forward and a backward pass of one image, which is much beside a small batch.
    """
    kept = REMEMBERED.setdefault(model, {})
    state = (*images.shape[2:], *(id(module) for module in model.modules()))
    if look not in kept or kept[look][0] != state:
        kept[look] = state, look(model, images[:1])
    return kept[look][1]


@contextmanager
def grid_of(model: nn.Module, images: Images, layer: str | None) -> Iterator[nn.Module]:
    """Inside the block, a module through which the grid of a layer passes as `(b, c, gh, gw)`: a place for hooks.

    The one owner of hooks for all of these methods; what it puts into the network is gone after the block.
    """
    name = choose_layer(model, images) if layer is None else layer
    layout = remembered(spatial_layers, model, images).get(name) or layout_of(model, images[:1], name)  # or its error
    grid = nn.Identity()
    with replaced_output(model.get_submodule(name), lambda out: from_grid(grid(to_grid(out, layout)), out, layout)):
        yield grid


def features_and_gradient(model: nn.Module, images: Images, targets: Labels, layer: str | None) -> Seen:
    """The features of a layer and the gradient of the targets' logits there, in one pass for the whole batch."""
    with grid_of(model, images, layer) as grid, differentiable(images) as inputs, _kept(grid) as kept:
        score = model(inputs).gather(1, targets.unsqueeze(1)).sum()
        [gradient] = torch.autograd.grad(score, kept)
    return Seen(kept[0].detach().float(), gradient.float())


def _activations(model: nn.Module, images: Images, grid: nn.Module) -> Features:
    with torch.no_grad(), _kept(grid) as kept:
        model(images)
    if not kept[0].isfinite().all():
        raise not_finite("features of the layer")
    return kept[0].float()


@contextmanager
def _kept(grid: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block, every output of the module is kept, out of reach of layers that work in place."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    with replaced_output(grid, keep):
        yield kept


def _layers_that_matter(model: nn.Module, image: Images) -> dict[str, Layout]:
    try:
        layers = influential_layers(model, image)
    except RuntimeError:  # no gradients: methods without them take any layer, the others say what is wrong
        layers = {}
    return layers or spatial_layers(model, image)


@torch.no_grad()
def _logits_without(
    model: nn.Module, image: Images, target: Tensor, grid: nn.Module, batch_size: int
) -> Float[Tensor, " c"]:
    """The target's logit of one image without each of a layer's channels.

    The layers before need the image once, where those after take the several rows that leave the layer for it.
    """
    channels = _activations(model, image, grid).shape[1]
    once = _takes_rows(model, image, grid)
    parts = []
    for index in torch.arange(channels, device=image.device).split(batch_size):
        left = torch.ones(len(index), channels, 1, 1, device=image.device)
        left[torch.arange(len(index)), index] = 0
        with replaced_output(grid, lambda features, left=left: features * left.to(features.dtype)):
            parts.append(model(image if once else image.expand(len(index), -1, -1, -1))[:, target].float())
    return torch.cat(parts)


def _takes_rows(model: nn.Module, image: Images, grid: nn.Module) -> bool:
    """Whether the rest of the network gives two rows of logits for two rows of features."""
    try:
        with replaced_output(grid, lambda features: features.repeat(2, 1, 1, 1)):
            return len(model(image)) == 2
    except (RuntimeError, TypeError):  # it joins them with something that has one row
        return False


def _weighted(features: Features, weights: Weights) -> Maps:
    return (weights[..., None, None] * features).sum(1)  # not as a product of matrices, which autocast would round


def _principal(channels: Float[Tensor, "b c n"]) -> Weights:
    """First right singular vectors of `n` cells, from the smaller of the two matrices of products."""
    channels = channels.double()  # squares lose half of the digits
    if channels.shape[1] <= channels.shape[2]:
        return torch.linalg.eigh(channels @ channels.mT).eigenvectors[..., -1].float()
    across = torch.linalg.eigh(channels.mT @ channels).eigenvectors[..., -1:]
    return nn.functional.normalize((channels @ across).squeeze(2), dim=1).float()


def _stretched(masks: Maps, images: Images) -> Float[Tensor, "b 1 h w"]:
    """Enlarged to the images, then to the range [0, 1]."""
    large = enlarged(masks.unsqueeze(1), images)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    return (large - low) / (high - low)
