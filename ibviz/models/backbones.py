"""Networks cut at the attended feature: stem, attention head, encoder, decoder."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from ibviz.config import ModelConfig


class Parts(NamedTuple):
    """What `IBClassifier` is put together from.

    `stem` gives features `(b, c, h, w)`, `head` one channel of the same grid, `encoder` `(b, width)` from the
    gated features, `decoder` logits from z.
    """

    stem: nn.Module
    head: nn.Module
    encoder: nn.Module
    width: int
    decoder: nn.Module
    initialise: Callable[[nn.Module], None] | None = None  # of every module; None: as PyTorch does it


def conv_bn_relu(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> list[nn.Module]:
    """Convolution 3x3, batch norm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def conv_block(inputs: int, outputs: int, layers: int) -> nn.Sequential:
    """`layers` convolutions at one size, the first of which changes the channels."""
    widths = [inputs] + [outputs] * layers
    return nn.Sequential(*(part for a, b in pairwise(widths) for part in conv_bn_relu(a, b)))


def two_layer_decoder(config: ModelConfig, classes: int) -> nn.Sequential:
    """The decoder of the VGG networks."""
    return nn.Sequential(nn.Linear(config.latent, config.latent), nn.ReLU(), nn.Linear(config.latent, classes))


def digits(config: ModelConfig, classes: int) -> Parts:
    """A small network for the embedded 48 px images, 0.4 M parameters; attention on 12 x 12 cells of 4 px."""
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
    return Parts(stem, head, encoder, 128, two_layer_decoder(config, classes))


def vgg32(config: ModelConfig, classes: int) -> Parts:
    """The authors' VGG for 32 px, attention on 16 x 16 cells, 20 M parameters, with their initialisation."""
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
    head = nn.Sequential(nn.Conv2d(256, 1, 3, padding=1))
    return Parts(stem, head, encoder, 512, two_layer_decoder(config, classes), _initialise_vgg)


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
        """Widen and stride in the first convolution."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, images: Tensor) -> Tensor:
        """Features at the block's stride."""
        active = self.bn1(images).relu()
        inner = self.conv2(self.dropout(self.bn2(self.conv1(active)).relu()))
        return inner + (images if self.shortcut is None else self.shortcut(active))


def wide_group(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` wide blocks, the first of which strides."""
    first = WideBlock(inputs, outputs, stride=stride, dropout=0.3)
    return nn.Sequential(first, *(WideBlock(outputs, outputs, stride=1, dropout=0.3) for _ in range(blocks - 1)))


def wide_resnet(config: ModelConfig, classes: int, *, depth: int, widen: int) -> Parts:
    """The authors' wide ResNet for 32 px, attention on the raw sums of group 2 (16 x 16 cells, signed)."""
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
    decoder = nn.Sequential(nn.ReLU(), nn.Linear(config.latent, classes))
    return Parts(stem, head, encoder, w3, decoder, _initialise_wide)


def _initialise_wide(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):  # the bias of the deviation's convolution stays as it is
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


BACKBONES: dict[str, Callable[[ModelConfig, int], Parts]] = {
    "digits": digits,
    "vgg32": vgg32,
    "wrn28_10": partial(wide_resnet, depth=28, widen=10),
    "wrn10_2": partial(wide_resnet, depth=10, widen=2),
}
