"""Networks of our own against a literal forward pass, and against the accuracy that their weights are known for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import models

import ibviz
from ibviz.errors import InputError
from ibviz.models.extra_networks import EXTRA_NETWORKS, cifar_resnet, mobilenet_v2_same

close = torch.testing.assert_close


@pytest.mark.parametrize("side", [32, 33, 47])
def test_strided_convolutions_see_the_border_that_tensorflow_adds(side):
    """TensorFlow's SAME: ceil(n / 2) outputs, the border as even as can be, the odd pixel below and on the right."""
    torch.manual_seed(0)
    network = mobilenet_v2_same(5).eval()
    convolution, weight = network.get_submodule("features.0.0"), network.get_parameter("features.0.0.weight")
    images = torch.rand(1, 3, side, side)
    outputs = -(-side // 2)
    whole = max(0, (outputs - 1) * 2 + 3 - side)
    padded = F.pad(images, (whole // 2, whole - whole // 2) * 2)
    close(convolution(images), F.conv2d(padded, weight, stride=2))
    assert set(network.state_dict()) == set(models.mobilenet_v2(num_classes=5).state_dict())
    strided = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    assert [type(module).__name__ for module in strided] == ["SameConv2d"] * 5


def test_the_cifar_network_is_the_published_one():
    torch.manual_seed(0)
    network, images = cifar_resnet(10, blocks=1).eval(), torch.rand(2, 3, 32, 32)
    state = network.state_dict()

    def norm(features, name):
        mean, var, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        shape = (1, -1, 1, 1)
        return (features - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    x = norm(F.conv2d(images, state["conv1.weight"], padding=1), "bn1").relu()
    for stage, stride, zeros in ((1, 1, 0), (2, 2, 8), (3, 2, 16)):
        name = f"layer{stage}.0"
        y = norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").relu()
        y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        border = torch.zeros(2, zeros, *y.shape[2:])
        x = (y + torch.cat([border, x[:, :, ::stride, ::stride], border], 1)).relu()
    close(network(images), x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"])
    assert sum(p.numel() for p in cifar_resnet(10, blocks=3).parameters()) == 269_722  # 0.27 M, He et al. 2015, table 6


def test_they_are_loaded_by_name_from_a_local_file(tmp_path):
    save_file(cifar_resnet(10, blocks=3).state_dict(), tmp_path / "w.safetensors")
    model = ibviz.load("ibviz/cifar_resnet20", weights=tmp_path / "w.safetensors")
    assert model.spec.class_names[3] == "cat"
    with pytest.raises(InputError, match=r"weights of ibviz/cifar_resnet20 could not be downloaded .* --weights"):
        ibviz.load("ibviz/cifar_resnet20")
    with pytest.raises(InputError, match=r"no classifier 'resnet9' \(known: mobilenet_v2_same, "):
        ibviz.load("ibviz/resnet9")
    assert all(network.spec().class_names for network in EXTRA_NETWORKS.values())


def test_cifar_resnet20_has_the_accuracy_that_its_weights_are_known_for(shared):
    """Its authors state 91.73 % of all 10,000 test images; here 1,000, within three standard errors."""
    model = ibviz.load("ibviz/cifar_resnet20", weights=shared / "data/cifar10_resnets/resnet20.safetensors")
    pack = np.load(shared / "data/cifar10/test.npz")
    pictures = []
    for start, stop in zip(pack["offsets"][:4], pack["offsets"][1:5], strict=True):
        mosaic = np.asarray(Image.open(io.BytesIO(pack["webp"][start:stop].tobytes())).convert("RGB"))
        tiles = mosaic.reshape(25, 32, 10, 32, 3).transpose(0, 2, 4, 1, 3)
        pictures.append(torch.from_numpy(tiles.reshape(250, 3, 32, 32).copy()))
    with torch.inference_mode():
        found = model(torch.cat(pictures).float() / 255).argmax(1)
    accuracy = (found == torch.from_numpy(pack["labels"][:1000].astype(int))).double().mean().item()
    assert accuracy == pytest.approx(0.9173, abs=3 * (0.9173 * 0.0827 / 1000) ** 0.5)
