"""Any classifier as parts: its features gated at a named layer, its last linear layer behind the bottleneck."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.config import UNNAMED, InputConfig, ModelConfig
from ibviz.errors import InputError
from ibviz.models.backbones import BACKBONES, Parts, conv_head
from ibviz.models.extra_networks import EXTRA_NETWORKS
from ibviz.models.grids import GridLayout, from_grid, layer_for_attention, layout_of, probe, to_grid
from ibviz.models.hooks import evaluating, replaced_output

_Basis = Float[Tensor, "k width"]
_FORWARD_ERRORS = (RuntimeError, AssertionError, ValueError)  # what networks raise at images that they cannot take


class GatedNetwork(nn.Module):
    """A network that gives features for its classifier, gated at the output of one of its layers."""

    def __init__(self, body: nn.Module, layer: str, layout: GridLayout) -> None:
        """Gate what the submodule `layer` of `body` gives, laid out as `layout` says."""
        super().__init__()
        self.body, self.layer, self.layout = body, layer, layout

    def forward(self, images: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
        """Features for the classifier, one row for each row that the gate returns."""

        outside = _what_is_kept()

        def replace(output: Tensor) -> Tensor:
            if outside and _what_is_kept() != outside:
                raise InputError(
                    f"layer {self.layer} runs inside a part that is checkpointed or has no gradients, and "
                    "would be computed again without its attention; switch checkpointing off (timm: "
                    "set_grad_checkpointing(False)), or name a layer outside that part"
                )
            return from_grid(gate(to_grid(output, self.layout)), output, self.layout)

        with replaced_output(self.body.get_submodule(self.layer), replace):
            return self.body(images)


def _what_is_kept() -> tuple[object, ...]:
    """How values are kept for gradients here, which differs inside a checkpointed part; empty where they are not."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return ()
    return (True, torch._C._autograd._top_saved_tensors_default_hooks(True))  # pyright: ignore[reportAttributeAccessIssue]


def build_parts(config: ModelConfig, spec: InputConfig) -> Parts:
    """The parts of a configuration, with random weights."""
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


def create(name: str, classes: int | None = None) -> nn.Module:
    """Build a torchvision/NAME, timm/NAME or ibviz/NAME network with random weights, by default for its own classes."""
    library, _, bare = name.partition("/")
    sized = {} if classes is None else {"num_classes": classes}
    try:
        return _BUILDERS[library](bare, **sized)
    except (RuntimeError, ValueError) as error:  # what timm and torchvision raise for a name they do not know
        raise InputError(
            f"{library} has no classifier {bare!r} ({error}); expected a name such as "
            f"{_EXAMPLES[library]}; its own documentation lists them"
        ) from error


def _create_torchvision(name: str, **sized: Any) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError("not among torchvision.models")
    quiet = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, **sized, **quiet)


def _create_timm(name: str, **sized: Any) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise InputError("timm is not installed; install it: pip install 'ibviz[timm]'") from error
    return timm.create_model(name, **sized)


def _create_own(name: str, num_classes: int | None = None) -> nn.Module:
    if name not in EXTRA_NETWORKS:
        raise ValueError(f"known: {', '.join(EXTRA_NETWORKS)}")
    return EXTRA_NETWORKS[name].build(*([] if num_classes is None else [num_classes]))


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "torchvision": _create_torchvision,
    "timm": _create_timm,
    "ibviz": _create_own,
}
_EXAMPLES = {"torchvision": "torchvision/resnet50", "timm": "timm/resnet50", "ibviz": "ibviz/mobilenet_v2_same"}


def split_classifier(network: nn.Module, config: ModelConfig, spec: InputConfig, names: Sequence[str] = ()) -> Parts:
    """Take a classifier apart: `network` is changed, its last linear layer becomes part of the decoder.

    A linear layer before it leads from z back to its features. Both ends of the bottleneck start as the directions
    that this layer reads, so that with at least as many latents as classes nothing it needs is lost; attention starts
    at one half everywhere, independent of the scale of the features. `names` are those of the network's own classes: a
    class of `spec` among them keeps its row of the last layer.
    """
    image, classes = probe_image(network, spec), len(spec.class_names)
    _refuse_compiled(network)
    with evaluating(network), _detached_head(network, image) as read:
        name = config.layer or layer_for_attention(network, image)
        layout = layout_of(network, image, name)
        directions = _directions(read)
        with torch.enable_grad():
            GatedNetwork(network, name, layout)(image, lambda features: features)  # refused now or never
    head = read
    if read.out_features != classes:
        head, known = _head_for(read, names, spec.class_names)
        directions = _directions(head) if known else directions
    decoder = nn.Sequential(OrderedDict(restore=nn.Linear(config.latent, read.in_features), head=head))
    return Parts(
        GatedNetwork(network, name, layout),
        f"body.{name}",
        layout.channels,
        conv_head(layout.channels, config),
        read.in_features,
        decoder,
        partial(_start_with, directions),
    )


def device_and_dtype_of(network: nn.Module) -> Tensor:
    """An empty tensor where the network's first weight lies, of its type: what `.to` takes."""
    weights = chain(network.parameters(), network.buffers())
    return next((one.new_empty(0) for one in weights if one.is_floating_point()), torch.empty(0))


def probe_image(network: nn.Module, spec: InputConfig) -> Tensor:
    """An image to find out about a network with, of the size that it expects."""
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
    """Put an identity in the place of the layer that gives the logits; an error in the block puts the layer back."""
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
                "that layer, or has several classifiers; it cannot take a bottleneck there"
            )
        yield head
        undo.pop_all()


@torch.no_grad()
def reproduces(compute: Callable[[], Tensor], logits: Tensor) -> bool:
    """Whether a computation comes to these logits, but for rounding."""
    try:
        found = compute()
    except _FORWARD_ERRORS:  # such as the sum of two classifiers' outputs
        return False
    return found.shape == logits.shape and bool((found - logits).abs().max() <= 1e-5 * logits.abs().max())


def compute_logits(network: nn.Module, image: Tensor) -> Tensor:
    """What the network says to an image, if it is logits."""
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


def _head_for(read: nn.Linear, names: Sequence[str], wanted: Sequence[str]) -> tuple[nn.Linear, bool]:
    """A last layer for other classes, in which known ones keep their weights; and whether all of them are known."""
    places = {name: place for place, name in enumerate(names) if names.count(name) == 1}
    head = nn.Linear(read.in_features, len(wanted), bias=read.bias is not None).to(read.weight)
    rows = [row for row, name in enumerate(wanted) if name in places]
    with torch.no_grad():
        for own, given in zip(head.parameters(), read.parameters(), strict=True):
            own[rows] = given[[places[wanted[row]] for row in rows]]
    return head, len(rows) == len(wanted)


def _as_linear(convolution: nn.Conv2d) -> nn.Linear:
    linear = nn.Linear(convolution.in_channels, convolution.out_channels, convolution.bias is not None)
    linear.weight = nn.Parameter(convolution.weight.detach().flatten(1))
    if convolution.bias is not None:
        linear.bias = nn.Parameter(convolution.bias.detach())
    return linear


def _directions(head: nn.Linear) -> _Basis:
    """Orthonormal directions of the features that the layer reads, the ones with most effect first."""
    weight = head.weight.detach()
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))  # half precision cannot be decomposed
    return torch.linalg.svd(precise, full_matrices=False).Vh


def _start_with(directions: _Basis, classifier: nn.Module) -> None:
    """Project onto the directions and back; latents beyond their number keep their random start, unread at first."""
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
