"""Splitting of any classifier into parts: a gate at a named layer, and the last linear layer after the bottleneck."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.errors import InputError
from ibviz.models.backbones import BACKBONES, Parts, conv_head
from ibviz.models.config import UNNAMED, InputConfig, ModelConfig
from ibviz.models.grids import GridLayout, from_grid, layout_of, probe, to_grid
from ibviz.models.hooks import evaluating, replaced_output
from ibviz.models.layer_choice import layer_for_attention
from ibviz.models.libraries import create

_Basis = Float[Tensor, "k width"]
_FORWARD_ERRORS = (RuntimeError, AssertionError, ValueError)  # raised by networks for images of a wrong shape


class GatedNetwork(nn.Module):
    """Network without its last layer, with a gate at the output of one of its layers."""

    def __init__(self, body: nn.Module, layer: str, layout: GridLayout) -> None:
        """Gate the output of the submodule `layer` of `body`, whose grid is described by `layout`."""
        super().__init__()
        self.body, self.layer, self.layout = body, layer, layout

    def forward(self, images: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the features for the classifier, one row per row that the gate returns."""

        outside = _autograd_state()

        def replace(output: Tensor) -> Tensor:
            if outside and _autograd_state() != outside:
                raise InputError(
                    f"layer {self.layer} runs inside a part that is checkpointed or has no gradients, and "
                    "would be computed again without its attention; switch checkpointing off (timm: "
                    "set_grad_checkpointing(False)), or name a layer outside that part"
                )
            return from_grid(gate(to_grid(output, self.layout)), output, self.layout)

        with replaced_output(self.body.get_submodule(self.layer), replace):
            return self.body(images)


def _autograd_state() -> tuple[object, ...]:
    """Return the hooks for saved tensors, which differ inside a checkpointed part; empty without gradients."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return ()
    return (True, torch._C._autograd._top_saved_tensors_default_hooks(True))  # pyright: ignore[reportAttributeAccessIssue]


def build_parts(config: ModelConfig, spec: InputConfig) -> Parts:
    """Build the parts of a configuration with random weights."""
    if config.backbone in BACKBONES:
        if config.layer is not None:
            raise InputError(f"{config.backbone} has its attention at a fixed layer; leave layer out")
        if len(spec.mean) != 3:
            raise InputError(f"{config.backbone} takes images of 3 channels; got {len(spec.mean)}")
        return BACKBONES[config.backbone](config, spec)
    if config.backbone == UNNAMED:
        raise InputError(
            "this classifier was made of a module without a name, which no file can rebuild; attach to "
            "one that `ibviz.load` knows, as timm/resnet50, or tell `ibviz.wrap` its name"
        )
    return split_classifier(create(config.backbone, len(spec.class_names)), config, spec)


def split_classifier(network: nn.Module, config: ModelConfig, spec: InputConfig, names: Sequence[str] = ()) -> Parts:
    """Split a classifier into parts; `network` is changed, and its last linear layer becomes part of the decoder.

    A new linear layer maps z back to the features that the last layer reads. The bottleneck starts as a projection onto
    the directions that the last layer reads, so that nothing it needs is lost if there are at least as many latents as
    classes. Attention starts at one half everywhere, independent of the scale of the features.

    Args:
        network: Classifier.
        config: Layer, gate, attention head and bottleneck.
        spec: Input and class names of the result.
        names: Names of the network's own classes; those among the new class names keep their row of the last layer.

    Raises:
        InputError: The network has no such layer, no linear last layer, or is compiled.
    """
    image, classes = probe_image(network, spec), len(spec.class_names)
    _refuse_compiled(network)
    with evaluating(network), _detached_head(network, image) as last:
        name = config.layer or layer_for_attention(network, image)
        layout = layout_of(network, image, name)
        directions = _directions(last)
        with torch.enable_grad():
            GatedNetwork(network, name, layout)(
                image, lambda features: features
            )  # fails here if the layer cannot be gated
    head = last
    if last.out_features != classes:
        head, known = _head_for(last, names, spec.class_names)
        directions = _directions(head) if known else directions
    decoder = nn.Sequential(OrderedDict(restore=nn.Linear(config.latent, last.in_features), head=head))
    return Parts(
        GatedNetwork(network, name, layout),
        f"body.{name}",
        layout.channels,
        conv_head(layout.channels, config),
        last.in_features,
        decoder,
        partial(_start_with, directions),
    )


def device_and_dtype_of(network: nn.Module) -> Tensor:
    """Return an empty tensor with the device and type of the network's first weight, as an argument of `.to`."""
    weights = chain(network.parameters(), network.buffers())
    return next((weight.new_empty(0) for weight in weights if weight.is_floating_point()), torch.empty(0))


def probe_image(network: nn.Module, spec: InputConfig) -> Tensor:
    """Return an image of noise of the size that a network expects."""
    return probe(spec.height_width, len(spec.mean)).to(device_and_dtype_of(network))


