import pytest
from pydantic import ValidationError

from ibviz.metrics import CurveProtocol

protocol = CurveProtocol(baseline=(0.5, 0.4, 0.3), grid=(8, 6))


def changed(**values) -> CurveProtocol:
    return CurveProtocol(**(protocol.model_dump() | values))


@pytest.mark.parametrize(
    "choice",
    [{"baseline": (0.5, 0.4, 0.0)}, {"grid": (6, 8)}, {"steps": 31}, {"ties": "group"}, {"orders": 6}, {"seed": 1}],
)
def test_hash_sees_every_choice_that_moves_a_number(choice):
    assert changed(**choice).hash != protocol.hash


def test_hash_ignores_what_moves_none():
    assert changed(batch_size=3).hash == protocol.hash
    assert changed(ties="group", seed=1, orders=2, steps=3).hash == changed(ties="group").hash


def test_hash_is_the_same_in_every_session():
    assert protocol.hash == "a4851c38"


@pytest.mark.parametrize(
    ("field", "value"),
    [("baseline", (0, 0, 1.1)), ("grid", (0, 4)), ("steps", 0), ("orders", 3), ("orders", 0), ("batch_size", 0)],
)
def test_impossible_choices_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        changed(**{field: value})
