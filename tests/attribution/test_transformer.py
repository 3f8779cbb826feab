"""Attention of transformers against literal loops over layers, with the weights worked out by hand."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import timm
import torch
from networks import bottlenecked
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from ibviz.attribution import catalogue
from ibviz.attribution.methods import values
from ibviz.attribution.softmax import recorded_attention
from ibviz.attribution.transformer import attention_rollout, raw_attention
from ibviz.errors import InputError

close = torch.testing.assert_close
HEADS, WIDTH = 3, 24
NAMES = {"raw": "raw_attention", "rollout": "attention_rollout", "gradient": "gradient_rollout"}
METHODS = {short: catalogue.METHODS[name] for short, name in NAMES.items()}


def peaked(network: nn.Module) -> nn.Module:
    """Random weights that are large enough for attention to have peaks, and none of them zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.25)
    return network.eval()


def small_timm(name: str = "vit_tiny_patch16_224", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": (32, 48), "patch_size": 8, "depth": 3, "embed_dim": WIDTH, "num_heads": HEADS}
    return peaked(timm.create_model(name, num_classes=5, **sizes | options))


def small_torchvision() -> nn.Module:
    torch.manual_seed(0)
    return peaked(VisionTransformer(32, 8, 3, HEADS, WIDTH, 48, num_classes=5))


NETWORKS = {
    "timm": (small_timm, (4, 6), 1),
    "timm, distilled": (lambda: small_timm("deit_tiny_distilled_patch16_224"), (4, 6), 2),
    "timm, registers": (lambda: small_timm(reg_tokens=3), (4, 6), 4),
    "timm, no class token": (lambda: small_timm(class_token=False, global_pool="avg"), (4, 6), 0),
    "timm, mean of cells": (lambda: small_timm(global_pool="avg"), (4, 6), 1),
    "torchvision": (small_torchvision, (4, 4), 1),
}
AVERAGING = ("timm, no class token", "timm, mean of cells")


def attend(module: Any, tokens: Tensor, kept: list[Tensor]) -> Tensor:
    """Self-attention, one image and head at a time; its weights are kept."""
    if isinstance(module, nn.MultiheadAttention):
        qkv, last = tokens @ module.in_proj_weight.T + module.in_proj_bias, module.out_proj
    else:
        qkv, last = tokens @ module.qkv.weight.T + module.qkv.bias, module.proj
    weights, mixed = [], []
    for image in qkv:
        query, key, value = (part.split(WIDTH // HEADS, 1) for part in image.split(WIDTH, 1))
        weights.append([(q @ k.T / (WIDTH // HEADS) ** 0.5).softmax(1) for q, k in zip(query, key, strict=True)])
        mixed.append(value)
    together = torch.stack([torch.stack(heads) for heads in weights])
    kept.append(together)
    rows = [torch.cat([w @ v for w, v in zip(*pair, strict=True)], 1) for pair in zip(together, mixed, strict=True)]
    return last(torch.stack(rows))


def run_by_hand(network: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits and the weights of each layer, block by block."""
    kept: list[Tensor] = []
    if not hasattr(network, "patch_embed"):
        tokens = network._process_input(images)
        tokens = torch.cat([network.class_token.expand(len(images), -1, -1), tokens], 1) + network.encoder.pos_embedding
        for block in network.encoder.layers:
            tokens = tokens + attend(block.self_attention, block.ln_1(tokens), kept)
            tokens = tokens + block.mlp(block.ln_2(tokens))
        return network.heads(network.encoder.ln(tokens)[:, 0]), kept
    tokens = network._pos_embed(network.patch_embed(images))
    for block in network.blocks:
        tokens = tokens + attend(block.attn, block.norm1(tokens), kept)
        tokens = tokens + block.mlp(block.norm2(tokens))
    return network.forward_head(network.norm(tokens)), kept


def expected(network: nn.Module, images: Tensor, targets: Tensor, method: str) -> Tensor:
    """Relevance of every token for every token `(b, t, t)`."""
    logits, weights = run_by_hand(network, images)
    slopes = torch.autograd.grad(logits[range(len(images)), targets].sum(), weights)
    return relevance([layer.detach() for layer in weights], slopes, method)


def relevance(weights: list[Tensor], slopes: Sequence[Tensor], method: str) -> Tensor:
    """Of attention and its gradients `(b, heads, t, t)`, one image, layer and head at a time."""
    maps = []
    for image in range(len(weights[0])):
        total = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype)
        for layer, slope in zip(weights, slopes, strict=True):
            heads, gradients = layer[image].unbind(), slope[image]
            if method == "raw":
                total = torch.stack(heads).mean(0)
            elif method == "rollout":
                total = (torch.stack(heads).mean(0) + torch.eye(len(total), dtype=total.dtype)) / 2 @ total
            else:
                positive = [(head * slope).clamp(min=0) for head, slope in zip(heads, gradients, strict=True)]
                total = total + torch.stack(positive).mean(0) @ total
        maps.append(total - torch.eye(len(total), dtype=total.dtype) if method == "gradient" else total)
    return torch.stack(maps)


def weights(network: Any, name: str, prefix: int, targets: Tensor, method: str) -> Tensor:
    """What each of 24 or 16 cells and the tokens before them weighs `(b, 1, t)`, as the head of a network has it."""
    shares = torch.zeros(2, 1, prefix + math.prod(NETWORKS[name][1]))
    if name in AVERAGING:
        shares[..., prefix:] = 1 / (shares.shape[-1] - prefix)
    elif name == "timm, distilled":  # the logits are the mean of those of two heads, one on each of two tokens
        for image, target in enumerate(targets):
            rows = [int(target)] if method == "gradient" else list(range(5))
            sizes = [head.weight[rows].norm() for head in (network.head, network.head_dist)]
            shares[image, 0, :2] = torch.stack(sizes).detach() / sum(sizes)
    else:
        shares[..., 0] = 1
    return shares


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_equal_a_literal_loop(name, method, images):
    build, grid, prefix = NETWORKS[name]
    network = build()
    images = images[..., : grid[1] * 8]
    targets = torch.tensor([1, 4])
    total = expected(network, images, targets, method)
    deciding = (weights(network, name, prefix, targets, method) @ total)[:, 0]
    maps = values(METHODS[method](network.requires_grad_(False), images, targets))
    close(maps, deciding[:, prefix:].view(2, *grid), rtol=1e-4, atol=1e-7)
    assert (maps.amax((1, 2)) > 1.05 * maps.amin((1, 2))).all()  # it could have been flat


@pytest.mark.parametrize("method", METHODS)
def test_autocast_rounds_the_network_and_no_product_of_its_attention(method, images):
    network, targets = small_timm(), torch.tensor([1, 4])
    with torch.autocast("cpu", torch.bfloat16):
        maps = METHODS[method](network, images, targets)
        with recorded_attention() as seen:
            score = network(images).gather(1, targets.unsqueeze(1)).sum()
        slopes = torch.autograd.grad(score, seen)
    total = relevance([one.detach().double() for one in seen], [one.double() for one in slopes], method)
    close(maps, total[:, 0, 1:].view(2, 4, 6).float(), rtol=1e-5, atol=1e-7)


class Own(nn.Module):
    """A class token and one attention, which `call` asks in its own way."""

    def __init__(self, call: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        self.call, self.patches, self.class_token = call, nn.Conv2d(3, WIDTH, 8, 8), nn.Parameter(torch.ones(WIDTH))
        self.attention, self.norm = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.patches(images).flatten(2).mT
        self.tokens = self.norm(torch.cat([self.class_token.expand(len(cells), 1, -1), cells], 1))
        return self.head(self.call(self.attention, self.tokens)[0][:, 0])


@pytest.mark.parametrize(
    "call",
    [
        lambda attention, tokens: attention(tokens, tokens, tokens),
        lambda attention, tokens: attention(tokens, tokens, tokens, None, False),
        lambda attention, tokens: attention(query=tokens, key=tokens, value=tokens),
        lambda attention, tokens: attention(tokens, value=tokens, key=tokens, need_weights=False),
    ],
)
def test_attention_may_be_asked_by_position_and_by_name(call, images):
    torch.manual_seed(0)
    network, kept = peaked(Own(call)), []
    maps = raw_attention(network, images)
    before = network(images)
    mixed = attend(network.attention, network.tokens, kept)  # pyright: ignore[reportArgumentType]
    close(maps, kept[0].mean(1)[:, 0, 1:].view(2, 4, 6).detach())
    with recorded_attention():
        close(network(images), before)
    close(before, network.head(mixed[:, 0]))  # pyright: ignore[reportCallIssue]


def test_attention_is_a_share():
    images = torch.rand(1, 3, 32, 48)
    network = small_timm(class_token=False, global_pool="avg")
    for method in (raw_attention, attention_rollout):
        close(method(network, images).sum(), torch.tensor(1.0))


@pytest.mark.parametrize("build", [small_timm, small_torchvision])
@pytest.mark.parametrize("failing", [False, True])
def test_a_network_answers_the_same_while_it_is_watched_and_is_as_it_was_after(build, failing, images):
    network, images = build(), images[..., :32] if build is small_torchvision else images
    switches = [vars(module).get("fused_attn") for module in network.modules()]
    with torch.no_grad():
        before = network(images)
        with pytest.raises(KeyError) if failing else nullcontext(), recorded_attention() as seen:
            close(network(images), before)
            assert len(seen) == 3
            if failing:
                raise KeyError
        assert torch.equal(network(images), before)
    assert [vars(module).get("fused_attn") for module in network.modules()] == switches
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_networks_without_global_attention_say_what_would_do():
    with pytest.raises(InputError, match=r"no attention between tokens.*such as grad_cam"):
        raw_attention(bottlenecked(), torch.rand(1, 3, 48, 48))
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        embed_dim=24,
        depths=(1, 1),
        num_heads=(2, 2),
        window_size=4,
        num_classes=5,
    ).eval()
    with pytest.raises(InputError, match="within windows"):
        attention_rollout(swin, torch.rand(2, 3, 32, 32))
