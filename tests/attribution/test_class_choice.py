"""Classes by name, number or rule."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ibviz
from ibviz.attribution.class_choice import class_number
from ibviz.errors import InputError

NAMES = ("zebra", "crane", "tench, Tinca tinca", "crane", "fire_truck", "3")


@pytest.mark.parametrize(
    ("given", "number"),
    [("zebra", 0), ("Zebra ", 0), ("tench", 2), ("tench, tinca tinca", 2), ("fire truck", 4), ("4", 4), ("3", 5)],
)
def test_a_class_is_found_by_name_before_number(given, number):
    assert class_number(given, NAMES) == number


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("crane", "2 classes are called 'crane'; give a number: 1 or 3"),
        ("zebro", "no class is called 'zebro'.*did you mean 'zebra'"),
        ("6", "a number from 0 to 5"),
        ("-1", "a number from 0 to 5"),
    ],
)
def test_a_name_that_is_shared_or_unknown_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        class_number(given, NAMES)


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6))
    return ibviz.wrap(network, mean=(0.5,) * 3, std=(0.5,) * 3, class_names=NAMES, size=8)


def test_explain_takes_names_numbers_lists_and_rules(model):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def maps(targets: Any) -> Any:
        return ibviz.explain(model, images, "saliency", targets=targets)

    best = ibviz.predict(model, images).topk(2).indices
    same = [("zebra", 0), (["zebra", "4"], [0, 4]), (["tench", 1], np.array([2, 1])), ("predicted", best[:, 0])]
    for given, numbers in [*same, ("runner_up", best[:, 1])]:
        torch.testing.assert_close(maps(given), maps(numbers), rtol=0, atol=0)
    torch.testing.assert_close(maps(None), maps("predicted"), rtol=0, atol=0)


def test_explain_refuses_what_it_cannot_know(model):
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(InputError, match="2 classes are called 'crane'"):
        ibviz.explain(model, images, "saliency", targets="crane")
    with pytest.raises(InputError, match="targets=labels"):
        ibviz.explain(model, images, "saliency", targets="true")
    with pytest.raises(InputError, match="have no names here; give numbers"):
        ibviz.explain(model.network, images, "saliency", targets="zebra")
