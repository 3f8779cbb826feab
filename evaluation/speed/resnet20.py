"""The CIFAR network of He et al. (2015), in the names of its published weights."""

import torch
from torch import nn
from torch.nn.functional import pad, relu


class Block(nn.Module):
    """Two convolutions beside a shortcut that has no weights."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.stride = channels // before if before != channels else 1
        self.conv1 = nn.Conv2d(before, channels, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.more = (channels - before) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more)) if self.more else x
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + short)


class ResNet20(nn.Module):
    """3 + 3 + 3 blocks of 16, 32 and 64 channels, for 32 px."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (_stage(*widths) for widths in ((16, 16), (16, 32), (32, 64)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def _stage(before: int, channels: int) -> nn.Sequential:
    return nn.Sequential(Block(before, channels), Block(channels, channels), Block(channels, channels))
