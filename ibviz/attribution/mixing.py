"""How a network carries values between its tokens, checked before a product of attentions is taken for it.

A probe runs the network on noise with fixed matrices in place of its attentions and follows gradients back to them.
Which rows of an attention the output depends on is then known beforehand, exactly, if the attentions and the skip
connections around them are all that carries values between tokens; anything else is refused.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ibviz.attribution.forward_pass import differentiable
from ibviz.attribution.softmax import (
    WAY_OUT,
    Softmaxes,
    by_heads,
    passes_by,
    product_of,
    readers_in,
    spelled_out,
    values_of,
)
from ibviz.attribution.trial import refuse_crop
from ibviz.errors import InputError, no_gradient_error, not_finite
from ibviz.models.grids import token_grid
from ibviz.models.hooks import replaced_output
from ibviz.types import Grid, Images

PROBES = 2  # rows of the probe in which every token reads itself; in each further row it reads the next, in some layers
SAME = 1e-3  # of the largest difference between images: below it, a token does not depend on the image


class TokenFlow(NamedTuple):
    """How values get from token to token and to the logits, as `token_flow` has checked it."""

    layers: list[list[int]]  # which softmaxes of the pass each layer has; several where they run side by side
    pooling: int | None  # the softmax by which the head reads all tokens, if there is one
    softmaxes: int  # how many the pass has in all
    grid: Grid
    prefix: int  # tokens before those of the grid
    shares: Float[
        Tensor, "images t"
    ]  # what each token weighs in the logits of two images, behind the last layer; sum 1
    reading: str | None  # the module from whose tokens the logits are read, where several tokens decide

    @property
    def used(self) -> list[int]:
        """All softmaxes that are attention, in the order of the pass."""
        return [*chain(*self.layers)] + ([] if self.pooling is None else [self.pooling])


def token_flow(model: nn.Module, images: Images, *, last: bool = False) -> TokenFlow:
    """Find and check how values get between tokens, on noise of the images' size; refuse what no product describes.

    Args:
        model: any network with logits `(b, classes)`.
        images: the images that are to be explained, for their size and precision.
        last: whether the last layer is all that matters.

    Returns:
        Which softmaxes are the attention of which layer, where the cells are, and what each token weighs.

    Raises:
        InputError: naming what was met, if attention is changed after its softmax, is not square over the same
            tokens in all layers, does not reach the logits, or is not all that carries values between tokens.
    """
    with torch.autocast(images.device.type, enabled=False), differentiable(images[:1]) as image:
        probe = _run(model, image, width=1 << 30, rows=PROBES + 1)
        used, pooling = _attention(probe, last=last)
        width = max(probe.keys(used) - 2, 1)  # reading a neighbour in more layers, a token would read all of them
        if width < len(probe.seen):
            probe = _run(model, image, width=width, rows=PROBES + math.ceil(len(probe.seen) / width))
        prefix, grid = _places(probe, used[0], stem=not last)
        start, shares, reading = _decision(probe, used, pooling)
        score = probe.logits if reading is None else probe.tokens[reading][:, start]
        mixing = [index for index in used if index != pooling]
        layers = _in_layers(probe.reached(score, mixing), mixing, start, width, last=last) if mixing else []
        _refuse_other_ways(probe, pooling, by_class_token=reading is None and start < prefix)
    return TokenFlow(layers, pooling, len(probe.seen), grid, prefix, shares, reading)


class _Probe(NamedTuple):
    """A pass on noise with fixed attention, and what gradients are asked of."""

    noise: Images
    logits: Tensor
    seen: list[Tensor]
    asked: list[Tensor]
    tokens: dict[str, Tensor]  # what modules give that may be tokens, in the order in which they finished

    def keys(self, used: list[int]) -> int:
        """How many tokens attention reads."""
        return self.seen[used[-1]].shape[-1]

    def heads(self, index: int) -> Float[Tensor, "*rows q k"]:
        """One attention, with heads as an axis."""
        return by_heads(self.seen[index], len(self.noise))

    def reached(self, score: Tensor, used: list[int]) -> list[Bool[Tensor, "rows q"]]:
        """Which rows of each attention a score depends on, for each row of the batch."""
        maps = [self.seen[index] for index in used]
        draws = torch.randn(score.shape[1:], generator=torch.Generator().manual_seed(0))
        grads = torch.autograd.grad((score * draws.to(score)).sum(), maps, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(maps, grads, strict=True)]
        return [(by_heads(one, len(self.noise)) != 0).any(-1).any(1) for one in filled]


def _fixed(attention: Tensor, number: int, *, width: int, rows: int) -> Tensor:
    """What stands in place of one attention: in each row of the probe a token reads itself, or the next one.

    Tokens read the next one in one row of the batch for each `width` attentions.
    """
    if len(by_heads(attention, rows)) != rows:
        return attention  # not within images; its use is refused later
    queries, keys = attention.shape[-2:]
    matrices = torch.eye(queries, keys).roll(keys // 2 if queries == 1 else 0, 1).repeat(rows, 1, 1)
    window = PROBES + number // width
    matrices[window] = matrices[window].roll(int(queries > 1), 1)
    heads = attention.numel() // matrices.numel()
    return matrices.to(attention).unsqueeze(1).expand(-1, heads, -1, -1).reshape(attention.shape)


def _run(model: nn.Module, image: Images, *, width: int, rows: int) -> _Probe:
    """One pass on noise with fixed attention."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.rand(rows, *image.shape[1:], generator=draws).to(image).requires_grad_()
    tokens: dict[str, Tensor] = {}

    def note(name: str, output: Any) -> Any:
        tensor = _first_tensor(output)
        if tensor is not None and tensor.ndim == 3:
            tokens.pop(name, None)  # a second run comes later
            tokens[name] = tensor
        return output

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(replaced_output(module, partial(note, name)))
        stack.enter_context(spelled_out())
        mode = stack.enter_context(Softmaxes(partial(_fixed, width=width, rows=rows)))
        logits = model(noise)
    if logits.grad_fn is None:
        raise no_gradient_error()
    if not logits.isfinite().all():
        raise not_finite("logits of the network for noise")
    return _Probe(noise, logits, mode.seen, mode.asked, tokens)


