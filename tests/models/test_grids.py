import pytest
import timm
import torch
from networks import quadrants
from torch import nn
from torchvision import models
from torchvision.ops import Permute

from ibviz.errors import InputError
from ibviz.models.grids import (
    GridLayout,
    find_layer,
    from_grid,
    influential_layers,
    layout_of,
    listed,
    spatial_layers,
    to_grid,
)
from ibviz.models.hooks import replaced_output
from ibviz.models.layer_choice import is_cut, layer_for_attention, reaches_output

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def tiny_vit(**choices) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, depth=3, embed_dim=24, num_heads=2, num_classes=5, **choices
    ).eval()


@pytest.mark.parametrize(
    "layout", [GridLayout("bchw", (2, 3), 4), GridLayout("bhwc", (2, 3), 4), GridLayout("tokens", (2, 3), 4, 2)]
)
def test_a_grid_put_back_gives_the_output_again(layout):
    shapes = {"bchw": (5, 4, 2, 3), "bhwc": (5, 2, 3, 4), "tokens": (5, 2 + 6, 4)}
    output = torch.rand(shapes[layout.kind])
    grid = to_grid(output, layout)
    assert torch.equal(from_grid(grid, output, layout), output)
    cell = {"bchw": (1, slice(None), 1, 2), "bhwc": (1, 1, 2), "tokens": (1, 2 + 5)}
    assert torch.equal(grid[1, :, 1, 2], output[cell[layout.kind]])


def test_several_samples_of_an_image_keep_its_class_token():
    layout, output = GridLayout("tokens", (2, 2), 3, 1), torch.rand(2, 5, 3)
    grids = torch.rand(3, 2, 3, 2, 2)
    put = from_grid(grids.flatten(0, 1), output, layout).unflatten(0, (3, 2))
    for sample in range(3):
        assert torch.equal(put[sample, :, 0], output[:, 0])
        assert torch.equal(to_grid(put[sample], layout), grids[sample])


@pytest.mark.parametrize(
    ("choices", "prefix"), [({}, 1), ({"reg_tokens": 4}, 5), ({"class_token": False, "global_pool": "avg"}, 0)]
)
def test_prefix_tokens_are_found_from_the_model(choices, prefix):
    layers = spatial_layers(tiny_vit(**choices), IMAGE)
    assert layers["blocks.1"] == GridLayout("tokens", (8, 8), 24, prefix)
    assert layers["patch_embed"].prefix == 0


def test_torchvision_transformers_have_grids_of_tokens():
    vit = models.VisionTransformer(image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16)
    assert spatial_layers(vit, IMAGE)["encoder.layers.encoder_layer_0"] == GridLayout("tokens", (4, 4), 16, 1)


def test_channels_last_grids_are_told_from_channels_first():
    swin = models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=5)
    layers = spatial_layers(swin, IMAGE)
    assert layers["features.1"] == GridLayout("bhwc", (16, 16), 8)
    assert spatial_layers(models.resnet18(num_classes=5), IMAGE)["layer3"] == GridLayout("bchw", (4, 4), 256)


@pytest.mark.parametrize("channels", [7, 8, 9])
@pytest.mark.parametrize("head", [nn.AdaptiveAvgPool2d(1), nn.Identity()])
def test_as_many_channels_as_columns_confuse_nothing(channels, head):
    """8 x 8 cells either way; behind an identity the network takes images of one size only."""
    first = nn.Sequential(nn.Conv2d(3, channels, 8, 8), nn.ReLU())
    last = nn.Sequential(Permute([0, 2, 3, 1]), nn.LayerNorm(channels), nn.ReLU())
    features = channels * (1 if isinstance(head, nn.AdaptiveAvgPool2d) else 64)
    end = nn.Sequential(Permute([0, 3, 1, 2]), head, nn.Flatten(), nn.Linear(features, 2))
    layers = spatial_layers(nn.Sequential(first, last, end), IMAGE)
    for name in ("0", "0.0", "0.1", "2.0"):
        assert layers[name] == GridLayout("bchw", (8, 8), channels)
    for name in ("1", "1.0", "1.1", "1.2"):
        assert layers[name] == GridLayout("bhwc", (8, 8), channels)


def test_a_grid_that_cannot_be_told_is_refused():
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.narrow = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.shape[2:] != (64, 64):
                raise ValueError("64 x 64 pixels")
            return self.narrow(self.body(images)).mean((2, 3))

    with pytest.raises(InputError, match=r"layer body .* none that can be told .*: narrow \(8x8\)$"):
        layout_of(Strict(), IMAGE, "body")


