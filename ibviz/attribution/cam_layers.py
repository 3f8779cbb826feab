"""The layer of a class activation map: its choice, its grid, and the features and gradients there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ibviz.attribution.forward_pass import differentiable, predict_logits
from ibviz.attribution.trial import refuse_misplaced_cells
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
from ibviz.models.layer_choice import is_cut, reaches_output
from ibviz.types import FeatureMaps, Images, Labels

LEAST_SIDE = 4  # cells per side that an automatically chosen layer has at least


class FeaturesAndGradient(NamedTuple):
    """The features of a layer for a batch, and the gradient of each target's logit with respect to them, in float32."""

    features: FeatureMaps
    gradient: FeatureMaps


def choose_layer(model: nn.Module, images: Images) -> str:
    """Return the name of the last layer that the whole network passes through and that has at least 4 x 4 cells.

    Layers with one channel per class, such as the last convolution of SqueezeNet, are skipped: all methods give the
    same map there. If the network has no such layer, it is the last layer on which the output depends. The choice is
    the same for all images of a size. It takes a few forward and backward passes of one image; name the layer to save
    them.

    Raises:
        NoMapError: If no layer has enough cells.
    """
    image = probe((images.shape[2], images.shape[3]), images.shape[1]).to(images)
    layers, classes = _candidate_layers(model, image), predict_logits(model, image).shape[1]
    fitting = [name for name, layout in layers.items() if min(layout.grid) >= LEAST_SIDE]
    if not fitting:
        raise NoMapError(
            f"no layer has a grid of {LEAST_SIDE} x {LEAST_SIDE} cells; name one of those with a grid: "
            f"{listed(layers)}; or choose a method on pixels, such as integrated_gradients"
        )
    candidates = [name for name in fitting if layers[name].channels != classes] or fitting
    return next((name for name in reversed(candidates) if is_cut(model, image, name)), candidates[-1])


@contextmanager
def layer_grid(model: nn.Module, images: Images, layer: str | None) -> Iterator[nn.Module]:
    """Yield a module through which the grid of a layer passes as `(b, c, gh, gw)`, for hooks inside the block.

    All hooks of these methods go through it, and the network is as before after the block. The first pass inside the
    block has to be that of `images`: the layout of the grid follows from the output of the layer in that pass.

    Raises:
        InputError: If there is no such layer, if it has no grid, or if it runs more than once per pass.
    """
    name = choose_layer(model, images) if layer is None else layer
    refuse_misplaced_cells(model, images, name)
    module = dict(model.named_modules()).get(name, model)
    if module is model or not any(True for _ in module.parameters()):  # unknown, or perhaps an attention matrix
        layouts = [layout_of(model, images[:1], name)]
    else:
        layouts: list[GridLayout] = []
    grid, runs, finding = nn.Identity(), 0, False

    def through(output: Tensor) -> Tensor:
        nonlocal runs, finding
        if finding:
            return output
        if not layouts:
            finding = True  # passes that find the layout see the layer as it is
            layouts.append(layout_in(output, model, images) or layout_of(model, images[:1], name))
            finding = False
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
    """Yield `layer_grid` and a copy of the images; the graph of their pass begins at the grid, to save memory."""
    with (
        layer_grid(model, images, layer) as grid,
        differentiable(images) as inputs,
        graph_after(model, grid),
        replaced_output(grid, lambda features: features.detach().requires_grad_()),
    ):
        yield grid, inputs


def features_and_gradient(model: nn.Module, images: Images, targets: Labels, layer: str | None) -> FeaturesAndGradient:
    """Return the features of a layer and the gradient of the targets' logits there, in one pass of the batch."""
    with graph_from_grid(model, images, layer) as (grid, inputs), recorded_outputs(grid) as kept:
        score = model(inputs).gather(1, targets.unsqueeze(1)).sum()
        [gradient] = torch.autograd.grad(score, kept)
    return FeaturesAndGradient(kept[0].detach().float(), require_influence(gradient, model, images, layer).float())


def activations(model: nn.Module, images: Images, grid: nn.Module) -> FeatureMaps:
    """Return the features of a batch that pass through a grid, without gradients, in float32."""
    with torch.no_grad(), recorded_outputs(grid) as kept:
        model(images)
    return finite_features(kept[0])


def finite_features(features: FeatureMaps) -> FeatureMaps:
    """Return features in float32; raise `InputError` if some are NaN or infinite."""
    if not features.isfinite().all():
        raise not_finite("features of the layer")
    return features.float()


def require_influence(
    values: Tensor, model: nn.Module, images: Images, layer: str | None, *, rounding: float | Tensor = 0.0
) -> Tensor:
    """Return the values of a batch; if those of an image are all 0 up to `rounding`, check that the layer matters.

    Raises `InputError` if the output does not depend on the named layer.
    """
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
def recorded_outputs(grid: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that receives the outputs of a module; later layers that work in place cannot change them."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    with replaced_output(grid, keep):
        yield kept


def _candidate_layers(model: nn.Module, image: Images) -> dict[str, GridLayout]:
    try:
        layers = influential_layers(model, image)
    except InputError:  # without gradients any layer may do; methods that need gradients raise their own error
        layers = {}
    return layers or spatial_layers(model, image)
