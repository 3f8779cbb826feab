"""Class activation maps: weighted sums of the features on the grid of one layer.

With `layer=None` they take the last layer that the whole network passes through and that has at least 4 x 4 cells.
Layers may hold `(b, c, h, w)`, `(b, h, w, c)` as in Swin, or tokens as in a vision transformer. All methods raise
`InputError` for a layer that is unknown or has no grid, and name those that have one.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ibviz.attribution.backpropagation import guided_gradient
from ibviz.attribution.cam_layers import (
    activations,
    features_and_gradient,
    finite_features,
    graph_from_grid,
    layer_grid,
    recorded_outputs,
    require_influence,
)
from ibviz.attribution.filters import upsample
from ibviz.attribution.forward_pass import MEMORY_FORMAT, distinct_inputs, images_per_pass, predict_logits
from ibviz.models.hooks import replaced_output
from ibviz.models.layer_choice import takes_rows
from ibviz.settings import Count
from ibviz.types import FeatureMaps, Images, Labels, Maps

_ROUNDING = 1e-3  # share of the logit: a smaller loss of a channel may be rounding
ChannelWeights = Float[Tensor, "b c"]


def grad_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Grad-CAM (Selvaraju 2017): channels weighted by their mean gradient, then ReLU; by Captum.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of a submodule; if None, that of `choose_layer`.

    Returns:
        One value per cell of the layer, not negative.
    """
    from captum.attr import LayerGradCam

    with graph_from_grid(model, images, layer) as (grid, inputs):
        cam = cast(Tensor, LayerGradCam(model, grid).attribute(inputs, target=targets, relu_attributions=True))
    return require_influence(cam, model, images, layer).detach().squeeze(1).float()


