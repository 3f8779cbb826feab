import pytest
from pydantic import ValidationError

from ibviz.errors import InputError
from ibviz.metrics import POINTING_PRESETS, PRESETS, Card, CurveProtocol, preset

protocol = CurveProtocol(colour=(0.5, 0.4, 0.3), grid=(8, 6))

MOVING = [
    {"colour": (0.5, 0.4, 0.0)},
    {"head": "sigmoid"},
    {"head": None},
    {"baseline": "blur"},
    {"insertion_baseline": "blur"},
    {"unit": "pixel"},
    {"grid": (6, 8)},
    {"grid": None},
    {"cuts": "floor"},
    {"steps": 31},
    {"steps": "adaptive"},
    {"area": "even"},
    {"second": "lerf"},
    {"ties": "group"},
    {"ties": "index"},
    {"orders": 6},
    {"seed": 1},
    {"score": "logit"},
    {"target": "true"},
    {"precision": "bfloat16"},
]


def changed(**values) -> CurveProtocol:
    return CurveProtocol(**(protocol.model_dump() | values))


@pytest.mark.parametrize("choice", MOVING, ids=str)
def test_hash_sees_every_choice_that_moves_a_number(choice):
    assert changed(**choice).hash != protocol.hash


def test_every_choice_is_looked_at_here():
    """A new field has to be added above or below."""
    looked_at = {key for choice in MOVING for key in choice}
    assert looked_at | {"version", "space", "tolerance", "enlargement", "batch_size"} == set(CurveProtocol.model_fields)


def test_hash_ignores_what_moves_none():
    assert changed(batch_size=3).hash == protocol.hash
    assert changed(enlargement="bilinear").hash == protocol.hash
    assert changed(insertion_baseline="mean_colour").hash == protocol.hash
    assert changed(baseline="black", colour=(0, 0, 0)).hash == changed(baseline="black").hash
    assert changed(ties="group", seed=1, orders=2, steps=3).hash == changed(ties="group").hash
    assert changed(ties="index", seed=1, orders=2).hash == changed(ties="index").hash


def test_hash_sees_what_moves_some():
    pixels = {"unit": "pixel", "ties": "index"}
    assert changed(**pixels, enlargement="bilinear").hash != changed(**pixels).hash
    assert changed(**pixels, baseline="noise", seed=1).hash != changed(**pixels, baseline="noise").hash
    rise = {"baseline": "black", "insertion_baseline": "blur_rise"}
    assert changed(**rise, colour=(0, 0, 0)).hash != changed(**rise).hash


def test_hash_is_the_same_in_every_session():
    assert protocol.hash == "33a47250"


def test_a_card_says_which_measurement_it_was():
    card = Card(protocol=protocol, data="a", weights="b", versions={"torch": "2.11"})
    assert card.hash == Card(protocol=protocol, data="a", weights="b", versions={"torch": "2.12"}).hash
    for other in ({"data": "c"}, {"weights": "c"}):
        assert card.hash != Card.model_validate(card.model_dump() | other).hash
    assert card.hash.split("-")[0] == protocol.hash


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("colour", (0, 0, 1.1)),
        ("grid", (0, 4)),
        ("steps", 0),
        ("orders", 3),
        ("orders", 0),
        ("batch_size", 0),
        ("baseline", "white"),
        ("ties", "topk"),
    ],
)
def test_impossible_choices_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        changed(**{field: value})


def test_groups_go_with_their_own_reading_only():
    with pytest.raises(ValidationError, match="ties = 'group' reads whole levels"):
        changed(ties="group", area="mean")


def test_presets_differ_and_are_known_by_name():
    hashes = {preset(name, (32, 32), (0.5, 0.5, 0.5)).hash for name in PRESETS}
    assert len(hashes) == len(PRESETS) == 7
    with pytest.raises(InputError, match="unknown preset 'RISE'; known: default, iba, latec, quantus, rise"):
        preset("RISE", (32, 32), (0.5, 0.5, 0.5))


def test_the_preset_of_torchray_is_found_where_presets_are_looked_for():
    assert set(POINTING_PRESETS) == {"default", "torchray"}
    with pytest.raises(InputError, match=r"'torchray' is a rule of the pointing game .*POINTING_PRESETS\['torchray'\]"):
        preset("torchray", (32, 32), (0.5, 0.5, 0.5))
