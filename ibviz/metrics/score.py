"""From a network to the number a masked image is judged by: which class, and which function of its logits."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from ibviz.errors import InputError, unknown
from ibviz.heads import HEADS, Head, Logits, checked_output, head_of
from ibviz.settings import name_in
from ibviz.types import Images, Labels, Score, Scores

_SOFTMAX = HEADS["softmax"]
TargetRule = Literal["predicted", "true", "runner_up", "contrast"]
TARGETS: tuple[str, ...] = get_args(TargetRule)


class Targets(NamedTuple):
    """Class that each image is judged by; with `against`, by its score minus that class's."""

    classes: Labels
    against: Labels | None = None


def scorer(
    network: Callable[[Images], Logits],
    targets: Targets | Labels,
    *,
    kind: str = "probability",
    precision: str = "float32",
) -> Score:
    """Score of each image's target class, one of `SCORES`, in float32 whatever the network computes in.

    The network's head, as `ibviz.wrap` states it, says what a probability is. `targets` cover the whole comparison and
    lie on the network's device. `precision` "bfloat16" runs the network alone under autocast.

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
        with (
            torch.inference_mode(),
            torch.autocast(states.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            logits = checked_output(network(states), network).float()
        found = measure(logits, classes[rows], head)
        return found if against is None else found - measure(logits, against[rows], head)

    return score


def probability(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """Probability of the class by the network's head, in [0, 1]; of a regression the output itself.

    >>> probability(torch.zeros(1, 4), torch.tensor([2]))
    tensor([0.2500])
    """
    return logit(head.probability(logits), classes)


def log_probability(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """Log of the probability, in nats, at most 0.

    >>> log_probability(torch.zeros(1, 1), torch.tensor([0]))
    tensor([0.])
    """
    return logit(head.log_probability(logits), classes)


def logit(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """The output of the class itself, a logit or the number of a regression; not comparable between networks.

    >>> logit(torch.tensor([[1.0, 5.0]]), torch.tensor([1]))
    tensor([5.])
    """
    del head
    return logits.gather(1, classes[:, None]).squeeze(1)


def log_odds(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """log(p / (1 - p)) in nats, unbounded; computed from the logits, so exact where p rounds to 1.

    >>> log_odds(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
    tensor([100.])
    """
    return head.log_odds(logits, classes)


def accuracy(logits: Logits, classes: Labels, head: Head = _SOFTMAX) -> Scores:
    """1 where the network says that the class is there (of a softmax: the predicted one), 0 elsewhere.

    >>> accuracy(torch.tensor([[1.0, 5.0]]), torch.tensor([0]))
    tensor([0.])
    """
    return logit(head.present(head.probability(logits)).float(), classes)


def correct(probabilities: Logits, labels: Labels, head: Head = _SOFTMAX) -> Bool[Tensor, " b"] | None:
    """Whether the network says that each image's label is there, from its probabilities; None of a regression.

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
    """Class of each image by one of `TARGETS`, from the answers to the unchanged images.

    `predicted`, with independent labels the most probable one and with a single output that; `true`, which needs the
    label of every image; `runner_up`, the second most likely class; `contrast`, the predicted class against the
    runner-up. Raises `InputError` where several outputs are numbers of a regression, of which none is more likely.

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
