"""Attention of vision transformers between their tokens, read towards the token that decides.

Maps lie on the grid of the patches; how many tokens stand before it is found from the network. What decides is the
first token where the network has any before the grid, as a class token is, or all cells alike where it has none or
averages them. Works for networks of timm and torchvision whose attention is among all tokens.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any, TypeGuard, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from ibviz.attribution.passes import differentiable, fine
from ibviz.errors import InputError
from ibviz.models.grids import Layout, spatial_layers
from ibviz.models.hooks import replaced_output
from ibviz.types import Images, Labels, Maps

Mixing = Float[Tensor, "_ _ _"]  # rows, tokens, tokens: from each token to each


def raw_attention(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Attention of the last layer, mean over heads: the share of it that a cell gets."""
    del targets  # no class is considered
    with torch.no_grad(), recorded_attention(model) as seen:
        model(images)
    return towards_decision(model, images, [fine(one).mean(1) for one in seen[-1:]])


def attention_rollout(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Attention rollout (Abnar & Zuidema 2020): product over layers of (A + I) / 2, A the mean over heads."""
    del targets  # see above
    with torch.no_grad(), recorded_attention(model) as seen:
        model(images)
    return towards_decision(model, images, [(fine(one).mean(1) + _identity(one)) / 2 for one in seen])


def gradient_rollout(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Gradient-weighted attention (Chefer, Gur & Wolf 2021): product over layers of I + Ā.

    Ā is the mean over heads of the positive part of A times the gradient of the target's logit with respect to A; both
    are taken after the softmax.
    """
    with differentiable(images) as inputs, recorded_attention(model) as seen:
        score = model(inputs).gather(1, targets.unsqueeze(1)).sum()
        gradients = torch.autograd.grad(score, seen) if seen else ()
    weighted = [(fine(one.detach()) * gradient).relu().mean(1) for one, gradient in zip(seen, gradients, strict=True)]
    return towards_decision(model, images, [one + _identity(one) for one in weighted], by_attention_only=True)


def towards_decision(
    model: nn.Module, images: Images, mixing: list[Mixing], *, by_attention_only: bool = False
) -> Maps:
    """What each cell gives to the deciding tokens through all layers, the first layer first.

    `by_attention_only` leaves out what deciding cells, all alike, bring themselves past all attention.
    """
    if not mixing:
        raise InputError("this network has no attention between tokens, as timm's Attention or a batch-first "
                         "nn.MultiheadAttention has it; choose another method, such as grad_cam")  # fmt: skip
    layout = _layout_of(model, images, mixing)
    deciding = slice(0, 1) if layout.prefix and not _averages_cells(model) else slice(layout.prefix, None)
    themselves = _identity(mixing[0])[deciding].mean(0, keepdim=True)
    rows = themselves
    with torch.autocast(images.device.type, enabled=False):  # it would round the products
        for one in reversed(mixing):
            rows = rows @ one
    if by_attention_only:
        rows = rows - themselves
    return rows[:, 0, layout.prefix :].unflatten(1, layout.grid).float()


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[list[Float[Tensor, "b heads t t"]]]:
    """Inside the block, attention after the softmax of every layer that runs, in the order in which it is used.

    Fused kernels, which never form it, are switched off inside the block and on again after it.
    """
    seen: list[Tensor] = []

    def note(attention: Tensor) -> Tensor:
        seen.append(attention)
        return attention

    with ExitStack() as stack:
        for module in model.modules():
            if _can_be_spelled_out(module):
                stack.enter_context(_spelled_out(module, note))
            elif isinstance(drop := getattr(module, "attn_drop", None), nn.Module) and hasattr(module, "fused_attn"):
                stack.enter_context(_not_fused(module))
                stack.enter_context(replaced_output(drop, note))
        yield seen


@contextmanager
def _not_fused(module: nn.Module) -> Iterator[None]:
    """Inside the block, timm's attention goes step by step."""
    attention = cast(Any, module)
    before, attention.fused_attn = attention.fused_attn, False
    try:
        yield
    finally:
        attention.fused_attn = before


@contextmanager
def _spelled_out(module: nn.MultiheadAttention, note: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, self-attention of PyTorch's own module forms its weights, and its output comes from them."""

    def ask(module: nn.Module, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        named = signature(module.forward).bind(*inputs, **options).arguments
        return (), named | {"need_weights": True, "average_attn_weights": False}

    def mix(module: nn.MultiheadAttention, inputs: Any, options: dict[str, Any], result: tuple[Tensor, Tensor]) -> Any:  # noqa: ARG001
        weights = note(result[1])
        bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[2]
        value = F.linear(options["value"], module.in_proj_weight.chunk(3)[2], bias)
        mixed = weights @ value.unflatten(2, (module.num_heads, -1)).transpose(1, 2)
        return module.out_proj(mixed.transpose(1, 2).flatten(2)), weights

    handles = (
        module.register_forward_pre_hook(ask, with_kwargs=True),
        module.register_forward_hook(mix, with_kwargs=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _can_be_spelled_out(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    if not isinstance(module, nn.MultiheadAttention) or not module.batch_first:
        return False
    return module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn


def _layout_of(model: nn.Module, images: Images, mixing: list[Mixing]) -> Layout:
    """The layout of the tokens that attend to each other, or an `InputError` where they are not those of the image."""
    shapes = {tuple(one.shape) for one in mixing}
    for layout in reversed(spatial_layers(model, images[:1]).values()):
        tokens = layout.prefix + math.prod(layout.grid)
        if layout.kind == "tokens" and shapes == {(len(images), tokens, tokens)}:
            return layout
    raise InputError("this network's attention is not among one grid of tokens in all layers but within windows, "
                     f"pooled or otherwise (shapes {sorted(shapes)}); choose another method, as grad_cam")  # fmt: skip


def _averages_cells(model: nn.Module) -> bool:
    """Whether the network's head reads the mean of the cells, as timm's networks say, although it has a class token."""
    pools = [getattr(module, "global_pool", None) for module in model.modules()]
    return any(isinstance(pool, str) and pool not in ("", "token") for pool in pools)


def _identity(mixing: Float[Tensor, "*rows t t"]) -> Float[Tensor, "t t"]:
    return torch.eye(mixing.shape[-1], device=mixing.device, dtype=mixing.dtype)
