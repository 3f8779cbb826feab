"""The part of a classifier after its gate: it takes stored features, so that a frozen stem runs only once."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ibviz.errors import InputError
from ibviz.models.backbones import SplitNetwork
from ibviz.models.classifier import IBClassifier
from ibviz.models.gated_network import GatedNetwork, probe_image, reproduces
from ibviz.models.grids import GridLayout, from_grid, to_grid
from ibviz.models.hooks import evaluating, replaced_output
from ibviz.types import FeatureMaps, Images


class NetworkAfterGate(nn.Module):
    """Layers of a network after its gate, shared with the network, not copied."""

    def __init__(self, layers: nn.Module, layout: GridLayout) -> None:
        """Apply `layers` to a gated output whose grid is described by `layout`."""
        super().__init__()
        self.layers, self.layout = layers, layout

    def forward(self, output: Tensor, gate: Any) -> Tensor:
        """Return the features for the classifier, one row per row that the gate returns."""
        return self.layers(from_grid(gate(to_grid(output, self.layout)), output, self.layout))


def below_gate(model: IBClassifier, images: Images) -> Tensor:
    """Return the output of the gated layer for `images`, before the gate."""
    outputs: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        outputs.append(output)
        return output

    with replaced_output(model.get_submodule(model.layer), keep):
        model.network(model.normalize(images), _open)
    return outputs[0]


def after_gate(model: IBClassifier) -> IBClassifier:
    """Return a classifier that takes the output of `below_gate` instead of images, and shares all weights.

    The network is cut with `torch.fx`. Raises `InputError` if the network cannot be traced, or if a path bypasses the
    gated layer. Layers that behave differently in training (dropout, batch norm) stay in eval mode.

    >>> from ibviz.models.config import InputConfig, ModelConfig
    >>> spec = InputConfig(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=tuple("0123456789"))
    >>> model, images = IBClassifier(ModelConfig(anchors=5), spec).eval(), torch.rand(2, 3, 48, 48)
    >>> bool((after_gate(model)(below_gate(model, images)) == model(images)).all())
    True
    """
    network, view = model.network, copy.copy(model)
    image = probe_image(network, model.spec)
    if isinstance(network, SplitNetwork):
        rest = NetworkAfterGate(network.encoder, GridLayout("bchw", (0, 0), 0))
    elif isinstance(network, GatedNetwork):
        with evaluating(network):
            rest = NetworkAfterGate(_behind(network.body, network.layer), network.layout)
    else:
        raise InputError(f"a {type(network).__name__} cannot be cut at its gate: leave cache_features out")
    view._modules = {**model._modules, "normalize": nn.Identity(), "network": rest}
    with torch.no_grad(), evaluating(model), evaluating(view):
        if not reproduces(lambda: view(below_gate(model, image)), model(image)):
            raise InputError(
                f"layers behind {network_layer(model)} compute something else when they run on their own: "
                "leave cache_features out"
            )
    return view


def network_layer(model: IBClassifier) -> str:
    """Return the name of the gated layer, as written under `layer` in a recipe."""
    return model.layer.removeprefix("network.").removeprefix("body.")


def parameters_after_gate(model: IBClassifier) -> list[nn.Parameter]:
    """Return the network's parameters after its gate."""
    return list(after_gate(model).network.parameters())


def _open(features: FeatureMaps) -> FeatureMaps:
    return features


class _Whole(fx.Tracer):
    """Tracer that treats one given layer, and every module without children, as a single step."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = module_qualified_name == self.layer or next(m.children(), None) is None
        return whole or super().is_leaf_module(m, module_qualified_name)


def _behind(body: nn.Module, layer: str) -> fx.GraphModule:
    """Build a module from the steps of a network after a layer; its input is the output of that layer."""
    try:
        nodes = list(_Whole(layer).trace(body).nodes)
    except Exception as error:  # a network's code may raise anything when it is traced
        raise InputError(
            f"{type(body).__name__} cannot be followed by torch.fx ({str(error).splitlines()[0]}): leave "
            "cache_features out"
        ) from error
    place = next(number for number, node in enumerate(nodes) if node.op == "call_module" and node.target == layer)
    graph = fx.Graph()
    known: dict[fx.Node, fx.Node] = {nodes[place]: graph.placeholder("output")}
    for node in nodes[place + 1 :]:
        known[node] = graph.node_copy(node, lambda before: _known(known, before, body, layer))
    return fx.GraphModule(body, graph)


def _known(known: Mapping[fx.Node, fx.Node], node: fx.Node, body: nn.Module, layer: str) -> fx.Node:
    if node not in known:
        raise InputError(
            f"in {type(body).__name__} a way leads past layer {layer} (by {node.name}): its features "
            "alone do not tell the rest; leave cache_features out"
        )
    return known[node]