@contextmanager
def kept_tokens(model: nn.Module, reading: str | None) -> Iterator[list[Tensor]]:
    """Inside the block, the tokens that a named module gives each time it runs; none without a name."""
    kept: list[Tensor] = []

    def note(output: Any) -> Any:
        if (tensor := _first_tensor(output)) is not None:
            kept.append(tensor)
        return output

    with nullcontext() if reading is None else replaced_output(model.get_submodule(reading), note):
        yield kept


def _first_tensor(output: Any) -> Tensor | None:
    """What a module gives, or the first of what it gives, if that is a tensor."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None


def _attention(probe: _Probe, *, last: bool) -> tuple[list[int], int | None]:
    """Which softmaxes are attention among the same tokens, with the one that pools them at the end; and the latter."""
    readers = readers_in(probe.logits)
    products = {index: product_of(one, readers) for index, one in enumerate(probe.seen)}
    used = [index for index in products if products[index] is not None]
    if len({values_of(products[index]) for index in used}) < len(used):
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
    if last:  # what comes before is not looked at
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


def _places(probe: _Probe, first: int, *, stem: bool) -> tuple[int, Grid]:
    """How many tokens stand before the grid, and the grid, as the image's pixels reach what attention is asked with."""
    asked = by_heads(probe.asked[first], len(probe.noise))
    own = asked.diagonal(dim1=-2, dim2=-1) if asked.shape[-2] > 1 else asked[:, :, 0]  # each token with itself
    differs = (own[0] - own[1]).abs().nan_to_num().amax(0)  # NaN where a mask of -inf forbids a token itself
    moved = differs > SAME * differs.max()
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


def _decision(probe: _Probe, used: list[int], pooling: int | None) -> tuple[int, Float[Tensor, "images t"], str | None]:
    """A token to follow back from the logits, what each token weighs there, and the module to read several from."""
    keys = probe.keys(used)
    shares = torch.zeros(PROBES, keys, device=probe.noise.device)
    if pooling is not None:  # fixed to one token in the probe; in a pass, attention itself says what each weighs
        return keys // 2, shares, None
    deciding = probe.reached(probe.logits, used[-1:])[0][0].nonzero().flatten()
    if not len(deciding):
        raise InputError(f"the last attention of this network does not reach its logits; {WAY_OUT}")
    if len(deciding) == 1:
        shares[:, deciding] = 1
        return int(deciding), shares, None
    reading = _reading(probe, used[-1])
    for logit in probe.logits[:PROBES].sum(0):
        [slope] = torch.autograd.grad(logit, probe.tokens[reading], retain_graph=True)
        shares += slope[:PROBES].square().sum(-1)
    return keys // 2, nn.functional.normalize(shares.sqrt(), p=1, dim=1), reading


def _reading(probe: _Probe, last: int) -> str:
    """The last module through whose tokens all goes that attention gives to the logits."""
    attention, shape = probe.seen[last].grad_fn, (len(probe.noise), probe.keys([last]))
    readers = readers_in(probe.logits)
    for name, tokens in reversed(probe.tokens.items()):
        read = name and tokens.shape[:2] == shape and tokens.grad_fn in readers
        if read and passes_by(probe.noise, probe.logits, tokens.grad_fn):
            continue
        if read and attention not in readers_in(probe.logits, without=tokens.grad_fn):
            return name
    raise InputError(
        "several tokens of this network decide, and no module gives all of them at the end, so that "
        f"what each weighs is not known; {WAY_OUT}"
    )


def _refuse_other_ways(probe: _Probe, pooling: int | None, *, by_class_token: bool) -> None:
    """Raise `InputError` if images reach the logits past the attention that pools them, or past a class token's."""
    if pooling is not None:
        past = passes_by(probe.noise, probe.logits, product_of(probe.seen[pooling], readers_in(probe.logits)))
    elif by_class_token:  # which, where every token reads itself, sees no pixel
        [pixels] = torch.autograd.grad(probe.logits[0].square().sum(), probe.noise, retain_graph=True)
        past = bool(pixels[0].any())
    else:
        past = False
    if past:
        raise InputError(
            "pixels reach the logits of this network past its attention, by a second path or a mean of all cells, so "
            f"that attention tells only a part; {WAY_OUT}"
        )


def _in_layers(
    reached: list[Bool[Tensor, "rows t"]], used: list[int], start: int, width: int, *, last: bool
) -> list[list[int]]:
    """Attentions in layers, checked: going back, each layer adds to the tokens asked for those that they read.

    An attention that adds nothing to another one stands beside it.
    """
    asked = torch.zeros_like(reached[-1])
    asked[:, start] = True
    before, layers = asked.clone(), [[]]
    for index, rows in zip(reversed(used), reversed(reached[: len(used)]), strict=True):
        if not before.equal(asked) and rows.equal(before):
            asked, before, layers = before, before.clone(), [[], *layers]
        elif not rows.equal(asked):
            if last and layers[0]:
                break
            raise InputError(
                "something besides its softmax attention carries values between this network's tokens, as "
                "a convolution over them, an attention of another kind or a second path, or an attention "
                f"has no skip connection around it; {WAY_OUT}"
            )
        layers[0].insert(0, index)
        window = PROBES + index // width
        before[window] |= asked[window].roll(1)
    return layers[-1:] if last else layers
