import math

import pytest
import torch
from torch import nn

from ibviz.errors import InputError
from ibviz.metrics import SCORES, Targets, scorer, targets_by


class Low(nn.Module):
    """A network that answers in bfloat16, as under autocast."""

    def forward(self, images):
        return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], dim=1).bfloat16() * 3


def test_probability_takes_the_target_of_the_image_a_state_was_made_from():
    network, states, rows = Low().eval(), torch.rand(4, 3, 2, 2), torch.tensor([2, 0, 1, 2])
    targets = torch.tensor([0, 0, 1])
    expected = network(states).float().softmax(1)[torch.arange(4), torch.tensor([1, 0, 0, 1])]
    torch.testing.assert_close(scorer(network, targets)(states, rows), expected)


def test_probability_is_float32_and_free_of_gradients_in_low_precision():
    result = scorer(Low().eval(), torch.tensor([1]))(torch.rand(1, 3, 2, 2), torch.tensor([0]))
    assert result.dtype == torch.float32
    assert not result.requires_grad
    assert 0 <= float(result) <= 1


def test_probability_refuses_a_network_in_training_mode():
    with pytest.raises(InputError, match=r"call \.eval\(\) first"):
        scorer(Low().train(), torch.tensor([1]))


def logits_of(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("probability", 0.7),
        ("log_probability", math.log(0.7)),
        ("logit", math.log(0.7) + 2),
        ("log_odds", math.log(0.7 / 0.3)),
        ("accuracy", 1.0),
    ],
)
def test_every_score_has_its_closed_form(kind, expected):
    network = lambda states: (torch.tensor([0.2, 0.7, 0.1]).log() + 2).expand(len(states), -1)
    score = scorer(network, torch.tensor([1]), kind=kind)
    torch.testing.assert_close(float(score(torch.zeros(1, 3, 2, 2), torch.tensor([0]))), expected, atol=1e-6, rtol=0)


def test_log_odds_stay_finite_where_the_probability_rounds_to_one():
    assert float(SCORES["probability"](logits_of(60, 0), torch.tensor([0]))) == 1  # pyright: ignore
    assert float(SCORES["log_odds"](logits_of(60, 0), torch.tensor([0]))) == 60  # pyright: ignore
    with pytest.raises(InputError, match="at least two classes"):
        SCORES["log_odds"](logits_of(1), torch.tensor([0]))  # pyright: ignore


def test_target_rules():
    logits, labels = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 0.0]]), torch.tensor([2, 0])
    assert targets_by("predicted", logits).classes.tolist() == [1, 0]
    assert targets_by("true", logits, labels).classes.tolist() == [2, 0]
    assert targets_by("runner_up", logits).classes.tolist() == [2, 1]
    contrast = targets_by("contrast", logits)
    assert contrast.against is not None
    assert (contrast.classes.tolist(), contrast.against.tolist()) == ([1, 0], [2, 1])


def test_contrast_is_the_difference_of_two_scores():
    network, states, rows = Low().eval(), torch.rand(3, 3, 2, 2), torch.tensor([1, 0, 1])
    first, second = torch.tensor([0, 1]), torch.tensor([1, 0])
    one, other = (scorer(network, some, kind="logit")(states, rows) for some in (first, second))
    torch.testing.assert_close(scorer(network, Targets(first, second), kind="logit")(states, rows), one - other)


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="needs the label of every image"):
        targets_by("true", torch.rand(2, 3), torch.tensor([0, -1]))
    with pytest.raises(InputError, match="needs the label of every image"):
        targets_by("true", torch.rand(2, 3))
    with pytest.raises(InputError, match="at least two classes"):
        targets_by("contrast", torch.rand(2, 1))
    assert targets_by("predicted", torch.rand(2, 1)).classes.tolist() == [0, 0]
    with pytest.raises(InputError, match="unknown target 'best'"):
        targets_by("best", torch.rand(2, 3))
    with pytest.raises(InputError, match="unknown score 'prob'; known: accuracy, log_odds"):
        scorer(Low().eval(), torch.tensor([0]), kind="prob")


def test_autocast_reaches_the_network_alone():
    layer, seen = nn.Linear(12, 3), []

    def network(states):
        logits = layer(states.flatten(1))
        seen.append(logits.dtype)
        return logits

    states, rows = torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.long)
    low, full = (scorer(network, torch.tensor([1]), precision=kind)(states, rows) for kind in ("bfloat16", "float32"))
    assert seen == [torch.bfloat16, torch.float32]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, atol=0.01, rtol=0)
