"""Networks that neither torchvision nor timm builds, by the name ibviz/NAME."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it


class SameConv2d(nn.Conv2d):
    """A convolution of 3 x 3 and stride 2 with TensorFlow's padding SAME: none at the top and left of even sides."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch
        """Pad below and on the right, and on the other sides only if their length is odd."""
        top, left = (side % 2 for side in input.shape[-2:])
        return super().forward(F.pad(input, (left, 1, top, 1)))


def mobilenet_v2_same(classes: int = 1000) -> nn.Module:
    """Build torchvision's MobileNetV2 with the padding of TensorFlow, for weights that were trained there.

    With torchvision's own padding such weights run as well, but cells of their features lie up to 31 pixels beside what
    they show.
    """
    from torchvision.models import mobilenet_v2  # noqa: PLC0415 - slow to import

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


OWN: dict[str, Callable[[int], nn.Module]] = {"mobilenet_v2_same": mobilenet_v2_same}
