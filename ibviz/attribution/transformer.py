"""Attention of vision transformers between their tokens, read towards the tokens that decide.

Maps lie on the grid of the patches. What decides is found from the network: one token, as a class token is; several,
each of which counts by what it weighs in the logits, as a class token beside a distillation token, or all cells where
the head averages them; or an attention of the head itself that pools the tokens. Attentions that stand side by side in
one layer, as in x + A(x) + B(x), are read as one layer, the sum of both and the skip connection, never as two layers
that follow each other. A network that a product of its attentions does not describe is refused (see `mixing`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.attribution.forward_pass import at_least_float32, differentiable
from ibviz.attribution.mixing import TokenFlow, kept_tokens, token_flow
from ibviz.attribution.softmax import WAY_OUT, by_heads, recorded_attention
from ibviz.errors import InputError
from ibviz.types import Images, Labels, Maps

Rows = Float[Tensor, "_ _ _"]  # for each image, what each of some tokens gets from each of all
STEADY = 0.3  # of the largest share: by how much that of a token may differ between images
SUMS = 0.02  # how far a row of attention may sum to something else than 1, for rounding in half precision


def raw_attention(model: nn.Module, images: Images) -> Maps:
    """Attention of the last layer, mean over heads: the share of it that a cell gets.

    Attentions that stand side by side in that layer count alike. If the head pools the tokens, its attention is the
    last layer.
    """
    flow = token_flow(model, images, last=True)
    rows = _means(model, images, flow)
    layers = [torch.stack([rows[index] for index in layer]).mean(0) for layer in flow.layers]
    return _on_grid(_through(_start(flow, rows, images), layers), flow)


def attention_rollout(model: nn.Module, images: Images) -> Maps:
    """Attention rollout (Abnar & Zuidema 2020): product over layers of (A + I) / 2, A the mean over heads.

    A layer of n attentions side by side is (A_1 + ... + A_n + I) / (n + 1). If the head pools the tokens, its attention
    comes last, without I: no token is led past it.
    """
    flow = token_flow(model, images)
    rows = _means(model, images, flow)
    layers = [torch.stack([_identity(flow, rows), *(rows[index] for index in one)]).mean(0) for one in flow.layers]
    return _on_grid(_through(_start(flow, rows, images), layers), flow)


def gradient_rollout(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Gradient-weighted attention (Chefer, Gur & Wolf 2021): product over layers of I + Ā.

    Ā is the mean over heads of the positive part of A times the gradient of the target's logit with respect to A; both
    are taken after the softmax. A layer of several attentions side by side is I and the sum of theirs. If several
    tokens decide, each counts by its share of the norms of the logit's gradient; what they bring themselves, past all
    attention, is left out.
    """
    flow = token_flow(model, images)
    with (
        differentiable(images) as inputs,
        recorded_attention(model) as seen,
        kept_tokens(model, flow.reading) as tokens,
    ):
        score = model(inputs).gather(1, targets.unsqueeze(1)).sum()
        maps = _checked(seen, flow, len(images))
        slopes = torch.autograd.grad(score, [*maps.values(), *tokens[-1:]])
    weighted = {
        i: at_least_float32(one.detach()) * slope for (i, one), slope in zip(maps.items(), slopes, strict=False)
    }
    rows = {index: by_heads(one, len(images)).relu().mean(1) for index, one in weighted.items()}
    if tokens:
        start = nn.functional.normalize(at_least_float32(slopes[-1]).norm(dim=2), p=1, dim=1).unsqueeze(1)
    else:
        start = _start(flow, rows, images)
    layers = [_identity(flow, rows) + torch.stack([rows[index] for index in one]).sum(0) for one in flow.layers]
    relevance = _through(start, layers)
    return _on_grid(relevance if flow.pooling is not None else relevance - start, flow)


def _means(model: nn.Module, images: Images, flow: TokenFlow) -> dict[int, Rows]:
    """Mean over heads of each attention in a pass, by its number among the softmaxes."""
    with torch.no_grad(), recorded_attention(model) as seen:
        model(images)
    maps = _checked(seen, flow, len(images))
    return {index: at_least_float32(by_heads(one, len(images))).mean(1) for index, one in maps.items()}


def _checked(seen: list[Tensor], flow: TokenFlow, count: int) -> dict[int, Tensor]:
    """The attentions among the softmaxes of a pass, if they are what the probe found: their number, shapes and sums."""
    maps = {index: seen[index] for index in flow.used if index < len(seen)}
    tokens = flow.shares.shape[1]
    shapes = {index: by_heads(one, count).shape for index, one in maps.items()}
    fitting = {
        i: len(s) == 4 and s[0] == count and s[2:] == (1 if i == flow.pooling else tokens, tokens)
        for i, s in shapes.items()
    }
    if len(seen) != flow.softmaxes or not all(fitting.values()):
        raise InputError(
            f"this network's attention changes with its images: {flow.softmaxes} softmaxes over {tokens} "
            f"tokens on noise, {len(seen)} on these images; {WAY_OUT}"
        )
    if any(((at_least_float32(one.detach()).sum(-1) - 1).abs() > SUMS).any() for one in maps.values()):
        raise InputError(f"rows of this network's attention do not sum to 1, as masks may cause; {WAY_OUT}")
    return maps


def _start(flow: TokenFlow, rows: dict[int, Rows], images: Images) -> Rows:
    """What each token behind the last layer weighs in the logits, as one row for each image."""
    if flow.pooling is not None:
        return rows[flow.pooling]
    first, second = flow.shares
    if (first - second).abs().max() > STEADY * first.max():
        raise InputError(
            "which tokens decide, and by how much, differs between images in this network, as with max pooling or the "
            f"choice of a few tokens; choose gradient_rollout, or: {WAY_OUT}"
        )
    return first.to(rows[flow.used[0]]).expand(len(images), 1, -1)


def _through(start: Rows, layers: list[Rows]) -> Rows:
    """The row of the deciding tokens through all layers, the first layer first."""
    with torch.autocast(start.device.type, enabled=False):  # it would round the products
        for layer in reversed(layers):
            start = start @ layer
    return start


def _on_grid(row: Rows, flow: TokenFlow) -> Maps:
    return row[:, 0, flow.prefix :].unflatten(1, flow.grid).float()


def _identity(flow: TokenFlow, rows: dict[int, Rows]) -> Rows:
    some = rows[flow.used[0]]
    return torch.eye(flow.shares.shape[1], dtype=some.dtype, device=some.device).expand(len(some), -1, -1)
