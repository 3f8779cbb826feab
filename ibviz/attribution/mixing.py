"""Check that a product of attentions describes how a network carries values between its tokens.

A probe runs the network on noise with fixed matrices in place of its attentions and follows gradients back to them. If
the attentions and their skip connections alone carry values between tokens, it is known beforehand on which rows of an
attention the output depends. Any other result is refused.
"""

import math
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ibviz.attribution.attention_probe import PROBE_IMAGES, AttentionProbe, run_probe
from ibviz.attribution.forward_pass import differentiable
from ibviz.attribution.softmax import (
    WAY_OUT,
    bypasses,
    consumers_of,
    split_heads,
    value_product,
    value_source,
)
from ibviz.attribution.trial import refuse_crop
from ibviz.errors import InputError
from ibviz.models.grids import token_grid
from ibviz.types import Grid, Images

_SAME = 1e-3  # of the largest difference between images; with a smaller one a token does not depend on the image


class TokenFlow(NamedTuple):
    """The checked way of values from token to token and to the logits; softmaxes are numbered in order of the pass."""

    layers: list[list[int]]  # the softmaxes of each layer, several if they are parallel
    pooling: int | None  # the softmax with which the head pools all tokens, if there is one
    softmaxes: int  # their number in the whole pass
    grid: Grid
    prefix: int  # tokens before those of the grid
    shares: Float[Tensor, "images t"]  # weight of each token of the last layer in the logits of two images; sum 1
    reading: str | None  # the module from whose tokens the logits are computed, if they depend on several tokens

    @property
    def used(self) -> list[int]:
        """All softmaxes that are attention, in the order of the pass."""
        return [*chain(*self.layers)] + ([] if self.pooling is None else [self.pooling])


def token_flow(model: nn.Module, images: Images, *, last: bool = False) -> TokenFlow:
    """Find and check the flow of values between the tokens of a network, on noise of the images' size.

    Args:
        model: Any network with logits `(b, classes)`.
        images: The images that are to be explained, for their size and precision.
        last: True if only the last layer matters.

    Returns:
        The softmaxes of each layer, the place of the grid among the tokens, and the weight of each token in the logits.

    Raises:
        InputError: If attention is changed after its softmax, is not square over the same tokens in all layers, does
            not reach the logits, or is not the only connection between tokens; it names the reason.
    """
    with torch.autocast(images.device.type, enabled=False), differentiable(images[:1]) as image:
        probe = run_probe(model, image, width=1 << 30, rows=PROBE_IMAGES + 1)
        used, pooling = _attention(probe, last=last)
        width = max(probe.key_count(used) - 2, 1)  # in more layers a token would reach all others
        if width < len(probe.softmaxes):
            probe = run_probe(model, image, width=width, rows=PROBE_IMAGES + math.ceil(len(probe.softmaxes) / width))
        prefix, grid = _locate_grid(probe, used[0], stem=not last)
        start, shares, reading = _output_tokens(probe, used, pooling)
        score = probe.logits if reading is None else probe.tokens[reading][:, start]
        mixing = [index for index in used if index != pooling]
        reached = probe.reached_rows(score, mixing) if mixing else []
        layers = _group_into_layers(reached, mixing, start, width, last=last) if mixing else []
        _refuse_bypass(probe, pooling, by_class_token=reading is None and start < prefix)
    return TokenFlow(layers, pooling, len(probe.softmaxes), grid, prefix, shares, reading)


def _attention(probe: AttentionProbe, *, last: bool) -> tuple[list[int], int | None]:
    """Return the softmaxes that are attention among the same tokens, and the one that pools the tokens or None.

    The pooling softmax is the last of the former. Raises `InputError` for any other kind of attention.
    """
    consumers = consumers_of(probe.logits)
    products = {index: value_product(softmax, consumers) for index, softmax in enumerate(probe.softmaxes)}
    used = [index for index in products if products[index] is not None]
    if len({value_source(products[index]) for index in used}) < len(used):
        raise InputError(
            "several attentions of this network share their values, as those whose difference is taken in "
            f"differential attention; {WAY_OUT}"
        )
    if not used:
        raise InputError(f"this network has no attention between tokens that softmax gives; {WAY_OUT}")
    shapes = [tuple(probe.heads(index).shape) for index in used]
    rows, keys = len(probe.noise), shapes[-1][-1]
    pooling = used[-1] if shapes[-1][-2] == 1 < keys else None
    square = [len(shape) == 4 and shape[0] == rows and shape[-2:] == (keys, keys) for shape in shapes]
    if pooling is not None:
        square[-1] = shapes[-1][0] == rows
    if last:  # earlier attentions do not matter
        first = len(square) if all(square) else square[::-1].index(False)
        used, square = used[len(used) - first :], square[len(used) - first :]
        used = used[-1:] if pooling is not None else used
    if not used or not all(square):
        listed = ", ".join("x".join(map(str, shape)) for shape in sorted({shape[1:] for shape in shapes}))
        raise InputError(
            "this network's attention is not among one grid of tokens in all layers but within windows, "
            "with fewer keys than queries, of a class token alone or otherwise (heads, queries, keys: "
            f"{listed}); {WAY_OUT}"
        )
    return used, pooling