def test_images_that_are_not_square_keep_their_proportion():
    vit = tiny_vit(dynamic_img_size=True)
    assert spatial_layers(vit, torch.rand(1, 3, 32, 64))["blocks.0"].grid == (4, 8)


def test_attention_matrices_are_no_grids():
    vit = tiny_vit()
    for block in vit.blocks:  # pyright: ignore[reportGeneralTypeIssues]
        block.attn.fused_attn = False
    assert not any("attn_drop" in name for name in spatial_layers(vit, IMAGE))


def test_the_last_patches_of_a_class_token_network_reach_nothing():
    names = list(influential_layers(tiny_vit(), IMAGE))
    assert "blocks.1" in names
    assert "blocks.2" not in names
    averaged = list(influential_layers(tiny_vit(class_token=False, global_pool="avg"), IMAGE))
    assert "blocks.2" in averaged


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: models.resnet18(num_classes=5), "layer2"),
        (lambda: timm.create_model("resnet10t", num_classes=5), "layer2"),
        (lambda: models.efficientnet_b0(num_classes=5), "features.3"),
        (tiny_vit, "blocks.1"),
    ],
)
def test_attention_goes_where_everything_passes(network, expected):
    model = network().eval()
    assert layer_for_attention(model, IMAGE) == expected
    assert is_cut(model, IMAGE, expected)


def test_a_branch_beside_a_skip_is_no_cut():
    assert not is_cut(models.resnet18(num_classes=5).eval(), IMAGE, "layer2.1.bn2")


def test_layers_that_do_not_fit_are_listed():
    with pytest.raises(InputError, match=r"unknown layer 'layer9'; layers with a grid: network.cells \(8x8\)"):
        find_layer(spatial_layers(quadrants(), torch.rand(1, 3, 16, 16)), "layer9")
    with pytest.raises(InputError, match=r"name one of those with a grid: network.cells \(4x4\), network.pool \(2x2\)"):
        layer_for_attention(quadrants(), torch.rand(1, 3, 8, 8))


def test_a_message_names_a_few_layers_of_many_and_the_nearest():
    layers = spatial_layers(models.resnet18(), IMAGE)
    with pytest.raises(InputError) as raised:
        find_layer(layers, "layer3.1.conv3")
    assert str(raised.value) == (
        "unknown layer 'layer3.1.conv3'; layers with a grid: conv1 (32x32), bn1 (32x32), "
        "relu (32x32), maxpool (16x16), layer1 (16x16), layer2 (8x8), layer3 (4x4), layer4 (2x2); inner ones such as "
        "layer4.1 too; did you mean 'layer3.1.conv2'?"
    )
    wrapped = {f"network.{name}": layout for name, layout in spatial_layers(models.convnext_tiny(), IMAGE).items()}
    assert listed(wrapped) == (
        "network.features.1 (16x16), network.features.3 (8x8), network.features.5 (4x4), network.features (2x2); "
        "inner ones such as network.features.7 too"
    )
    assert listed({}) == "none"


class Placed(nn.Module):
    """Features plus a grid made of weights alone, as a positional embedding is; `cut` keeps gradients inside."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.cut, self.body, self.place, self.head = cut, nn.Conv2d(3, 4, 8, 8), nn.Conv2d(1, 4, 1), nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images) + self.place(torch.ones(1, 1, 8, 8))
        logits = self.head(features.mean((2, 3)))
        return logits.detach() if self.cut else logits


@pytest.mark.parametrize("frozen", [False, True])
def test_a_grid_of_frozen_weights_alone_is_passed_over(frozen):
    network = Placed().requires_grad_(not frozen)
    assert list(influential_layers(network, IMAGE)) == (["body"] if frozen else ["body", "place"])
    assert reaches_output(network, IMAGE, "body")


def test_a_network_through_which_no_gradient_flows_is_told_so():
    network = Placed(cut=True)
    for ask in (influential_layers, layer_for_attention):
        with pytest.raises(InputError, match=r"cut by detach.*choose a method without gradients"):
            ask(network, IMAGE)
    assert reaches_output(network, IMAGE, "body")  # for all that gradients tell


def test_a_replaced_output_is_replaced_inside_the_block_only():
    layer, value = nn.Linear(2, 2), torch.rand(1, 2)
    with replaced_output(layer, torch.zeros_like):
        assert not layer(value).any()
    assert layer(value).any()
    with pytest.raises(RuntimeError), replaced_output(layer, torch.zeros_like):
        layer(torch.rand(1, 3))
    assert not layer._forward_hooks
