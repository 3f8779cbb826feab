"""Networks that neither torchvision nor timm provides, named ibviz/NAME; their weights come from a local file."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.models.config import InputConfig

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class SameConv2d(nn.Conv2d):
    """3x3 convolution of stride 2 with TensorFlow's padding SAME: for even sides, no padding at the top and left."""

    def forward(self, input: Tensor) -> Tensor:
        """Pad at the bottom and right, and on the other sides only if the length is odd."""
        top, left = (side % 2 for side in input.shape[-2:])
        return super().forward(F.pad(input, (left, 1, top, 1)))


def mobilenet_v2_same(classes: int = 1000) -> nn.Module:
    """Build torchvision's MobileNetV2 with the padding of TensorFlow, for weights that were trained in TensorFlow.

    Such weights also run with torchvision's padding, but cells of their features are then displaced by up to 31 pixels.
    """
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2(num_classes=classes)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                setattr(parent, name, _same(child))
    return network


def _same(convolution: nn.Conv2d) -> SameConv2d:
    outputs, groups = convolution.out_channels, convolution.groups
    same = SameConv2d(convolution.in_channels, outputs, 3, stride=2, groups=groups, bias=False)
    same.load_state_dict(convolution.state_dict())
    return same


class CifarBlock(nn.Module):
    """Residual block of He et al. (2015) for CIFAR; if the shape changes, the shortcut has no weights (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Apply the stride in the first convolution."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.stride, self.more = stride, outputs - inputs

    def forward(self, features: Tensor) -> Tensor:
        """Add the input, subsampled by the stride and padded with zero channels, to the residual branch."""
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(features)))))
        short = features[:, :, :: self.stride, :: self.stride]
        return self.relu2(inner + F.pad(short, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)))


def cifar_resnet(classes: int = 10, *, blocks: int) -> nn.Module:
    """Build the ResNet of He et al. (2015) for CIFAR: three stages of `blocks` blocks (ResNet-20 for 3)."""
    stages = OrderedDict[str, nn.Module]()
    for number, (inputs, outputs) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
        first = CifarBlock(inputs, outputs, 1 if number == 1 else 2)
        stages[f"layer{number}"] = nn.Sequential(first, *(CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
    start = {"conv1": nn.Conv2d(3, 16, 3, padding=1, bias=False), "bn1": nn.BatchNorm2d(16), "relu": nn.ReLU()}
    end = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "linear": nn.Linear(64, classes)}
    return nn.Sequential(OrderedDict(start | stages | end))


class ExtraNetwork(NamedTuple):
    """Builder of a network, given the number of classes, and the description of its input."""

    build: Callable[..., nn.Module]
    spec: Callable[[], InputConfig]


def _imagenet() -> InputConfig:
    from torchvision.models import MobileNet_V2_Weights

    names = tuple(MobileNet_V2_Weights.DEFAULT.meta["categories"])
    return InputConfig(size=224, resize=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), class_names=names)


def _cifar() -> InputConfig:
    return InputConfig(size=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), class_names=CIFAR10_CLASSES)


EXTRA_NETWORKS = {
    "mobilenet_v2_same": ExtraNetwork(mobilenet_v2_same, _imagenet),
    "cifar_resnet20": ExtraNetwork(partial(cifar_resnet, blocks=3), _cifar),
    "cifar_resnet56": ExtraNetwork(partial(cifar_resnet, blocks=9), _cifar),
}
