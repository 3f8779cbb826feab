"""Heads: the conversion of a network's outputs into probabilities, by softmax, by sigmoid, or not at all.

All code that turns outputs into a score, a weight, a loss or a predicted class uses `head_of(network)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ibviz.errors import InputError, unknown
from ibviz.types import Labels, Scores

HeadName = Literal["softmax", "sigmoid", "none"]
Logits = Float[Tensor, "b classes"]
SUM = 1e-5  # by which a row of probabilities may miss 1


@dataclass(frozen=True)
class Head:
    """Meaning of a network's outputs `(b, classes)`; `present` takes probabilities, the other functions outputs."""

    name: HeadName
    least: int  # smallest number of outputs that makes sense
    probability: Callable[[Logits], Logits]  # in [0, 1]; the output itself for a regression
    log_probability: Callable[[Logits], Logits]  # in nats
    log_odds: Callable[[Logits, Labels], Scores]  # of one class per image; exact even if its probability rounds to 1
    present: Callable[[Logits], Bool[Tensor, "b classes"]]  # classes that the network predicts

    @property
    def has_probability(self) -> bool:
        """True if scores are probabilities, False if they have a unit of their own."""
        return self.name != "none"


def head_of(network: object) -> Head:
    """Return the head of a network, as set by `ibviz.wrap`; softmax if it has none.

    >>> head_of(nn.Linear(3, 2)).name
    'softmax'
    """
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        network = network.module
    name = getattr(network, "head", None)  # networks of other libraries may have a module of this name
    return HEADS[name if isinstance(name, str) and name in HEADS else "softmax"]


def without_checks(head: Head) -> Head:
    """Return the head with functions that do not look at the outputs, which on a GPU would wait for them.

    >>> without_checks(HEADS["softmax"]).probability(torch.tensor([[0.5, 0.5]]))
    tensor([[0.5000, 0.5000]])
    """
    if head.name != "softmax":
        return head
    return replace(
        head,
        probability=lambda logits: logits.softmax(1),
        log_probability=lambda logits: logits.log_softmax(1),
        log_odds=_plain_log_odds,
    )


def find_head(name: str) -> Head:
    """Return the head with this name; an `InputError` lists the known names."""
    if name not in HEADS:
        raise unknown("head", name, list(HEADS))
    return HEADS[name]


def checked_output(output: object, network: object) -> Logits:
    """Return the output of a network after a check that it is `(b, classes)` with enough classes for the head.

    Raises `InputError` for anything else; the message says which option of `ibviz.wrap` helps.

    >>> checked_output(torch.zeros(2, 3), nn.Linear(1, 3)).shape
    torch.Size([2, 3])
    """
    head, name = head_of(network), type(getattr(network, "network", network)).__name__  # inside a wrapper
    if not isinstance(output, Tensor) or output.ndim != 2 or not output.is_floating_point():
        raise InputError(f"expected logits (b, classes) of {name}; got {_described(output)}; {_way_out(output)}")
    if output.shape[1] < head.least:
        raise InputError(
            f"expected logits (b, classes) of {name}, of at least {head.least} classes; got shape "
            f"{tuple(output.shape)}: a softmax over one class is always 1; say what the output means: "
            f"ibviz.wrap(network, head='sigmoid') or, of a regression, head='none'"
        )
    return output


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} of shape {tuple(output.shape)}"
    if isinstance(output, dict):
        return f"{type(output).__name__} with the keys {', '.join(map(repr, output))}"
    return f"{type(output).__name__} of {len(output)}" if isinstance(output, list | tuple) else type(output).__name__


def _way_out(output: object) -> str:
    if isinstance(output, Tensor) and output.ndim < 2:
        return (
            "of one number an image, say what it means: ibviz.wrap(network, head='sigmoid') for a logit, "
            "head='none' for a regression"
        )
    if isinstance(output, Tensor):
        return "make one row of class scores of it: ibviz.wrap(network, output=lambda output: ...)"
    return "say which part holds the logits: ibviz.wrap(network, output=KEY, ATTRIBUTE or FUNCTION)"


def _softmax(logits: Logits) -> Logits:
    return _no_probabilities(logits).softmax(1)


def _log_softmax(logits: Logits) -> Logits:
    return _no_probabilities(logits).log_softmax(1)


def _no_probabilities(logits: Logits) -> Logits:
    """The logits, or an `InputError` where each row is probabilities already, of which a softmax would be flat."""
    exact = logits.dtype in (torch.float32, torch.float64)
    if exact and logits.shape[1] > 1 and bool(((logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < SUM)).all()):
        raise InputError(
            "the network gives probabilities, not logits: each row is positive and sums to 1; give it without its "
            "softmax, or ibviz.wrap(network, output=lambda output: output.clamp(min=1e-12).log())"
        )
    return logits


def _softmax_log_odds(logits: Logits, classes: Labels) -> Scores:
    return _plain_log_odds(_no_probabilities(logits), classes)


def _plain_log_odds(logits: Logits, classes: Labels) -> Scores:
    if logits.shape[1] < 2:
        raise InputError("log-odds need at least two classes: the only one has probability 1; judge by the logit")
    others = logits.scatter(1, classes[:, None], -torch.inf).logsumexp(1)
    return _of_class(logits, classes) - others


def _of_class(logits: Logits, classes: Labels) -> Scores:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _first(probabilities: Logits) -> Bool[Tensor, "b classes"]:
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(1, probabilities.argmax(1, keepdim=True), True)


def _no_probability(*_: object) -> Tensor:
    raise InputError(
        "the network's head is 'none': its outputs are numbers without a probability; judge them by the "
        "score 'logit', which is the output itself, and by a method that needs no likelihood"
    )


HEADS: dict[str, Head] = {
    "softmax": Head(
        "softmax",
        least=2,
        probability=_softmax,
        log_probability=_log_softmax,
        log_odds=_softmax_log_odds,
        present=_first,
    ),
    "sigmoid": Head(
        "sigmoid",
        least=1,
        probability=torch.sigmoid,
        log_probability=nn.functional.logsigmoid,
        log_odds=_of_class,
        present=lambda probabilities: probabilities > 0.5,
    ),
    "none": Head(
        "none",
        least=1,
        probability=lambda outputs: outputs,
        log_probability=_no_probability,
        log_odds=_no_probability,
        present=_no_probability,
    ),
}
assert set(HEADS) == set(get_args(HeadName))
