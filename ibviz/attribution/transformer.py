"""Attention maps of vision transformers: attention from the output to each patch, multiplied through the layers.

Maps lie on the grid of the patches. The tokens that the head reads are found from the network: a single one, such as a
class token; several, each with its weight in the logits, such as a class token beside a distillation token, or all
patches if the head averages them; or the tokens that an attention of the head pools. Parallel attentions in one layer,
as in x + A(x) + B(x), are one layer: the sum of both and the skip connection. A network that a product of its
attentions does not describe is refused (see `mixing`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.attribution.attention_probe import kept_tokens
from ibviz.attribution.forward_pass import at_least_float32, differentiable
from ibviz.attribution.mixing import TokenFlow, token_flow
from ibviz.attribution.softmax import WAY_OUT, recorded_attention, split_heads
from ibviz.errors import InputError
from ibviz.types import Images, Labels, Maps

_AttentionRows = Float[Tensor, "_ _ _"]  # (b, queries, keys): for each image, weights of all tokens in some tokens
_SHARE_TOLERANCE = 0.3  # of the largest share: the most by which a token's share may differ between images
_SUM_TOLERANCE = 0.02  # the most by which the sum of an attention row may differ from 1, for half precision


def raw_attention(model: nn.Module, images: Images) -> Maps:
    """Raw attention: the last layer's attention to each patch, mean over heads; independent of the class.

    Parallel attentions in that layer are averaged. If the head pools the tokens, its attention is the last layer.
    """
    flow = token_flow(model, images, last=True)
    rows = _mean_over_heads(model, images, flow)
    layers = [torch.stack([rows[index] for index in layer]).mean(0) for layer in flow.layers]
    return _on_grid(_multiplied(_output_weights(flow, rows, images), layers), flow)


def attention_rollout(model: nn.Module, images: Images) -> Maps:
    """Attention rollout (Abnar & Zuidema 2020): product over layers of (A + I) / 2, A the mean attention over heads.

    A layer of n parallel attentions is (A_1 + ... + A_n + I) / (n + 1). If the head pools the tokens, its attention
    comes last, without I, since it has no skip connection.
    """
    flow = token_flow(model, images)
    rows = _mean_over_heads(model, images, flow)
    identity = _identity(flow, rows)
    layers = [torch.stack([identity, *(rows[index] for index in layer)]).mean(0) for layer in flow.layers]
    return _on_grid(_multiplied(_output_weights(flow, rows, images), layers), flow)


def gradient_rollout(model: nn.Module, images: Images, targets: Labels) -> Maps:
    """Gradient rollout (Chefer, Gur & Wolf 2021): product over layers of I + Ā, attention weighted by its gradient.

    Ā is the mean over heads of the positive part of A times the gradient of the target's logit with respect to A, both
    after the softmax. For parallel attentions it is the sum of theirs. If the head reads several tokens, each is
    weighted by its share of the norms of the logit's gradient; the identity part of the product is left out.
    """
    flow = token_flow(model, images)
    with (
        differentiable(images) as inputs,
        recorded_attention() as softmaxes,
        kept_tokens(model, flow.reading) as tokens,
    ):
        score = model(inputs).gather(1, targets.unsqueeze(1)).sum()
        maps = _checked(softmaxes, flow, len(images))
        slopes = torch.autograd.grad(score, [*maps.values(), *tokens[-1:]])
    rows = {}
    for (index, attention), slope in zip(maps.items(), slopes, strict=False):
        weighted = at_least_float32(attention.detach()) * slope
        rows[index] = split_heads(weighted, len(images)).relu().mean(1)
    if tokens:
        weights = nn.functional.normalize(at_least_float32(slopes[-1]).norm(dim=2), p=1, dim=1).unsqueeze(1)
    else:
        weights = _output_weights(flow, rows, images)
    identity = _identity(flow, rows)
    layers = [identity + torch.stack([rows[index] for index in layer]).sum(0) for layer in flow.layers]
    relevance = _multiplied(weights, layers)
    return _on_grid(relevance if flow.pooling is not None else relevance - weights, flow)


def _mean_over_heads(model: nn.Module, images: Images, flow: TokenFlow) -> dict[int, _AttentionRows]:
    """Return the mean over heads of each attention in a pass, by its number among the softmaxes."""
    with torch.no_grad(), recorded_attention() as softmaxes:
        model(images)
    maps = _checked(softmaxes, flow, len(images))
    return {index: at_least_float32(split_heads(maps[index], len(images))).mean(1) for index in maps}


def _checked(softmaxes: list[Tensor], flow: TokenFlow, count: int) -> dict[int, Tensor]:
    """Return the attentions of a pass after a check that number, shapes and row sums are as in the probe.

    Raises `InputError` if they differ.
    """
    maps = {index: softmaxes[index] for index in flow.used if index < len(softmaxes)}
    tokens = flow.shares.shape[1]
    fitting = []
    for index, attention in maps.items():
        shape, queries = split_heads(attention, count).shape, 1 if index == flow.pooling else tokens
        fitting.append(len(shape) == 4 and shape[0] == count and shape[2:] == (queries, tokens))
    if len(softmaxes) != flow.softmaxes or not all(fitting):
        raise InputError(
            f"this network's attention changes with its images: {flow.softmaxes} softmaxes over {tokens} "
            f"tokens on noise, {len(softmaxes)} on these images; {WAY_OUT}"
        )
    sums = [at_least_float32(attention.detach()).sum(-1) for attention in maps.values()]
    if any(((each - 1).abs() > _SUM_TOLERANCE).any() for each in sums):
        raise InputError(f"rows of this network's attention do not sum to 1, as masks may cause; {WAY_OUT}")
    return maps


def _output_weights(flow: TokenFlow, rows: dict[int, _AttentionRows], images: Images) -> _AttentionRows:
    """Return the weight of each token of the last layer in the logits, as one row per image."""
    if flow.pooling is not None:
        return rows[flow.pooling]
    first, second = flow.shares
    if (first - second).abs().max() > _SHARE_TOLERANCE * first.max():
        raise InputError(
            "which tokens decide, and by how much, differs between images in this network, as with max pooling or the "
            f"choice of a few tokens; choose gradient_rollout, or: {WAY_OUT}"
        )
    return first.to(rows[flow.used[0]]).expand(len(images), 1, -1)


def _multiplied(weights: _AttentionRows, layers: list[_AttentionRows]) -> _AttentionRows:
    """Return the output weights multiplied through all layers, given first to last."""
    with torch.autocast(weights.device.type, enabled=False):  # it would round the products
        for layer in reversed(layers):
            weights = weights @ layer
    return weights


def _on_grid(row: _AttentionRows, flow: TokenFlow) -> Maps:
    return row[:, 0, flow.prefix :].unflatten(1, flow.grid).float()


def _identity(flow: TokenFlow, rows: dict[int, _AttentionRows]) -> _AttentionRows:
    some = rows[flow.used[0]]
    return torch.eye(flow.shares.shape[1], dtype=some.dtype, device=some.device).expand(len(some), -1, -1)