def grad_cam_pp(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Grad-CAM++ (Chattopadhay 2018): channels weighted by their weighted positive gradients, then ReLU.

    The factor exp(logit) is left out: it is the same in all cells of an image.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of a submodule; if None, that of `choose_layer`.

    Returns:
        One value per cell of the layer, not negative.
    """
    features, gradient = features_and_gradient(model, images, targets, layer)
    share = 2 * gradient.square() + features.sum((2, 3), keepdim=True) * gradient**3
    alpha = torch.where(share == 0, 0.0, gradient.square() / torch.where(share == 0, 1.0, share))
    return _weighted_sum(features, (alpha * gradient.relu()).sum((2, 3))).relu()


def hires_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """HiResCAM (Draelos 2020): features times their gradient, summed over channels, signed.

    If all later layers are linear, a map sums to the logit, apart from a constant.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of a submodule; if None, that of `choose_layer`.

    Returns:
        One signed value per cell of the layer, in units of the logit.
    """
    features, gradient = features_and_gradient(model, images, targets, layer)
    return (features * gradient).sum(1)


def layer_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Layer-CAM (Jiang 2021): features times the positive part of their gradient, summed over channels, then ReLU.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of a submodule; if None, that of `choose_layer`.

    Returns:
        One value per cell of the layer, not negative.
    """
    features, gradient = features_and_gradient(model, images, targets, layer)
    return (features * gradient.relu()).sum(1).relu()


def xgrad_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """XGrad-CAM (Fu 2020): channels weighted by their gradient, averaged in proportion to the features, then ReLU.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of a submodule; if None, that of `choose_layer`.

    Returns:
        One value per cell of the layer, not negative.
    """
    features, gradient = features_and_gradient(model, images, targets, layer)
    total = features.sum((2, 3))
    weights = (features * gradient).sum((2, 3)) / torch.where(total == 0, 1.0, total)
    return _weighted_sum(features, weights).relu()


def score_cam(
    model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None, batch_size: Count = 64
) -> Maps:
    """Score-CAM (Wang 2020): channels weighted by the logit of the image masked with them, then ReLU.

    Each channel is enlarged, scaled to [0, 1] and multiplied with the pixels; a constant channel masks everything. The
    weights are a softmax of the logits over the channels.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of a submodule; if None, that of `choose_layer`.
        batch_size: The most masked images in one pass.

    Returns:
        One value per cell of the layer, not negative.
    """
    inputs = distinct_inputs(images, targets)
    with layer_grid(model, inputs.images, layer) as grid:
        features = activations(model, inputs.images, grid)
    masks = features.flatten(0, 1)
    alive = (masks.amax((1, 2)) > masks.amin((1, 2))).nonzero().squeeze(1)
    scores = predict_logits(model, torch.zeros_like(inputs.images[:1]))[:, inputs.classes].repeat(len(masks), 1)
    for index in alive.split(images_per_pass(images, batch_size)):
        states = inputs.images[index.div(features.shape[1], rounding_mode="floor")]
        scores[index] = predict_logits(model, states * _scaled_masks(masks[index], states))[:, inputs.classes]
    weights = scores.unflatten(0, features.shape[:2])[inputs.image_index, :, inputs.class_index]
    return _weighted_sum(features[inputs.image_index], weights.softmax(1)).relu()


def ablation_cam(
    model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None, batch_size: Count = 64
) -> Maps:
    """Ablation-CAM (Desai 2020): channels weighted by the share of the logit that is lost without them, then ReLU.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of a submodule; if None, that of `choose_layer`.
        batch_size: The most copies of an image in one pass.

    Returns:
        One value per cell of the layer, not negative.
    """
    rows = images_per_pass(images, batch_size)
    with layer_grid(model, images, layer) as grid, torch.no_grad():
        with recorded_outputs(grid) as kept:
            logits = model(images).float().gather(1, targets.unsqueeze(1))
        features, image_once = finite_features(kept[0]), takes_rows(model, images[:1], grid)
        ablated = logits.repeat(1, features.shape[1])
        for image, target, channels, row in zip(images.split(1), targets.tolist(), features, ablated, strict=True):
            for index in channels.flatten(1).any(1).nonzero().squeeze(1).split(rows):  # a channel of zeros is absent
                row[index] = _logits_without_channels(model, image, grid, index, image_once=image_once)[:, target]
    lost = require_influence(logits - ablated, model, images, layer, rounding=_ROUNDING * logits.abs())
    return _weighted_sum(features, lost / torch.where(logits == 0, 1.0, logits)).relu()


def eigen_cam(model: nn.Module, images: Images, *, layer: str | None = None) -> Maps:
    """Eigen-CAM (Muhammad 2020): features projected onto their first principal direction; independent of the class.

    The sign is that with which the map sums to a positive number.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        layer: Name of a submodule; if None, that of `choose_layer`.

    Returns:
        One signed value per cell of the layer.
    """
    with layer_grid(model, images, layer) as grid:
        features = activations(model, images, grid)
    projected = _weighted_sum(features, _principal_direction(features.flatten(2)))
    return projected * torch.where(projected.sum((1, 2), keepdim=True) < 0, -1.0, 1.0)


def guided_grad_cam(model: nn.Module, images: Images, targets: Labels, *, layer: str | None = None) -> Maps:
    """Guided Grad-CAM (Selvaraju 2017): guided backpropagation times the enlarged Grad-CAM.

    Of the gradient the largest size over colours is taken.

    Args:
        model: Any network with a layer that has a grid.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        layer: Name of a submodule; if None, that of `choose_layer`.

    Returns:
        One value per pixel, not negative.
    """
    cam = grad_cam(model, images, targets, layer=layer)
    size = guided_gradient(model, images, targets).abs().amax(1).float()
    return size * upsample(cam.unsqueeze(1), images).squeeze(1)


def _logits_without_channels(
    model: nn.Module, image: Images, grid: nn.Module, channels: Int[Tensor, " n"], *, image_once: bool
) -> Float[Tensor, "n classes"]:
    """Return the logits of one image with each of some channels of a layer set to 0 in turn.

    With `image_once` the image passes the layers before once: those after accept several rows for one image.
    """

    def without(features: Tensor) -> Tensor:
        rows = features.expand(len(channels), -1, -1, -1).clone(memory_format=MEMORY_FORMAT.get())
        rows[torch.arange(len(channels), device=rows.device), channels] = 0
        return rows

    with replaced_output(grid, without):
        return model(image if image_once else image.expand(len(channels), -1, -1, -1)).float()


def _weighted_sum(features: FeatureMaps, weights: ChannelWeights) -> Maps:
    return (weights[..., None, None] * features).sum(1)  # not as a product of matrices, which autocast would round


def _principal_direction(channels: Float[Tensor, "b c n"]) -> ChannelWeights:
    """Return the first principal direction of the channels over `n` cells, from the smaller Gram matrix."""
    channels = channels.double()  # products have twice as many digits
    if channels.shape[1] <= channels.shape[2]:
        return torch.linalg.eigh(channels @ channels.mT).eigenvectors[..., -1].float()
    across = torch.linalg.eigh(channels.mT @ channels).eigenvectors[..., -1:]
    return nn.functional.normalize((channels @ across).squeeze(2), dim=1).float()


def _scaled_masks(masks: Maps, images: Images) -> Float[Tensor, "b 1 h w"]:
    """Return masks enlarged to the images and scaled to [0, 1]; zeros for a constant mask."""
    large = upsample(masks.unsqueeze(1), images)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    return (large - low) / torch.where(high == low, 1.0, high - low)