def _refuse_compiled(network: nn.Module) -> None:
    for module in network.modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise InputError(
                "this network is compiled, and compiled code leaves attention out; attach to the network "
                "as it was, compiled._orig_mod, and compile the result"
            )


@contextmanager
def _detached_head(network: nn.Module, image: Tensor) -> Iterator[nn.Linear]:
    """Replace the last linear layer by an identity and yield it; an error in the block restores the network."""
    with torch.no_grad():
        logits = compute_logits(network, image)
        name, module = _find_head(network, logits.shape[-1])
    parent, _, own = name.rpartition(".")
    head, owner = module if isinstance(module, nn.Linear) else _as_linear(module), network.get_submodule(parent)
    with ExitStack() as undo:
        undo.callback(setattr, owner, own, module)
        setattr(owner, own, nn.Identity())
        if not reproduces(lambda: head(network(image)), logits):
            raise InputError(
                f"{type(network).__name__} does more between its layer {name!r} and its logits than apply "
                "that layer, or has several classifiers; it cannot take a bottleneck there: take a network whose "
                "last layer is linear and gives the logits, such as torchvision/resnet18 or timm/resnet50"
            )
        yield head
        undo.pop_all()


@torch.no_grad()
def reproduces(compute: Callable[[], Tensor], logits: Tensor) -> bool:
    """Return True if a computation gives these logits, up to rounding."""
    try:
        result = compute()
    except _FORWARD_ERRORS:  # such as the sum of two classifiers' outputs
        return False
    return result.shape == logits.shape and bool((result - logits).abs().max() <= 1e-5 * logits.abs().max())


def compute_logits(network: nn.Module, image: Tensor) -> Tensor:
    """Return the logits of an image; raise `InputError` if the network fails or its output is not `(b, classes)`."""
    try:
        output = network(image)
    except _FORWARD_ERRORS as error:
        rows, columns = image.shape[2:]
        size = f"{rows}" if rows == columns else f"{rows}x{columns}"
        raise InputError(
            f"{type(network).__name__} cannot take images of {size} pixels: "
            f"{str(error).splitlines()[0]}; set another image_size"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise InputError(
            f"expected logits (b, classes) of {type(network).__name__}; got {type(output).__name__} "
            f"of shape {tuple(getattr(output, 'shape', ()))}"
        )
    return output


def _find_head(network: nn.Module, classes: int) -> tuple[str, nn.Linear | nn.Conv2d]:
    for name, module in reversed(list(network.named_modules())):
        if isinstance(module, nn.Linear) and module.out_features == classes:
            return name, module
        if isinstance(module, nn.Conv2d) and module.out_channels == classes and module.kernel_size == (1, 1):
            return name, module
    raise InputError(
        f"{type(network).__name__} has no linear layer that gives its {classes} logits; the bottleneck goes before it"
    )


def _head_for(last: nn.Linear, names: Sequence[str], wanted: Sequence[str]) -> tuple[nn.Linear, bool]:
    """Build a last layer for other classes; known classes keep their weights. Also return if all are known."""
    indices = {name: index for index, name in enumerate(names) if names.count(name) == 1}
    head = nn.Linear(last.in_features, len(wanted), bias=last.bias is not None).to(last.weight)
    rows = [row for row, name in enumerate(wanted) if name in indices]
    with torch.no_grad():
        for new, old in zip(head.parameters(), last.parameters(), strict=True):
            new[rows] = old[[indices[wanted[row]] for row in rows]]
    return head, len(rows) == len(wanted)


def _as_linear(convolution: nn.Conv2d) -> nn.Linear:
    linear = nn.Linear(convolution.in_channels, convolution.out_channels, convolution.bias is not None)
    linear.weight = nn.Parameter(convolution.weight.detach().flatten(1))
    if convolution.bias is not None:
        linear.bias = nn.Parameter(convolution.bias.detach())
    return linear


def _directions(head: nn.Linear) -> _Basis:
    """Compute orthonormal directions of the features that the layer reads, those with the largest effect first."""
    weight = head.weight.detach()
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))  # no SVD in half precision
    return torch.linalg.svd(precise, full_matrices=False).Vh


def _start_with(directions: _Basis, classifier: nn.Module) -> None:
    """Initialise the bottleneck as a projection onto the directions and back; further latents are not read at first."""
    for parameter in cast(nn.Sequential, classifier.get_submodule("attention.head"))[-1].parameters():
        nn.init.zeros_(parameter)
    project, restore = classifier.get_submodule("bottleneck.project"), classifier.get_submodule("decoder.restore")
    weight, back = (cast(Tensor, layer.weight) for layer in (project, restore))
    kept = directions[: back.shape[1]]
    with torch.no_grad():
        weight[: len(kept)] = kept
        cast(Tensor, project.bias)[: back.shape[1]] = 0
        back.zero_()[:, : len(kept)] = kept.T
        cast(Tensor, restore.bias).zero_()
