"""Somebody else's networks with our attention, at image sizes that keep the tests quick."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from ibviz.errors import InputError
from ibviz.models.attach import attach, build, without_attention
from ibviz.models.checkpoint import load_model, save_model
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig, ObjectiveConfig
from ibviz.models.loading import WrappedClassifier, wrap
from ibviz.models.objective import Objective

close = torch.testing.assert_close
NAMES = [*"abcdef"]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

# Network, image side, layer (None: chosen), and the grid of its map.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str | None, tuple[int, int]]] = {
    "resnet50": (lambda: models.resnet50(num_classes=6), 64, "layer3", (4, 4)),
    "resnet18, layer chosen": (lambda: models.resnet18(num_classes=6), 64, None, (8, 8)),
    "convnext": (lambda: models.convnext_tiny(num_classes=6), 64, "features.5", (4, 4)),
    "efficientnet": (lambda: models.efficientnet_b0(num_classes=6), 64, "features.5", (4, 4)),
    "vgg16_bn": (lambda: models.vgg16_bn(num_classes=6), 64, "features.42", (4, 4)),
    "vit_b_16": (lambda: models.vit_b_16(image_size=64, num_classes=6), 64, "encoder.layers.encoder_layer_9", (4, 4)),
    "swin_t": (lambda: models.swin_t(num_classes=6), 64, "features.5", (4, 4)),
    "deit": (lambda: timm.create_model("deit_tiny_patch16_224", img_size=128, num_classes=6), 128, None, (8, 8)),
    "convolutional head": (lambda: timm.create_model("resnetv2_50x1_bit", num_classes=6), 64, "stages.2", (4, 4)),
}


def wrapped(network: nn.Module, size: int) -> WrappedClassifier:
    with torch.no_grad():  # torchvision's ViT starts with a head of zeros, which would make every check hold
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return wrap(network, mean=MEAN, std=STD, class_names=NAMES, size=size)


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_takes_attention_learns_and_keeps_its_own_logits(name: str):
    make, size, layer, grid = NETWORKS[name]
    torch.manual_seed(0)
    network, batch = wrapped(make(), size), images(size)
    before = network(batch).detach()
    model = attach(network, layer=layer, anchors=5, bottleneck=8)
    assert model.training is False
    close(without_attention(model, batch), before, rtol=1e-5, atol=1e-5 * before.abs().max().item())
    seen = model.inspect(batch)
    assert seen.attention.values().shape == (2, *grid)
    assert model.inspect(batch, samples=(3, 2), generator=torch.Generator().manual_seed(0)).gate.values.shape[0] == 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    objective = Objective(model.train(), ObjectiveConfig(kl="official"))
    objective(batch, torch.tensor([0, 1]), torch.randn).total.backward()
    moved = {"attention.head", "attention.scale", "bottleneck", "decoder.head", "quantizer.anchors", "network.body"}
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {part for part in moved if any(n.startswith(part) for n in trained)} == moved
    optimizer.step()
    assert model.eval()(batch).isfinite().all()


@pytest.mark.parametrize(("gate", "formula"), [("residual", lambda f, a: f * (1 + a)), ("mul", lambda f, a: f * a)])
def test_the_gate_reaches_what_comes_after_its_layer_and_nothing_before(gate, formula):
    torch.manual_seed(0)
    model = attach(wrapped(models.resnet18(num_classes=6), 64), layer="layer2", gate=gate, anchors=None, bottleneck=8)
    batch, network = images(64), model.network.get_submodule("body")
    layer2, seen = network.get_submodule("layer2"), {}
    layer2.register_forward_hook(lambda *passed: seen.update(before=passed[2]))  # runs before the gate's
    network.get_submodule("layer3").register_forward_pre_hook(lambda *passed: seen.update(after=passed[1][0]))
    nn.init.normal_(model.get_parameter("attention.head.3.weight"), std=0.1)
    attention = model.inspect(batch).attention.mean
    assert attention.std() > 0.01
    close(seen["after"], formula(seen["before"], attention[:, None]))


def test_with_as_many_latents_as_classes_the_bottleneck_starts_without_loss():
    torch.manual_seed(0)
    network, batch = wrapped(models.resnet18(num_classes=6), 64), images(64)
    before = network(batch).detach()
    model = attach(network, layer="layer3", bottleneck=6)
    close(model.inspect(batch).attention.mean, torch.full((2, 4, 4), 0.9))  # independent of the scale of the features
    nn.init.constant_(model.get_parameter("attention.head.3.bias"), 100)
    close(model(batch), before, rtol=1e-4, atol=1e-4)  # attention at the highest anchor, 1
    narrow = attach(wrapped(models.resnet18(num_classes=6), 64), layer="layer3", bottleneck=3)
    weight = narrow.get_parameter("decoder.head.weight").detach()
    kept = narrow.bottleneck.project.weight[:3].detach()
    left, singular, right = torch.linalg.svd(weight)  # the best approximation of rank 3 (Eckart-Young)
    close(weight @ kept.T @ kept, left[:, :3] * singular[:3] @ right[:3], rtol=1e-4, atol=1e-5)


def test_classes_that_the_network_knows_by_name_keep_their_weights_and_logits():
    torch.manual_seed(0)
    network, batch = wrapped(models.resnet18(num_classes=6), 64), images(64)
    before = network(batch).detach()
    names = [network.spec.class_names[place] for place in (4, 1)]
    model = attach(network, layer="layer3", bottleneck=2, class_names=names)
    nn.init.constant_(model.get_parameter("attention.head.3.bias"), 100)  # attention at the highest anchor, 1
    close(model(batch), before[:, [4, 1]], rtol=1e-4, atol=1e-4)  # two latents hold all that two classes need


def test_a_class_that_is_new_beside_known_ones_starts_at_random():
    torch.manual_seed(0)
    network, batch = wrapped(models.resnet18(num_classes=6), 64), images(64)
    before = network(batch).detach()
    model = attach(network, layer="layer3", bottleneck=6, class_names=[network.spec.class_names[4], "griffin"])
    nn.init.constant_(model.get_parameter("attention.head.3.bias"), 100)
    close(model(batch)[:, 0], before[:, 4], rtol=1e-4, atol=1e-4)
    assert model(batch)[:, 1].std() > 0


def test_other_classes_get_a_new_last_layer():
    model = attach(wrapped(models.resnet18(num_classes=6), 64), layer="layer3", class_names=["x", "y"])
    assert model(images(64)).shape == (2, 2)
    assert model.spec.class_names == ("x", "y")


def test_a_timm_network_brings_its_normalisation_and_its_name(tmp_path: Path):
    network = timm.create_model("mobilenetv3_small_050.lamb_in1k", num_classes=6, drop_rate=0.1)  # none in eval mode
    model = attach(network, layer="blocks.3", anchors=3, bottleneck=4)
    assert model.config.backbone == "timm/mobilenetv3_small_050"
    assert (model.spec.size, model.spec.mean) == (224, network.pretrained_cfg["mean"])  # pyright: ignore
    save_model(tmp_path / "model.safetensors", model, {})
    back, batch = load_model(tmp_path / "model.safetensors"), images(224, 1)
    assert torch.equal(back(batch), model(batch))
    assert back.layer == model.layer == "network.body.blocks.3"


def test_a_module_that_no_name_rebuilds_is_not_saved(tmp_path: Path):
    wider = timm.create_model("mobilenetv3_small_050", num_classes=6)
    wider.conv_stem = nn.Conv2d(3, 16, 5, stride=2, padding=2, bias=False)  # pyright: ignore[reportAttributeAccessIssue]
    changed: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("mobilenetv3_small_050", "blocks.3", {"act_layer": nn.SiLU}),
        ("resnet10t", "layer3", {"output_stride": 16}),
        ("convnext_atto", "stages.2", {"act_layer": nn.SiLU}),  # behind scales that start at 1e-6
    )
    given: dict[str, Any] = {"mean": MEAN, "std": STD, "class_names": NAMES, "size": 128}
    others = [
        (wrap(timm.create_model(name, num_classes=6, **choices), **given, name=f"timm/{name}"), layer)
        for name, layer, choices in changed
    ]
    for network, layer in ((wider, "blocks.3"), (models.resnet18(num_classes=6), "layer3"), *others):
        with pytest.raises(InputError, match="attached to a module that no name rebuilds"):
            save_model(tmp_path / "model.safetensors", attach(network, layer=layer, bottleneck=4), {})
    assert list(tmp_path.iterdir()) == []


def test_a_network_with_weights_of_ones_own_is_saved_by_the_name_it_was_given(tmp_path: Path):
    network = models.resnet18(num_classes=6)
    given: dict[str, Any] = {"mean": MEAN, "std": STD, "class_names": NAMES, "size": 64}
    model = attach(wrap(network, **given, name="torchvision/resnet18"), layer="layer3", bottleneck=4)
    save_model(tmp_path / "model.safetensors", model, {})
    assert torch.equal(load_model(tmp_path / "model.safetensors")(images(64)), model(images(64)))
    with pytest.raises(InputError, match=r"name says which library builds the network.*got 'resnet18'"):
        wrap(network, **given, name="resnet18")


def test_layers_that_do_not_fit_come_with_those_that_do_and_leave_the_network_as_it_was():
    network, batch = wrapped(models.resnet18(num_classes=6), 64), images(64)
    before = network(batch).detach()
    network.get_submodule("network.layer1").train()
    modes = [module.training for module in network.modules()]
    for layer, reason in {
        "layer9": r"unknown layer 'layer9'; layers with a grid: .*layer3 \(4x4\).*; did you mean 'layer4'\?",
        "avgpool": r"layer avgpool gives \(1, 512, 1, 1\), which holds no grid .* layers that do: .*layer3 \(4x4\)",
    }.items():
        with pytest.raises(InputError, match=reason):
            attach(network, layer=layer)
        assert [module.training for module in network.modules()] == modes
    close(without_attention(attach(network, layer="layer3"), batch), before)


def test_a_bare_network_that_does_not_fit_keeps_its_mode():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6))
    with pytest.raises(InputError, match="cannot take images of 224 pixels"):
        attach(network)
    assert network.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bare", [False, True])
def test_new_parts_are_where_the_network_is(dtype, bare):
    """In its precision, which stands for its device as well: both are moved by one call."""
    layers = (nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
    network = nn.Sequential(*layers).to(dtype)
    whole = network if bare else wrapped(network, 64)
    model, batch = attach(whole, layer="1", bottleneck=6, class_names=NAMES), images(64).to(dtype)
    floating = [value.dtype for value in model.state_dict().values() if value.is_floating_point()]
    assert set(floating) == {dtype}
    by_hand = nn.Sequential(model.normalize, *layers)
    assert torch.equal(without_attention(model, batch), by_hand(batch))
    assert model(batch).dtype == dtype


def test_a_wrapped_network_stays_on_its_device():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).to("meta")
    shown = wrap(network, mean=MEAN, std=STD, class_names="ab", size=8)
    assert shown(torch.empty(1, 3, 8, 8, device="meta")).device.type == "meta"


def test_networks_without_one_last_linear_layer_are_refused_and_left_whole():
    squeezenet = models.squeezenet1_1(num_classes=6).eval()
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, num_classes=6).eval()
    for network in (squeezenet, distilled):
        batch = images(64)
        before = network(batch)
        with pytest.raises(InputError, match="does more between its layer"):
            attach(wrap(network, mean=MEAN, std=STD, class_names=NAMES, size=64))
        assert torch.equal(network(batch), before)
    headless = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="no linear layer that gives its 6 logits"):
        attach(wrap(headless, mean=MEAN, std=STD, class_names=NAMES, size=64))
    fixed = timm.create_model("vit_tiny_patch16_224", num_classes=6)
    for name in (None, "timm/vit_tiny_patch16_224"):
        with pytest.raises(InputError, match="cannot take images of 64 pixels"):
            attach(wrap(fixed, mean=MEAN, std=STD, class_names=NAMES, size=64, name=name))


@pytest.mark.parametrize("name", ["torchvision/resnet5o", "timm/resnet5o"])
def test_names_that_a_library_does_not_know(name: str):
    spec = InputConfig(size=64, mean=MEAN, std=STD, class_names=("a", "b"))
    with pytest.raises(InputError, match="has no classifier 'resnet5o'"):
        IBClassifier(ModelConfig(backbone=name), spec)


def test_published_weights_start_a_recipe(tmp_path: Path):
    from safetensors.torch import save_file

    torch.manual_seed(3)
    published = models.resnet18()
    save_file(published.state_dict(), tmp_path / "w.safetensors")
    spec = InputConfig(size=64, mean=(0.1, 0.1, 0.1), std=STD, class_names=("a", "b"))
    config = ModelConfig(backbone="torchvision/resnet18", layer="layer3", pretrained=True, latent=4)
    model = build(config, spec, tmp_path / "w.safetensors")
    assert torch.equal(model.get_parameter("network.body.conv1.weight"), published.conv1.weight)
    assert model.spec.mean == (0.485, 0.456, 0.406)
    assert model.spec.size == 64
    with pytest.raises(InputError, match=r"is for recipes with model.pretrained = true"):
        build(ModelConfig(), spec, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="no published weights for digits"):
        build(ModelConfig(pretrained=True), spec)
    with pytest.raises(InputError, match="does not hold the weights of torchvision/resnet34"):
        build(config.model_copy(update={"backbone": "torchvision/resnet34"}), spec, tmp_path / "w.safetensors")


@pytest.mark.parametrize(("backbone", "library"), [("vgg16", "vgg16"), ("wrn50_2", "wide_resnet50_2")])
def test_the_authors_large_networks_take_published_features(backbone: str, library: str, monkeypatch):
    """Their features equal torchvision's own, tensor by tensor of the gated layer's input."""
    import ibviz.models.attach as place

    torch.manual_seed(0)
    published = models.get_model(library).eval()
    monkeypatch.setattr(
        place, "load_published", lambda *_: wrap(published, mean=MEAN, std=STD, class_names="a", size=224)
    )
    spec = InputConfig(size=64, mean=MEAN, std=STD, class_names=("a", "b"))
    model = build(ModelConfig(backbone=backbone, pretrained=True, latent=4), spec).eval()
    batch = model.normalize(images(64, 1))
    if backbone == "vgg16":
        expected = nn.Sequential(*list(published.get_submodule("features").children())[:-1])(batch)
    else:
        trunk = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
        expected = nn.Sequential(*(published.get_submodule(name) for name in trunk))(batch)
        last = published.get_submodule("layer4")(expected).mean((2, 3))
        close(model.get_submodule("network.encoder")(expected), last)
    close(model.get_submodule("network.stem")(batch), expected)
    assert model.inspect(images(64, 1)).attention.values().shape == (1, 4, 4)
