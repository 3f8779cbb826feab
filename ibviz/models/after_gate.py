"""A classifier from its gate on: it takes what the layer below gave, so that a frozen stem runs only once."""

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
    """The layers of a network behind its gate; they are those of the network itself, not copies."""

    def __init__(self, layers: nn.Module, layout: GridLayout) -> None:
        """Gate an output that is laid out as `layout` says, and run `layers` on it."""
        super().__init__()
        self.layers, self.layout = layers, layout

    def forward(self, output: Tensor, gate: Any) -> Tensor:
        """Return the features for the classifier, one row for each row that the gate returns."""
        return self.layers(from_grid(gate(to_grid(output, self.layout)), output, self.layout))


def below_gate(model: IBClassifier, images: Images) -> Tensor:
    """Return what the gated layer gives for `images`, before the gate."""
    outputs: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        outputs.append(output)
        return output

    with replaced_output(model.get_submodule(model.layer), keep):
        model.network(model.normalize(images), _open)
    return outputs[0]


def after_gate(model: IBClassifier) -> IBClassifier:
    """Return a classifier that takes what `below_gate` gives in the place of images, and shares every weight.

    The network is cut with `torch.fx`; one that it cannot follow, or in which a way leads past the gated layer, is
    refused with an `InputError`. Layers that behave otherwise in training (dropout, batch norm) stay in eval mode.

    >>> from ibviz.config import InputConfig, ModelConfig
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
    """Return the name of the gated layer, as `layer` in a recipe has it."""
    return model.layer.removeprefix("network.").removeprefix("body.")


def parameters_after_gate(model: IBClassifier) -> list[nn.Parameter]:
    """Return the weights of the network that only act behind its gate."""
    return list(after_gate(model).network.parameters())


def _open(features: FeatureMaps) -> FeatureMaps:
    return features


class _Whole(fx.Tracer):
    """Traces a network, with one of its layers, and every module without parts, as a single step."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = module_qualified_name == self.layer or next(m.children(), None) is None
        return whole or super().is_leaf_module(m, module_qualified_name)


def _behind(body: nn.Module, layer: str) -> fx.GraphModule:
    """The steps of a network after one of its layers, as a module of the output of that layer."""
    try:
        nodes = list(_Whole(layer).trace(body).nodes)
    except Exception as error:  # whatever a network's own code raises at a symbol in the place of a tensor
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
