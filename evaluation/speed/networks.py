"""The networks of the races, with random weights, which cost what trained ones cost; published ones if at hand."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import nn

from evaluation.speed.resnet20 import ResNet20
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.models.loading import WrappedClassifier, wrap

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = InputConfig(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=tuple("0123456789"))


def shared(name: str) -> Path | None:
    """Return a file of the folder that IBVIZ_SHARED names, with published weights or photographs; None without it."""
    folder = os.environ.get("IBVIZ_SHARED")
    path = Path(folder, "data", name) if folder else None
    return path if path is not None and path.exists() else None


def resnet20() -> nn.Module:
    """ResNet-20 with its published weights, if they are at hand."""
    return _filled(ResNet20(), "cifar10_resnets/resnet20.safetensors")


def mobilenet_v2() -> nn.Module:
    from torchvision.models import mobilenet_v2 as build

    return _filled(build(), "imagenet_model/mobilenet_v2.safetensors")


def resnet50() -> nn.Module:
    from torchvision.models import resnet50 as build

    return build()


def _filled(network: nn.Module, name: str) -> nn.Module:
    path = shared(name)
    if path is not None:
        from safetensors.torch import load_file

        network.load_state_dict(load_file(path), strict=False)
    return network


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
}
SIDES = {"resnet20": 32, "mobilenet_v2": 224, "resnet50": 224}


def seeded(build: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """Return a network in eval mode whose random weights follow from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval().to(device)


@cache
def wrapped(name: str, device: torch.device) -> WrappedClassifier:
    """Return a network with its normalisation."""
    names = [str(number) for number in range(10 if name == "resnet20" else 1000)]
    network = seeded(BUILDERS[name], device)
    return wrap(network, mean=MEAN, std=STD, class_names=names, size=SIDES[name]).eval().to(device)


def bottleneck(backbone: str, device: torch.device) -> nn.Module:
    """Return one of the authors' networks with its attention, for 32 px."""
    return seeded(lambda: IBClassifier(ModelConfig(backbone=backbone), SMALL), device)


def drawn(*shape: int, device: torch.device) -> torch.Tensor:
    """Return numbers in [0, 1) that follow from seed 0."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(device)
