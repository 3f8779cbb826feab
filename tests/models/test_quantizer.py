import pytest
import torch

from ibviz.errors import InputError
from ibviz.models.quantizer import AnchorQuantizer, nearest_anchor, straight_through

close = torch.testing.assert_close


def test_nearest_anchor_equals_a_search_cell_by_cell():
    generator = torch.Generator().manual_seed(0)
    values, anchors = torch.randn(3, 5, generator=generator), torch.randn(7, generator=generator)
    slow = [[min(range(7), key=lambda j: (v - anchors[j].item()) ** 2) for v in row] for row in values.tolist()]
    assert nearest_anchor(values, anchors).tolist() == slow


def test_a_cell_halfway_takes_the_first_anchor():
    assert nearest_anchor(torch.tensor([0.5]), torch.tensor([1.0, 0.0])).tolist() == [0]


def test_values_are_anchors_to_the_bit():
    quantizer = AnchorQuantizer(20)
    values, index = quantizer(torch.rand(1000, generator=torch.Generator().manual_seed(1)) * 3 - 1)
    assert torch.equal(values, quantizer.anchors[index])


def test_gradient_passes_straight_and_never_reaches_the_anchors():
    quantizer, attention = AnchorQuantizer(3), torch.tensor([0.1, 0.6, 0.9], requires_grad=True)
    weights = torch.tensor([2.0, -3.0, 5.0])
    (quantizer(attention)[0] * weights).sum().backward()
    close(attention.grad, weights)
    assert quantizer.anchors.grad is None


def test_two_anchors_are_enough_and_one_is_refused():
    assert AnchorQuantizer(2).anchors.tolist() == [0.0, 1.0]
    with pytest.raises(InputError, match=r"at least 2.*got 1"):
        AnchorQuantizer(1)


def test_quantised_values_move_with_the_anchor_and_gradients_do_not():
    values = torch.tensor([0.25], requires_grad=True)
    through = straight_through(values, torch.tensor([3.0]))
    through.backward()
    assert values.grad is not None
    assert (through.item(), values.grad.item()) == (3.0, 1.0)
