"""Networks whose right answers are known by hand."""

from typing import cast

import torch
from torch import Tensor, nn

from ibviz.models.backbones import Parts, SplitNetwork
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.models.loading import WrappedClassifier, wrap

SPEC = InputConfig(size=48, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=tuple("0123456789"))


def bottlenecked(anchors: int | None = 5) -> IBClassifier:
    torch.manual_seed(0)
    return IBClassifier(ModelConfig(latent=8, anchors=anchors), SPEC).eval()


class Quadrants(nn.Module):
    """Class k sums what stands in quadrant k of the image: logits are known, and so is where the evidence lies."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.AvgPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool(self.cells(images)).sum(1).flatten(1)


def quadrants(side: int = 16) -> WrappedClassifier:
    return wrap(Quadrants(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), class_names=list("abcd"), size=side)


class TwoParts(nn.Module):
    """A body that gives features `(b, c, h, w)` and a head that gives logits, nothing in place; `layout` is how the
    features pass the layer `between`: channels first, channels last, or tokens after two for no place."""

    def __init__(self, layout: str = "bchw") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layout, self.num_prefix_tokens = layout, 2 * (layout == "tokens")
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.Conv2d(6, 9, 3, 1, 1))
        self.between = nn.Identity()
        self.head = nn.Sequential(nn.Conv2d(9, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        if self.layout == "bchw":
            return self.head(self.between(features))
        last = features.permute(0, 2, 3, 1)
        if self.layout == "bhwc":
            return self.head(self.between(last).permute(0, 3, 1, 2))
        tokens = torch.cat([last.new_ones(len(last), 2, 9), last.flatten(1, 2)], dim=1)
        return self.head(self.between(tokens)[:, 2:].unflatten(1, last.shape[1:3]).permute(0, 3, 1, 2))


class OneConv(nn.Module):
    """A convolution with constant weights, then a linear layer: Grad-CAM follows by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(2 * 16, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(2, 3, 1, 1))
            self.linear.weight.fill_(1.0)
            self.linear.weight[0, :16], self.linear.weight[0, 16:] = 3.0, -1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.relu(self.conv(images)).flatten(1))


CELL_SPEC = InputConfig(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), class_names=("zero", "one", "two"))
ANCHORS = (0.6, 0.2, 1.0)  # out of order, as training may leave them
SLOPE, SHIFT = 8.0, -4.0  # of the attention head


class Blind(nn.Module):
    """Asks for attention and goes on with its features as they were."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, images: Tensor, gate) -> Tensor:
        copies = len(gate(images.mean(1, keepdim=True))) // len(images)
        return self.whole(images).repeat(copies, 1)


def cell_reader(*, blind: bool = False) -> IBClassifier:
    """Attention is sigmoid(8·grey - 4), snapped to three anchors, and multiplies the pixel's grey (8 x 8 cells).

    The logit of class 0 is 10 times the gated grey of cell (2, 3) alone; those of class 1 and 2 are always 1 and 0.
    """
    stem, flat = nn.Conv2d(3, 1, 1), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    head, decoder = nn.Conv2d(1, 1, 1), nn.Identity()
    network = Blind(nn.Sequential(stem, flat)) if blind else SplitNetwork(stem, flat)
    config = ModelConfig(anchors=len(ANCHORS), latent=3, gate="mul")
    model = IBClassifier(config, CELL_SPEC, Parts(network, "stem", 3, head, 3, decoder)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        stem.weight.fill_(1 / 3)
        linear = cast(nn.Linear, flat[1])
        linear.weight[0, 2 * 8 + 3] = 10.0
        linear.bias[1] = 1.0
        head.weight.fill_(SLOPE)
        cast(Tensor, head.bias).fill_(SHIFT)
        model.bottleneck.project.weight[:3] = torch.eye(3)
        assert model.quantizer is not None
        model.quantizer.anchors.copy_(torch.tensor(ANCHORS))
    return model
