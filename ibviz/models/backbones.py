"""Backbones of the authors, and ours for the embedded images: split at the gate, with attention head and decoder."""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from ibviz.errors import InputError
from ibviz.models.config import InputConfig, ModelConfig


class Parts(NamedTuple):
    """Parts of an `IBClassifier`.

    `network` takes normalised images and a gate, which it calls once with its features `(b, channels, h, w)`, and
    returns `(b, width)`. `head` maps these features to one channel on the same grid, `decoder` maps z to logits.
    `layer` is the name of the submodule of `network` whose output is gated.
    """

    network: nn.Module
    layer: str
    channels: int
    head: nn.Module
    width: int
    decoder: nn.Module
    initialise: Callable[[nn.Module], object] | None = None  # applied to the whole classifier; None: PyTorch's default


class SplitNetwork(nn.Module):
    """A network in two parts, with the gate between them."""

    def __init__(self, stem: nn.Module, encoder: nn.Module) -> None:
        """Gate the output of `stem`, and run `encoder` on it."""
        super().__init__()
        self.stem, self.encoder = stem, encoder

    def forward(self, images: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
        """Return encoded features, one row per row that the gate returns."""
        return self.encoder(gate(self.stem(images)))


def split_parts(stem: nn.Module, encoder: nn.Module, *others: Any) -> Parts:
    """Build the parts of a network that is gated after its stem."""
    return Parts(SplitNetwork(stem, encoder), "stem", *others)


def conv_head(channels: int, config: ModelConfig) -> nn.Sequential:
    """Build the VGG networks' attention head: `head_depth` convolutions with ReLU, then one to a single channel.

    Hidden layers have as many channels as the features. With `head_width` (our addition) they have that many, and batch
    norm before each ReLU.
    """
    width, hidden = config.head_width or channels, list[nn.Module]()
    for inputs in [channels, *[width] * (config.head_depth - 1)][: config.head_depth]:
        norm = [] if config.head_width is None else [nn.BatchNorm2d(width)]
        hidden += [nn.Conv2d(inputs, width, 3, padding=1), *norm, nn.ReLU()]
    return nn.Sequential(*hidden, nn.Conv2d(width if hidden else channels, 1, 3, padding=1))


def refuse_head_options(config: ModelConfig) -> None:
    """Refuse `head_depth` and `head_width` for a backbone whose attention head is fixed."""
    if config.head_depth or config.head_width:
        raise InputError(f"the attention head of {config.backbone} is fixed; leave head_depth and head_width out")


def conv_bn_relu(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> list[nn.Module]:
    """Build a 3x3 convolution, batch norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def conv_block(inputs: int, outputs: int, layers: int) -> nn.Sequential:
    """Build `layers` convolutions at one resolution; the first changes the number of channels."""
    widths = [inputs] + [outputs] * layers
    return nn.Sequential(*(part for a, b in pairwise(widths) for part in conv_bn_relu(a, b)))


def two_layer_decoder(config: ModelConfig, spec: InputConfig) -> nn.Sequential:
    """Build the decoder of the VGG networks."""
    latent, classes = config.latent, len(spec.class_names)
    return nn.Sequential(nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, classes))


def digits_network(config: ModelConfig, spec: InputConfig) -> Parts:
    """Build a small network for the embedded 48 px images: 0.4 M parameters, attention on 12 x 12 cells of 4 px."""
    refuse_head_options(config)
    stem = nn.Sequential(
        *conv_bn_relu(3, 24, stride=2, bias=False),
        *conv_bn_relu(24, 32, bias=False),
        *conv_bn_relu(32, 64, stride=2, bias=False),
        *conv_bn_relu(64, 64, bias=False),
    )
    head = nn.Sequential(*conv_bn_relu(64, 32, bias=False), nn.Conv2d(32, 1, 3, padding=1))
    encoder = nn.Sequential(
        *conv_bn_relu(64, 96, stride=2, bias=False),
        *conv_bn_relu(96, 128, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return split_parts(stem, encoder, 64, head, 128, two_layer_decoder(config, spec))


def vgg32(config: ModelConfig, spec: InputConfig) -> Parts:
    """Build the authors' VGG for 32 px: attention on 16 x 16 cells, 20 M parameters, their initialisation.

    For images of 64 px and more, its convolutions end on several cells, and the layer to the latents is wider.
    """
    if spec.side < 32:
        raise InputError(f"backbone vgg32 cannot take images of {spec.side} pixels but 32 and more: set image_size")
    stem = nn.Sequential(conv_block(3, 64, 2), conv_block(64, 128, 2), conv_block(128, 256, 3), nn.MaxPool2d(2))
    tail = nn.Sequential(*conv_bn_relu(512, 512), nn.MaxPool2d(2), *conv_bn_relu(512, 512), nn.MaxPool2d(2))
    encoder = nn.Sequential(
        conv_block(256, 512, 3),
        nn.MaxPool2d(2),
        conv_block(512, 512, 3),
        nn.MaxPool2d(2),
        tail,
        nn.Conv2d(512, 512, 1),
        nn.ReLU(),
        nn.Flatten(),
    )
    head, decoder = conv_head(256, config), two_layer_decoder(config, spec)
    width = 512 * (spec.side // 32) ** 2
    return split_parts(stem, encoder, 256, head, width, decoder, partial(_on_modules, _initialise_vgg))


def vgg16(config: ModelConfig, spec: InputConfig) -> Parts:
    """Build the authors' VGG-16 for 224 px, without batch norm: attention on its last features, 14 x 14 cells."""
    from torchvision import models

    stem = cast(nn.Sequential, models.vgg16().features)[:-1]
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten())
    head, decoder = conv_head(512, config), two_layer_decoder(config, spec)
    return split_parts(stem, encoder, 512, head, 4608, decoder, partial(_on_modules, _initialise_vgg))


def wrn50_2(config: ModelConfig, spec: InputConfig) -> Parts:
    """Build the authors' WRN-50-2 for 224 px: attention on layer 3 (14 x 14 cells).

    Its attention head is a copy of layer 4 at stride 1.
    """
    from torchvision import models

    refuse_head_options(config)
    resnet, reader = models.wide_resnet50_2(), models.wide_resnet50_2().layer4
    for module in reader.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    stem = nn.Sequential(OrderedDict((name, resnet.get_submodule(name)) for name in names))
    encoder = nn.Sequential(OrderedDict(layer4=resnet.layer4, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    head = nn.Sequential(reader, nn.Conv2d(2048, 1, 3, padding=1))
    decoder = two_layer_decoder(config, spec)
    return split_parts(stem, encoder, 1024, head, 2048, decoder, partial(_on_modules, _initialise_resnet))


def _on_modules(initialise: Callable[[nn.Module], None], classifier: nn.Module) -> None:
    classifier.apply(initialise)


def _initialise_resnet(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _initialise_vgg(module: nn.Module) -> None:
    if isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight)
    elif isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight, gain=math.sqrt(2))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class WideBlock(nn.Module):
    """Pre-activation residual block; the shortcut of a widening block starts after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, dropout: float) -> None:
        """Apply width and stride in the first convolution."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, images: Tensor) -> Tensor:
        """Return features at the block's stride."""
        active = self.bn1(images).relu()
        inner = self.conv2(self.dropout(self.bn2(self.conv1(active)).relu()))
        return inner + (images if self.shortcut is None else self.shortcut(active))


def wide_group(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    """Build `blocks` wide blocks; the first has the stride."""
    first = WideBlock(inputs, outputs, stride=stride, dropout=0.3)
    return nn.Sequential(first, *(WideBlock(outputs, outputs, stride=1, dropout=0.3) for _ in range(blocks - 1)))


def wide_resnet(config: ModelConfig, spec: InputConfig, *, depth: int, widen: int) -> Parts:
    """Build the authors' wide ResNet for 32 px: attention on the raw sums of group 2 (16 x 16 cells, signed)."""
    refuse_head_options(config)
    classes = len(spec.class_names)
    blocks, (w1, w2, w3) = (depth - 4) // 6, (16 * widen, 32 * widen, 64 * widen)
    stem = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        wide_group(16, w1, blocks=blocks, stride=1),
        wide_group(w1, w2, blocks=blocks, stride=2),
    )
    head = nn.Sequential(
        wide_group(w2, w3, blocks=blocks, stride=1),
        nn.BatchNorm2d(w3),
        nn.Conv2d(w3, classes, 1, bias=False),
        nn.BatchNorm2d(classes),
        nn.ReLU(),
        nn.Conv2d(classes, 1, 3, padding=1, bias=False),
        nn.BatchNorm2d(1),
    )
    last = wide_group(w2, w3, blocks=blocks, stride=2)
    encoder = nn.Sequential(last, nn.BatchNorm2d(w3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    decoder = nn.Sequential(nn.ReLU(), nn.Linear(config.latent, len(spec.class_names)))
    return split_parts(stem, encoder, w2, head, w3, decoder, partial(_on_modules, _initialise_wide))


def _initialise_wide(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):  # the bias of the deviation's convolution stays as it is
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


BACKBONES: dict[str, Callable[[ModelConfig, InputConfig], Parts]] = {
    "digits": digits_network,
    "vgg32": vgg32,
    "vgg16": vgg16,
    "wrn50_2": wrn50_2,
    "wrn28_10": partial(wide_resnet, depth=28, widen=10),
    "wrn10_2": partial(wide_resnet, depth=10, widen=2),
}
