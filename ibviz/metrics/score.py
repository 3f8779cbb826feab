"""From a network to the number a masked image is judged by."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ibviz.errors import InputError
from ibviz.types import Images, Labels, Score, Scores

Logits = Float[Tensor, "b classes"]


def probability(network: Callable[[Images], Logits], targets: Labels) -> Score:
    """Softmax probability of each image's target class, in float32 whatever the network computes in.

    `targets` covers the whole comparison and lies on the network's device. Autocast is the network's own affair.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    >>> score = probability(network, torch.tensor([0, 1]))
    >>> score(torch.zeros(3, 3, 2, 2), torch.tensor([0, 0, 1])).shape
    torch.Size([3])
    """
    if getattr(network, "training", False):
        raise InputError("the network is in training mode, where masked images change each other; call .eval() first")

    def score(states: Images, rows: Labels) -> Scores:
        with torch.inference_mode():
            logits = network(states)
        return logits.float().softmax(1).gather(1, targets[rows].unsqueeze(1)).squeeze(1)

    return score