def _locate_grid(probe: AttentionProbe, first: int, *, stem: bool) -> tuple[int, Grid]:
    """Return the number of tokens before the grid, and the grid, from the pixels that reach the first attention."""
    scores = split_heads(probe.inputs[first], len(probe.noise))
    own = scores.diagonal(dim1=-2, dim2=-1) if scores.shape[-2] > 1 else scores[:, :, 0]  # each token with itself
    differs = (own[0] - own[1]).abs().nan_to_num().amax(0)  # NaN if a mask of -inf hides a token from itself
    moved = differs > _SAME * differs.max()
    prefix = int((~moved).sum())
    size = (probe.noise.shape[2], probe.noise.shape[3])
    grid = token_grid(len(moved) - prefix, size)
    if grid is None or not moved[prefix:].all():
        raise InputError(
            f"the {len(moved)} tokens of this network's attention, of which {prefix} depend on no pixel "
            f"or may not read themselves, are no grid in the proportion of {size[0]}x{size[1]} pixels "
            f"behind those; {WAY_OUT}"
        )
    rows, columns = grid
    for row, column in ((0, 0), (0, columns - 1), (rows - 1, columns - 1)):
        token = prefix + row * columns + column
        [pixels] = torch.autograd.grad(own[0, :, token].sum(), probe.noise, retain_graph=True)
        strength = nn.functional.adaptive_avg_pool2d(pixels[0].abs().sum(0, keepdim=True), grid)[0]
        if (row, column) == (0, 0) or (row, column) == (rows - 1, columns - 1):
            refuse_crop(pixels[0], grid, last=row > 0)
        peak = divmod(int(strength.argmax()), columns)
        if max(abs(peak[0] - row), abs(peak[1] - column)) > 1:
            raise InputError(
                f"token {token} of this network's attention depends most on the cell {peak}, not on "
                f"{row, column}: its tokens are in another order than the image, or mixed before by what "
                f"is not seen; {WAY_OUT}"
            )
    if stem and strength.all():
        raise InputError(
            "cells of this network depend on the whole image before the first attention that is seen, "
            f"by convolutions, pooling or another kind of attention, at {size[0]}x{size[1]} pixels; "
            f"{WAY_OUT}"
        )
    return prefix, grid


def _output_tokens(
    probe: AttentionProbe, used: list[int], pooling: int | None
) -> tuple[int, Float[Tensor, "images t"], str | None]:
    """Return a token to trace back from the logits, the weight of each token there, and the module that gives them.

    The module is None if the logits depend on a single token.
    """
    keys = probe.key_count(used)
    shares = torch.zeros(PROBE_IMAGES, keys, device=probe.noise.device)
    if pooling is not None:  # the probe fixes it to one token; in a real pass the attention itself gives the weights
        return keys // 2, shares, None
    deciding = probe.reached_rows(probe.logits, used[-1:])[0][0].nonzero().flatten()
    if not len(deciding):
        raise InputError(f"the last attention of this network does not reach its logits; {WAY_OUT}")
    if len(deciding) == 1:
        shares[:, deciding] = 1
        return int(deciding), shares, None
    reading = _output_module(probe, used[-1])
    for logit in probe.logits[:PROBE_IMAGES].sum(0):
        [slope] = torch.autograd.grad(logit, probe.tokens[reading], retain_graph=True)
        shares += slope[:PROBE_IMAGES].square().sum(-1)
    return keys // 2, nn.functional.normalize(shares.sqrt(), p=1, dim=1), reading


def _output_module(probe: AttentionProbe, last: int) -> str:
    """Return the last module through whose tokens everything passes from the last attention to the logits."""
    attention, shape = probe.softmaxes[last].grad_fn, (len(probe.noise), probe.key_count([last]))
    consumers = consumers_of(probe.logits)
    for name, tokens in reversed(probe.tokens.items()):
        is_used = name and tokens.shape[:2] == shape and tokens.grad_fn in consumers
        if is_used and bypasses(probe.noise, probe.logits, tokens.grad_fn):
            continue
        if is_used and attention not in consumers_of(probe.logits, without=tokens.grad_fn):
            return name
    raise InputError(
        "several tokens of this network decide, and no module gives all of them at the end, so that "
        f"what each weighs is not known; {WAY_OUT}"
    )


def _refuse_bypass(probe: AttentionProbe, pooling: int | None, *, by_class_token: bool) -> None:
    """Raise `InputError` if images reach the logits around the pooling attention, or around that of a class token."""
    if pooling is not None:
        past = bypasses(probe.noise, probe.logits, value_product(probe.softmaxes[pooling], consumers_of(probe.logits)))
    elif by_class_token:  # in the rows where every token reads itself, it depends on no pixel
        [pixels] = torch.autograd.grad(probe.logits[0].square().sum(), probe.noise, retain_graph=True)
        past = bool(pixels[0].any())
    else:
        past = False
    if past:
        raise InputError(
            "pixels reach the logits of this network past its attention, by a second path or a mean of all cells, so "
            f"that attention tells only a part; {WAY_OUT}"
        )


def _group_into_layers(
    reached: list[Bool[Tensor, "rows t"]], used: list[int], start: int, width: int, *, last: bool
) -> list[list[int]]:
    """Return the attentions grouped into layers, first to last, after a check of the tokens that the probe reached.

    From the last layer back, each layer adds the tokens that it reads to those on which the output depends; attentions
    reached at the same tokens are parallel. Raises `InputError` if the probe reached other tokens.
    """
    needed = torch.zeros_like(reached[-1])
    needed[:, start] = True
    before, layers = needed.clone(), [[]]
    for index, rows in zip(reversed(used), reversed(reached[: len(used)]), strict=True):
        if not before.equal(needed) and rows.equal(before):
            needed, before, layers = before, before.clone(), [[], *layers]
        elif not rows.equal(needed):
            if last and layers[0]:
                break
            raise InputError(
                "something besides its softmax attention carries values between this network's tokens, as "
                "a convolution over them, an attention of another kind or a second path, or an attention "
                f"has no skip connection around it; {WAY_OUT}"
            )
        layers[0].insert(0, index)
        window = PROBE_IMAGES + index // width
        before[window] |= needed[window].roll(1)
    return layers[-1:] if last else layers
