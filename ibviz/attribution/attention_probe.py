"""A pass on noise with fixed attention, which shows the tokens that a network reads."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ibviz.attribution.softmax import Softmaxes, split_heads, unfused_attention
from ibviz.errors import no_gradient_error, not_finite
from ibviz.models.hooks import replaced_output
from ibviz.types import Images

PROBE_IMAGES = 2  # rows in which every token reads itself; in further rows it reads the next token in some layers


class AttentionProbe(NamedTuple):
    """A pass on noise with fixed attention, and its tensors for gradients."""

    noise: Images
    logits: Tensor
    softmaxes: list[Tensor]  # in the order of the pass
    inputs: list[Tensor]  # those of the softmaxes
    tokens: dict[str, Tensor]  # outputs of modules that may be tokens, in the order in which the modules finished

    def key_count(self, used: list[int]) -> int:
        """Return the number of tokens that the last of the used attentions reads."""
        return self.softmaxes[used[-1]].shape[-1]

    def heads(self, index: int) -> Float[Tensor, "*rows q k"]:
        """Return an attention with heads as an axis."""
        return split_heads(self.softmaxes[index], len(self.noise))

    def reached_rows(self, score: Tensor, used: list[int]) -> list[Bool[Tensor, "rows q"]]:
        """Return the rows of each used attention on which a score depends, for each row of the batch."""
        maps = [self.softmaxes[index] for index in used]
        draws = torch.randn(score.shape[1:], generator=torch.Generator().manual_seed(0))
        grads = torch.autograd.grad((score * draws.to(score)).sum(), maps, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(values) if grad is None else grad for values, grad in zip(maps, grads, strict=True)]
        return [(split_heads(grad, len(self.noise)) != 0).any(-1).any(1) for grad in filled]


def _fixed_attention(attention: Tensor, number: int, *, width: int, rows: int) -> Tensor:
    """Return the matrices that replace an attention: each token reads itself or, in some rows, the next token.

    Rows of the batch from the third on let tokens read the next token in `width` consecutive attentions each.
    """
    if len(split_heads(attention, rows)) != rows:
        return attention  # not per image; its use is refused later
    queries, keys = attention.shape[-2:]
    matrices = torch.eye(queries, keys).roll(keys // 2 if queries == 1 else 0, 1).repeat(rows, 1, 1)
    window = PROBE_IMAGES + number // width
    matrices[window] = matrices[window].roll(int(queries > 1), 1)
    heads = attention.numel() // matrices.numel()
    return matrices.to(attention).unsqueeze(1).expand(-1, heads, -1, -1).reshape(attention.shape)


def run_probe(model: nn.Module, image: Images, *, width: int, rows: int) -> AttentionProbe:
    """Run the network on `rows` images of noise with fixed attention.

    Args:
        model: The network.
        image: One image, for its size, precision and device.
        width: Number of attentions in which tokens read the next token, per row after the first two.
        rows: Number of images.

    Raises:
        InputError: If the logits have no gradients or are not finite.
    """
    draws = torch.Generator().manual_seed(0)
    noise = torch.rand(rows, *image.shape[1:], generator=draws).to(image).requires_grad_()
    tokens: dict[str, Tensor] = {}

    def note(name: str, output: Any) -> Any:
        tensor = _first_tensor(output)
        if tensor is not None and tensor.ndim == 3:
            tokens.pop(name, None)  # the order is that of the last run
            tokens[name] = tensor
        return output

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(replaced_output(module, partial(note, name)))
        stack.enter_context(unfused_attention())
        mode = stack.enter_context(Softmaxes(partial(_fixed_attention, width=width, rows=rows)))
        logits = model(noise)
    if logits.grad_fn is None:
        raise no_gradient_error()
    if not logits.isfinite().all():
        raise not_finite("logits of the network for noise")
    return AttentionProbe(noise, logits, mode.outputs, mode.inputs, tokens)


@contextmanager
def kept_tokens(model: nn.Module, reading: str | None) -> Iterator[list[Tensor]]:
    """Yield a list that receives the output tokens of a named module each time it runs; without a name, none."""
    kept: list[Tensor] = []

    def note(output: Any) -> Any:
        if (tensor := _first_tensor(output)) is not None:
            kept.append(tensor)
        return output

    with nullcontext() if reading is None else replaced_output(model.get_submodule(reading), note):
        yield kept


def _first_tensor(output: Any) -> Tensor | None:
    """Return a module's output, or the first of several, if it is a tensor."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None
