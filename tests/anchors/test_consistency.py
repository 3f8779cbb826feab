"""The attention-consistency study: edits against plain loops, and similarities known by hand."""

import pytest
import torch
from networks import bottlenecked

from ibviz.anchors import consistency
from ibviz.anchors.consistency import (
    LOW_PASS_RADII,
    ConsistencySummary,
    corners_by_attention,
    crop,
    low_pass,
    paste,
    random_corners,
    summarise_edits,
)
from ibviz.data import digits
from ibviz.models.reliance import derangement

close = torch.testing.assert_close


@pytest.fixture(scope="module")
def scenes():
    return digits("test", count=8, seed=0)


@pytest.fixture(scope="module")
def found(scenes):
    return consistency(bottlenecked(), scenes, seed=3, batch_size=3)


def test_a_low_pass_keeps_exactly_the_waves_below_its_radius():
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(30.0), indexing="ij")
    waves = {(3, 0): 0.1, (0, 5): 0.08, (3, 4): 0.06, (-4, 5): 0.05, (0, 7): 0.04}  # cycles down and across: height
    image = torch.full((24, 30), 0.5) + sum(
        height * torch.cos(2 * torch.pi * (down * y / 24 + across * x / 30)) for (down, across), height in waves.items()
    )
    for radius in (2, 3, 4, 5, 6, 7):
        kept = torch.full((24, 30), 0.5) + sum(
            height * torch.cos(2 * torch.pi * (down * y / 24 + across * x / 30))
            for (down, across), height in waves.items()
            if down**2 + across**2 <= radius**2
        )
        close(low_pass(image.expand(1, 3, -1, -1), radius), kept.expand(1, 3, -1, -1), rtol=0, atol=1e-5)


def test_a_patch_lies_where_it_should_and_nowhere_else():
    generator = torch.Generator().manual_seed(0)
    images, patches = (torch.rand(4, 3, *size, generator=generator) for size in ((9, 12), (3, 3)))
    corners = torch.tensor([[0, 0], [6, 9], [2, 5], [6, 0]])
    changed = images.clone()
    for image, (row, column) in enumerate(corners.tolist()):
        changed[image, :, row : row + 3, column : column + 3] = patches[image]
    assert torch.equal(paste(images, patches, corners), changed)
    assert torch.equal(crop(changed, corners, 3), patches)


def test_free_patches_reach_every_place_and_leave_none_outside():
    images, uniform = torch.zeros(4000, 3, 8, 12), torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    corners = random_corners(images, uniform)
    assert {tuple(one) for one in corners.tolist()} == {(row, column) for row in range(7) for column in range(11)}


def test_patches_cover_the_most_and_the_least_attention():
    attention = torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.zeros(6, 3, 16, 16)
    pixels = attention.repeat_interleave(4, 1).repeat_interleave(4, 2)
    for most, best in ((True, max), (False, min)):
        for image, (row, column) in enumerate(corners_by_attention(images, attention, most=most).tolist()):
            sums = [pixels[image, y : y + 4, x : x + 4].sum().item() for y in range(13) for x in range(13)]
            assert pixels[image, row : row + 4, column : column + 4].sum().item() == pytest.approx(best(sums), abs=1e-5)


def test_similarity_and_flips_are_those_of_the_images_edited_one_by_one(found, scenes):
    model, images = bottlenecked(), scenes.images.float() / 255
    with torch.no_grad():
        seen = model.inspect(images)
        for radius in LOW_PASS_RADII:
            after = model.inspect(low_pass(images, radius))
            place = found.edits.index(f"low-pass, {radius} cycles")
            for image in range(8):
                a, b = seen.attention.mean[image].flatten(), after.attention.mean[image].flatten()
                close(found.cosine[place, image], a @ b / (a.norm() * b.norm()), rtol=0, atol=1e-5)
            best, now = seen.logits.argmax(1), after.logits.argmax(1)
            assert found.flipped[place].tolist() == (best != now).float().tolist()
            right = [(one == scenes.labels).int() for one in (best, now)]
            assert found.accuracy[place].tolist() == (right[1] - right[0]).float().tolist()
        other = model.inspect(images[derangement(8, seed=3)]).attention.mean
    close(
        found.cosine[-1], torch.cosine_similarity(seen.attention.mean.flatten(1), other.flatten(1)), rtol=0, atol=1e-5
    )
    assert len(set(found.edits)) == len(found.edits) == 12


def test_the_study_does_not_depend_on_its_batches(found, scenes):
    again = consistency(bottlenecked(), scenes, seed=3, batch_size=8)
    close(found.cosine, again.cosine, rtol=0, atol=1e-5)
    assert not torch.equal(found.cosine[5], consistency(bottlenecked(), scenes, seed=4).cosine[5])


def test_shares_above_the_thresholds_are_counted_over_all_and_over_the_right_ones(found):
    cosine = torch.tensor([0.84, 0.86, 0.91, 0.96, 0.85, 0.9, 1.0, 0.0]).expand(12, 8)
    right = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, torch.nan])
    line: ConsistencySummary = summarise_edits(found._replace(cosine=cosine, correct=right))[0]
    assert [round(one.mean, 6) for one in line.similar.values()] == [6 / 8, 4 / 8, 2 / 8]
    assert [round(one.mean, 6) for one in line.similar_of_correct.values()] == [3 / 4, 2 / 4, 1 / 4]
    assert line.similar_of_correct[0.9].n == 4
