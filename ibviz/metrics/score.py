"""Scores of masked images: the class that is judged, and the function of the logits that is measured."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from ibviz.errors import InputError, unknown
from ibviz.heads import HEADS, Head, Logits, checked_output, head_of, without_checks
from ibviz.settings import name_in
from ibviz.types import Images, Labels, Score, Scores

_SOFTMAX = HEADS["softmax"]
TargetRule = Literal["predicted", "true", "runner_up", "contrast"]
TARGETS: tuple[str, ...] = get_args(TargetRule)


class Targets(NamedTuple):
    """The class that is judged per image; with `against`, the score of that class is subtracted."""

    classes: Labels
    against: Labels | None = None


def scorer(
    network: Callable[[Images], Logits],
    targets: Targets | Labels,
    *,
    kind: str = "probability",
    precision: str = "float32",
) -> Score:
    """Return a function that scores the target class of masked images, in float32.

    Probabilities follow the network's head, as `ibviz.wrap` sets it.

    Args:
        network: A network in eval mode.
        targets: The classes of all images of the comparison, on the network's device.
        kind: One of `SCORES`.
        precision: "bfloat16" runs the network (only) under autocast.

    Returns:
        A function of masked images `(n, channels, h, w)` and the index of each one's image, with results `(n,)`.

    Raises:
        InputError: The network is in training mode, or the score is unknown.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    >>> score = scorer(network, torch.tensor([0, 1]), kind="logit")
    >>> score(torch.zeros(3, 3, 2, 2), torch.tensor([0, 0, 1])).shape
    torch.Size([3])
    """
    if getattr(network, "training", False):
        raise InputError("the network is in training mode, where masked images change each other; call .eval() first")
    if kind not in SCORES:
        raise unknown("score", kind, list(SCORES))
    classes, against = targets if isinstance(targets, Targets) else Targets(targets)
    measure, head = SCORES[kind], head_of(network)

    def score(states: Images, rows: Labels) -> Scores:
        nonlocal head
        with (
            torch.inference_mode(),
            torch.autocast(states.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            logits = checked_output(network(states), network).float()
        scores = measure(logits, classes[rows], head)
        if against is not None:
            scores = scores - measure(logits, against[rows], head)
        head = without_checks(head)  # the first pass tells whether the outputs are probabilities already
        return scores

    return score


def probability(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """Probability of the class by the network's head, in [0, 1]; for a regression the output itself.

    >>> probability(torch.zeros(1, 4), torch.tensor([2]))
    tensor([0.2500])
    """
    return logit(head.probability(logits), classes)


def log_probability(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """Logarithm of the probability, in nats, at most 0.

    >>> log_probability(torch.zeros(1, 1), torch.tensor([0]))
    tensor([0.])
    """
    return logit(head.log_probability(logits), classes)


def logit(logits: Logits, classes: Labels, _head: Head = _SOFTMAX) -> Scores:
    """Output of the class, a logit or the number of a regression; not comparable between networks.

    >>> logit(torch.tensor([[1.0, 5.0]]), torch.tensor([1]))
    tensor([5.])
    """
    return logits.gather(1, classes[:, None]).squeeze(1)


def log_odds(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """Log-odds log(p / (1 - p)), in nats, unbounded; computed from the logits, so exact even if p rounds to 1.

    >>> log_odds(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
    tensor([100.])
    """
    return head.log_odds(logits, classes)


def accuracy(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """Return 1 if the network predicts the class (for sigmoids: if it is above one half), otherwise 0.

    >>> accuracy(torch.tensor([[1.0, 5.0]]), torch.tensor([0]))
    tensor([0.])
    """
    return logit(head.present(head.probability(logits)).float(), classes)


def correct(probabilities: Logits, labels: Labels, head: Head = _SOFTMAX) -> Bool[Tensor, " b"] | None:
    """Return True for images whose label the network predicts, from its probabilities; None for a regression.

    An image without a label (-1) counts as wrong.

    >>> correct(torch.tensor([[0.4, 0.7]]), torch.tensor([0]))
    tensor([False])
    """
    if not head.has_probability:
        return None
    return head.present(probabilities).gather(1, labels.clamp(min=0)[:, None]).squeeze(1) & (labels >= 0)


SCORES: dict[str, Callable[[Logits, Labels, Head], Scores]] = {
    "probability": probability,
    "log_probability": log_probability,
    "logit": logit,
    "log_odds": log_odds,
    "accuracy": accuracy,
}
ScoreName = Annotated[str, name_in("score", lambda: SCORES)]


def targets_by(rule: str, logits: Logits, labels: Labels | None = None, *, head: Head = _SOFTMAX) -> Targets:
    """Return the class that is judged per image, from the outputs for the unchanged images.

    Args:
        rule: "predicted", the most likely class; "true", the label; "runner_up", the second most likely class;
            "contrast", the predicted class minus the runner-up.
        logits: Logits or probabilities `(b, classes)`.
        labels: The true classes, for the rule "true".
        head: The head of the network.

    Raises:
        InputError: The rule is unknown or does not fit, a label is missing, or the outputs are several numbers of a
            regression, of which none is more likely.

    >>> targets_by("contrast", torch.tensor([[0.0, 3.0, 2.0]]))
    Targets(classes=tensor([1]), against=tensor([2]))
    """
    if rule not in TARGETS:
        raise unknown("target", rule, list(TARGETS))
    if rule == "true":
        if labels is None or bool((labels < 0).any()):
            raise InputError("target 'true' needs the label of every image; give labels, or judge the predicted class")
        return Targets(labels)
    if not head.has_probability and logits.shape[1] > 1:
        raise InputError(
            f"none of the {logits.shape[1]} outputs of a regression is the predicted one; name the output "
            "to explain and to judge: targets=0"
        )
    best = logits.float().topk(min(2, logits.shape[1]), dim=1).indices
    if rule == "predicted":
        return Targets(best[:, 0])
    if best.shape[1] < 2:
        raise InputError(f"target {rule!r} needs a network of at least two classes; got logits {tuple(logits.shape)}")
    return Targets(best[:, 1]) if rule == "runner_up" else Targets(best[:, 0], best[:, 1])
