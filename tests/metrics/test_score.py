import pytest
import torch
from torch import nn

from ibviz.errors import InputError
from ibviz.metrics import scorer


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
