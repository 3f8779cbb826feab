import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.testing import assert_close
from torchvision.transforms.v2.functional import gaussian_blur

from ibviz.metrics import BASELINES, CurveProtocol, faithfulness, inpaint, random_order_area, road
from ibviz.metrics.baselines import Baseline, blur, blur_latec
from tests.metrics.test_curves import images, level_maps, wavy

COLOUR = (0.4, 0.5, 0.6)


def protocol(**choices) -> CurveProtocol:
    return CurveProtocol(**({"colour": COLOUR, "steps": 4, "orders": 2} | choices))


def test_a_baseline_is_added_by_one_entry(monkeypatch):
    with pytest.raises(ValidationError, match="unknown baseline 'white'; known: black, blur"):
        protocol(baseline="white")
    monkeypatch.setitem(BASELINES, "white", Baseline(lambda images: torch.ones_like(images)))
    x = images(2)
    found = faithfulness(wavy, x, torch.rand(2, 4, 4), protocol=protocol(baseline="white"))
    assert_close(found.f_baseline, wavy(torch.ones_like(x), torch.arange(2)))


def test_colour_and_seed_count_in_the_hash_of_what_looks_at_them():
    looks_at = {"mean_colour": {"colour"}, "blur_rise": {"colour"}, "noise": {"seed"}, "road": {"seed"}}
    changed = {"colour": (0.1, 0.2, 0.3), "seed": 7}
    for name in BASELINES:
        told = {key for key, value in changed.items() if hash_of(name, **{key: value}) != hash_of(name)}
        assert told == looks_at.get(name, set())


def hash_of(name: str, **choices) -> str:
    return protocol(baseline=name, ties="index", **choices).hash


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (7, 5)])
def test_blur_is_torchvisions_with_the_deviation_scaled_to_the_side(size):
    x = images(2, size)
    deviation = min(size) / 16
    reach = -int(-3 * deviation // 1)
    assert_close(blur(x), gaussian_blur(x, [2 * reach + 1] * 2, [deviation] * 2), atol=1e-5, rtol=0)


def test_blur_of_latec_is_torchvisions():
    assert_close(blur_latec(images(2, (9, 12))), gaussian_blur(images(2, (9, 12)), [9, 9], [5.0, 5.0]))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_curve_is_the_image_with_its_baseline_put_in_by_hand(name, size):
    """First and last point, and one in between; the baseline of a whole image where nothing is left."""
    x, maps = images(2, size), torch.tensor([[[2.0, 1.0]], [[1.0, 2.0]]])
    found = faithfulness(wavy, x, maps, protocol=protocol(baseline=name))
    left = torch.zeros(size, dtype=torch.bool)
    left[:, : size[1] // 2] = True
    masks = torch.stack([left, ~left])
    for removed, scores in (
        (torch.zeros_like(masks), found.f_image),
        (masks, found.deletion.scores[:, 1]),
        (~masks, found.insertion.scores[:, 1]),
        (torch.ones_like(masks), found.f_baseline),
    ):
        if name not in ("road", "inpaint"):
            under = BASELINES[name].fill(x, None, colour=COLOUR, seed=0).expand_as(x)
            expected = torch.where(removed.unsqueeze(1), under, x)
        else:
            expected = road(x, removed, seed=0) if name == "road" else inpaint(x, removed)
        assert_close(scores, wavy(expected, torch.arange(2)), atol=1e-5, rtol=0)
    assert_close(found.insertion.scores[:, 0], found.f_baseline)


@pytest.mark.parametrize("name", BASELINES)
def test_an_autocast_around_it_changes_nothing(name):
    """Lightning's bf16-mixed opens one around validation, in which a blurred baseline would be bfloat16."""
    x, maps, choices = images(), torch.rand(3, 4, 4), protocol(baseline=name, orders=2)
    plain = faithfulness(wavy, x, maps, protocol=choices)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(faithfulness(wavy, x, maps, protocol=choices).srg, plain.srg)


@pytest.mark.parametrize("name", BASELINES)
def test_a_random_order_has_no_srg_under_any_single_baseline(name):
    found = faithfulness(wavy, images(2), torch.zeros(2, 4, 4), protocol=protocol(baseline=name))
    assert_close(found.srg, torch.zeros(2), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=8, database=None)
@given(st.sampled_from(sorted(BASELINES.keys() - {"road", "inpaint"})), st.permutations(range(4)), st.integers(1, 9))
def test_company_order_and_batches_do_not_reach_the_baseline(name, turn, batch_size):
    x, maps, turn = images(4, (8, 12)), level_maps(4), torch.tensor(turn)
    alike = lambda states, rows: wavy(states, rows * 0)
    one = faithfulness(alike, x, maps, protocol=protocol(baseline=name))
    choices = protocol(baseline=name, batch_size=batch_size)
    other = faithfulness(alike, x[turn], maps[turn], protocol=choices)
    assert_close(other.srg, one.srg[turn], atol=1e-5, rtol=0)


def test_seed_of_noise_is_the_protocols():
    one, same, other = (
        faithfulness(wavy, images(), level_maps(), protocol=protocol(baseline="noise", ties="index", seed=seed)).srg
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_two_baselines_share_the_whole_image_only():
    seen = []

    def score(states, rows):
        seen.extend(zip(rows.tolist(), (state.numpy().tobytes() for state in states), strict=True))
        return wavy(states, rows)

    x, maps = images(2), torch.rand(2, 2, 2)
    found = faithfulness(score, x, maps, protocol=protocol(insertion_baseline="black"))
    assert len(seen) == len(set(seen)) == found.forward_passes == 2 * (5 + 4)
    assert_close(found.insertion.scores[:, 0], wavy(torch.zeros_like(x), torch.arange(2)))
    assert_close(found.f_baseline, wavy(torch.tensor(COLOUR).view(3, 1, 1).expand_as(x), torch.arange(2)))


def test_channels_last_images_reach_the_network_channels_last():
    formats = []

    def score(states, rows):
        formats.append(states.is_contiguous(memory_format=torch.channels_last))
        return wavy(states.contiguous(), rows)

    x, maps = images(3), level_maps(3)
    last = faithfulness(score, x.to(memory_format=torch.channels_last), maps, protocol=protocol())
    assert all(formats)
    assert_close(last.srg, faithfulness(wavy, x, maps, protocol=protocol()).srg, atol=1e-6, rtol=0)


def test_area_of_a_random_order_is_that_of_many_random_maps():
    """R-OMS: mean over seeded tie orders against maps of independent values."""
    x = images(1)
    drawn = torch.rand(400, 4, 4, generator=torch.Generator().manual_seed(0))
    alike = lambda states, rows: wavy(states, rows * 0)
    many = faithfulness(alike, x.expand(400, -1, -1, -1), drawn, protocol=protocol(steps=16)).deletion_auc
    area = random_order_area(alike, x, (4, 4), protocol=protocol(steps=16, orders=200, ties="group"))
    assert abs(float(area - many.mean())) < 4 * float(many.std()) / 14
