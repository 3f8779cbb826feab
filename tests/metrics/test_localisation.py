"""Energy, boxes and regions against plain loops, scikit-learn, scikit-image and, where installed, peers."""

import math
from itertools import combinations

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label, regionprops
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.testing import assert_close
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask

from ibviz.data.regions import object_boxes, object_regions
from ibviz.errors import InputError
from ibviz.metrics import (
    CurveProtocol,
    auroc,
    average_drop,
    averages,
    box_accuracy,
    box_hits,
    energy_pointing_game,
    faithfulness,
    iou_at_quantile,
    max_box_acc,
    overlaps,
    pixel_counts,
    pointing_game,
    pxap,
    sensitivity_n,
    top_cell_precision,
    torchray_pointing_game,
)
from tests.metrics.reference import cell_of

sides = st.integers(1, 9)
seeds = st.integers(0, 99)
NAN = torch.full((1, 2, 2), math.nan)


def drawn(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def box(size, top, left, bottom, right) -> torch.Tensor:
    region = torch.zeros(1, *size, dtype=torch.bool)
    region[:, top:bottom, left:right] = True
    return region


def tv_boxes(boxes, size, form="XYXY") -> BoundingBoxes:
    made = BoundingBoxes(boxes, format=BoundingBoxFormat[form], canvas_size=size)  # pyright: ignore[reportCallIssue]
    assert isinstance(made, BoundingBoxes)  # torchvision's stubs promise a tensor only
    return made


# Energy


@settings(deadline=None, max_examples=40, database=None)
@given(sides, sides, sides, sides, seeds)
def test_energy_is_the_sum_inside_over_the_sum(height, width, rows, columns, seed):
    grid = (min(rows, height), min(columns, width))
    maps, region = drawn(seed, 1, *grid) - 0.3, drawn(seed + 1, 1, height, width) > 0.6
    inside = total = 0.0
    for y in range(height):
        for x in range(width):
            value = max(0.0, float(maps.flatten()[cell_of(y, x, grid, (height, width))]))
            total += value
            inside += value * bool(region[0, y, x])
    result = energy_pointing_game(maps, region)
    share = float(region.float().mean())
    if share == 0:
        assert all(bool(field.isnan().all()) for field in result)
        return
    energy = inside / total if total else math.nan
    normalised = (energy - share) / (1 - share) if share < 1 else math.nan
    assert_close(torch.cat(result), torch.tensor([energy, share, normalised]), equal_nan=True, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=40, database=None)
@given(sides, sides, seeds, st.sampled_from([1e-30, 0.3, 7.0]))
def test_uniform_map_scores_what_a_uniform_point_does(height, width, seed, value):
    """Pointing, energy, precision and overlap of a uniform map are the region's share of any rectangle."""
    region = drawn(seed, 1, height, width) > 0.5
    region[0, seed % height, seed % width] = True
    share, uniform = region.float().mean().view(1), torch.full((1, 1, 1), value)
    assert_close(pointing_game(uniform, region, tolerance=0.0).hit, share)
    energy = energy_pointing_game(uniform, region)
    assert_close(energy.energy, share)
    assert_close(energy.normalised, torch.full((1,), math.nan if share == 1 else 0.0), equal_nan=True)
    assert_close(iou_at_quantile(uniform, region, quantile=0.9), share)
    assert_close(top_cell_precision(uniform, region), share)
    assert_close(torch.tensor([pxap(pixel_counts(uniform, region))]), share, check_dtype=False)


def test_negative_mass_is_clipped_and_a_map_without_mass_is_nan():
    region = box((2, 4), 0, 0, 2, 2)
    maps = torch.tensor([[[1.0, -5.0]], [[-1.0, -2.0]], [[0.0, 0.0]]])
    result = energy_pointing_game(maps, region.expand(3, -1, -1))
    assert_close(result.energy, torch.tensor([1.0, math.nan, math.nan]), equal_nan=True)
    assert result.chance.tolist() == [0.5] * 3
    assert averages(result.energy, torch.zeros(3, dtype=torch.long)) == (1.0, 1.0, 1, 2)


def test_columns_are_not_rows():
    """An off-centre box on a wide image (Score-CAM's code and another swap the axes)."""
    region = box((4, 12), 0, 9, 2, 12)
    maps = torch.zeros(1, 4, 12)
    maps[0, :2, 9:] = 1.0
    boxes = [torch.tensor([[9.0, 0.0, 12.0, 2.0]])]
    assert energy_pointing_game(maps, region).energy.item() == 1
    assert iou_at_quantile(maps, region, quantile=42 / 48).item() == 1
    assert top_cell_precision(maps, region, cells=6).item() == 1
    assert torchray_pointing_game(maps, region).hit.item() == 1
    assert overlaps(maps, boxes, (4, 12))[0, 50] == 1
    assert torch.equal(object_regions([tv_boxes(boxes[0], (4, 12))]), region)


def test_peer_agrees_on_energy():
    peer = pytest.importorskip("quantus").RelevanceMassAccuracy(disable_warnings=True, display_progressbar=False)
    maps, region = drawn(0, 3, 1, 6, 6), drawn(1, 3, 1, 6, 6) > 0.5
    theirs = peer.evaluate_batch(a_batch=maps.numpy(), s_batch=region.numpy())
    ours = energy_pointing_game(maps.squeeze(1), region.squeeze(1)).energy
    assert_close(ours, torch.tensor(theirs), check_dtype=False)


# The map's best pixels and cells


@settings(deadline=None, max_examples=40, database=None)
@given(sides, sides, st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]), seeds)
def test_overlap_at_a_quantile_is_that_of_the_sorted_pixels(height, width, quantile, seed):
    maps, region = drawn(seed, 1, height, width), drawn(seed + 1, 1, height, width) > 0.5
    ordered = sorted(maps.flatten().tolist())
    place = min(len(ordered) - 1, math.ceil(quantile * len(ordered)))
    taken = {i for i, value in enumerate(maps.flatten().tolist()) if value >= ordered[place]}
    inside = set(region.flatten().nonzero().flatten().tolist())
    expected = len(taken & inside) / len(taken | inside) if inside else math.nan
    assert_close(iou_at_quantile(maps, region, quantile=quantile), torch.tensor([expected]), equal_nan=True)


@settings(deadline=None, max_examples=40, database=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), seeds)
def test_precision_of_the_top_cells_is_a_fair_choice_among_ties(rows, columns, wanted, seed):
    """Every choice of the tied cells in turn, on blocks of 2 x 3 pixels."""
    values = (drawn(seed, rows * columns) * 3).floor().tolist()
    wanted = min(wanted, len(values))
    region = drawn(seed + 1, 1, 2 * rows, 3 * columns) > 0.5
    region[0, 0, 0] = True
    inside = [0] * len(values)
    for y, x in region[0].nonzero().tolist():
        inside[cell_of(y, x, (rows, columns), (2 * rows, 3 * columns))] += 1
    last = sorted(values, reverse=True)[wanted - 1]
    above = [i for i, value in enumerate(values) if value > last]
    tied = [i for i, value in enumerate(values) if value == last]
    choices = list(combinations(tied, wanted - len(above)))
    expected = sum(sum(inside[i] for i in (*above, *choice)) / (6 * wanted) for choice in choices) / len(choices)
    maps = torch.tensor(values).view(1, rows, columns)
    assert_close(top_cell_precision(maps, region, cells=wanted), torch.tensor([expected]))


# The preset of TorchRay


def test_torchray_takes_the_first_maximum_and_is_strict_and_unscaled():
    """At 32 px its disk covers nearly all: 98.8 % of the points of a 16 px box in the middle hit, as measured there."""
    region = box((40, 60), 0, 0, 1, 1)
    maps = torch.zeros(4, 40, 60)
    maps[0, 0, 14] = maps[1, 0, 15] = maps[2, 9, 12] = 1.0  # 14 and exactly 15 px away, twice
    maps[3, 30, 40] = maps[3, 0, 3] = 2.0  # tied: the first in row-major order counts
    result = torchray_pointing_game(maps, region.expand(4, -1, -1))
    assert result.hit.tolist() == [1, 0, 0, 1]
    assert_close(result.hit, result.best)
    centre = torchray_pointing_game(torch.ones(1, 1, 1), box((32, 32), 8, 8, 24, 24))
    assert round(float(centre.chance), 3) > 0.98
    assert centre.hit.item() == 1  # a constant map points at the corner, and hits
    assert pointing_game(torch.ones(1, 1, 1), box((32, 32), 8, 8, 24, 24), tolerance=0.0).hit.item() == 0.25


def test_enlargement_is_part_of_the_protocol():
    """Bilinear moves the maximum of a plateau to its middle: other ranks, other hits."""
    maps = torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])
    middle = box((1, 16), 0, 6, 1, 10)
    nearest = pointing_game(maps, middle, tolerance=0.0, enlargement="nearest")
    bilinear = pointing_game(maps, middle, tolerance=0.0, enlargement="bilinear")
    assert (nearest.hit.item(), bilinear.hit.item()) == (0.5, 1.0)


def test_means_over_images_and_over_classes():
    values, classes = torch.tensor([1.0, 0.0, 0.0, math.nan, math.nan]), torch.tensor([3, 3, 7, 7, 9])
    assert averages(values, classes) == (pytest.approx(1 / 3), 0.25, 3, 2)
    nothing = averages(torch.full((2,), math.nan), torch.tensor([0, 1]))
    assert math.isnan(nothing.micro)
    assert math.isnan(nothing.macro)
    assert nothing[2:] == (0, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_peer_counts_empty_masks_and_uniform_maps_as_hits():
    """Quantus' pointing game: an empty mask and any tied maximum hit, and one of its options always fails."""
    quantus = pytest.importorskip("quantus")
    quiet = {"disable_warnings": True, "display_progressbar": False}
    corner, empty = box((4, 6), 0, 0, 2, 3), torch.zeros(1, 4, 6, dtype=torch.bool)
    for region, ours in ((corner, 6 / 24), (empty, math.nan)):
        data = {"a_batch": np.ones((1, 1, 4, 6)), "s_batch": region.unsqueeze(1).numpy()}
        assert quantus.PointingGame(**quiet).evaluate_batch(**data).tolist() == [True]
        hit = pointing_game(torch.ones(1, 1, 1), region, tolerance=0.0).hit
        assert_close(hit, torch.tensor([ours]), equal_nan=True)
    data = {"a_batch": np.ones((1, 1, 4, 6)), "s_batch": corner.unsqueeze(1).numpy()}
    with pytest.raises(TypeError):
        quantus.PointingGame(weighted=True, **quiet).evaluate_batch(**data)


# Boxes


def literal_overlap(values, boxes, threshold):
    """Cut at a threshold, find 8-connected components with scikit-image, and compare every box in plain numbers."""
    best = 0.0
    for component in regionprops(label(values >= threshold, connectivity=2)):
        top, left, bottom, right = component.bbox
        for x0, y0, x1, y1 in boxes:
            width = max(0, min(right, x1) - max(left, x0))
            height = max(0, min(bottom, y1) - max(top, y0))
            union = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0) - width * height
            best = max(best, width * height / union)
    return best


@settings(deadline=None, max_examples=25, database=None)
@given(st.integers(2, 12), st.integers(2, 12), seeds)
def test_overlaps_equal_cutting_at_every_threshold(height, width, seed):
    maps = (drawn(seed, 1, height, width) * 20).floor() / 20
    corner = drawn(seed + 1, 2, 2) * torch.tensor([width / 2, height / 2])
    boxes = torch.cat([corner, corner + 1 + drawn(seed + 2, 2, 2) * torch.tensor([width / 3, height / 3])], dim=1)
    boxes = boxes.clamp(torch.zeros(4), torch.tensor([width, height] * 2).float())
    found = overlaps(maps, [boxes], (height, width), enlargement="nearest")[0]
    scaled = maps[0].double()
    scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min()) if scaled.max() > scaled.min() else scaled * 0 + 1
    expected = [literal_overlap(scaled.numpy() + 1e-6, boxes.tolist(), step / 100) for step in range(101)]
    assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


def test_first_version_takes_the_largest_contour_only():
    maps = torch.zeros(1, 10, 10)
    maps[0, 0:2, 0:2] = 1.0  # exactly the object
    maps[0, 4:9, 4:9] = 1.0  # larger, elsewhere
    boxes = [torch.tensor([[0.0, 0.0, 2.0, 2.0]])]
    largest, every = (
        overlaps(maps, boxes, (10, 10), contours=one, enlargement="nearest")[0, 50] for one in ("largest", "all")
    )
    assert (float(largest), float(every)) == (0, 1)


def test_accuracy_uses_the_threshold_of_the_other_split_and_shows_the_oracle():
    judged = torch.tensor([[0.9, 0.4], [0.9, 0.6], [math.nan, math.nan]])
    other = torch.tensor([[0.1, 0.8], [0.2, 0.8]])
    result = max_box_acc(judged, other, deltas=(0.5,))
    assert result == (0.5, 1.0, 2, 1)
    alone = max_box_acc(judged, deltas=(0.5,))
    assert math.isnan(alone.accuracy)
    assert alone.oracle == 1.0
    assert max_box_acc(judged, judged).accuracy == max_box_acc(judged).oracle
    # three deltas: at .3 and .5 the first threshold is best, at .7 as well; the other split takes the second
    assert_close(max_box_acc(judged, other).accuracy, (1 + 0.5 + 0) / 3)
    assert torch.equal(box_hits(judged, (0.5,)), torch.tensor([[2, 1]]))


def test_no_image_with_a_box_is_nan_and_counted():
    found = overlaps(torch.rand(2, 2, 2), [torch.full((1, 4), math.nan), torch.zeros(0, 4)], (4, 4))
    result = max_box_acc(found)
    assert bool(found.isnan().all())
    assert math.isnan(result.oracle)
    assert result[2:] == (0, 2)
    assert math.isnan(box_accuracy(torch.zeros(1, 3, dtype=torch.long), n=0).accuracy)


def test_constant_map_takes_the_whole_image_and_a_perfect_map_its_box():
    boxes = [torch.tensor([[1.0, 2.0, 5.0, 4.0]])]
    constant = overlaps(torch.full((1, 3, 3), 0.4), boxes, (6, 8))
    assert_close(constant, torch.full((1, 101), 8 / 48))
    perfect = overlaps(box((6, 8), 2, 1, 4, 5).float(), boxes, (6, 8))
    assert torch.equal(perfect[0, 1:], torch.ones(100))


def test_box_that_sticks_out_is_clipped_and_one_outside_left_out():
    boxes = [torch.tensor([[2.0, 1.0, 99.0, 99.0]]), torch.tensor([[9.0, 9.0, 12.0, 12.0]])]
    maps = box((4, 6), 1, 2, 4, 6).float().expand(2, -1, -1)
    found = overlaps(maps, boxes, (4, 6))
    assert found[0, 50] == 1
    assert bool(found[1].isnan().all())
    outside = tv_boxes(boxes[1], (4, 6))
    assert not object_regions([outside]).any()
    assert bool(pointing_game(maps[:1], object_regions([outside])).hit.isnan())


@settings(deadline=None, max_examples=25, database=None)
@given(sides, sides, seeds)
def test_pxap_is_average_precision_over_all_pixels(height, width, seed):
    """Equal to scikit-learn's, where the values are among the thresholds."""
    maps = (drawn(seed, 3, height, width) * 101).floor() / 100
    maps[:, 0, 0], maps[:, -1, -1] = 0.0, 1.0
    regions = drawn(seed + 1, 3, height, width) > 0.6
    regions[2] = False
    regions[0, 0, 0] = True
    kept = regions.flatten(1).any(1)
    scaled = maps if height * width > 1 else torch.ones_like(maps)
    expected = average_precision_score(regions[kept].flatten().numpy(), scaled[kept].flatten().numpy())
    together = pixel_counts(maps, regions, enlargement="nearest")
    apart = sum(
        pixel_counts(*pair, enlargement="nearest") for pair in zip(maps.split(1), regions.split(1), strict=True)
    )
    assert torch.equal(together, torch.as_tensor(apart))
    assert pxap(together) == pytest.approx(expected)


def test_pxap_without_a_region_is_nan():
    assert math.isnan(pxap(pixel_counts(torch.rand(2, 2, 2), torch.zeros(2, 4, 4, dtype=torch.bool))))


# Regions


def test_regions_are_unions_that_follow_the_crop_and_leave_difficult_objects_out():
    boxes = tv_boxes(torch.tensor([[0, 0, 2, 2], [4, 1, 6, 3], [7, 3, 8, 4]]), (4, 8))
    labels, difficult = torch.tensor([5, 5, 9]), torch.tensor([False, True, False])
    union = object_regions([boxes], keep=[labels == 5])
    assert torch.equal(union, box((4, 8), 0, 0, 2, 2) | box((4, 8), 1, 4, 3, 6))
    assert torch.equal(object_regions([boxes], keep=[(labels == 5) & ~difficult]), box((4, 8), 0, 0, 2, 2))
    turned = v2.RandomHorizontalFlip(1.0)(boxes)
    flipped = object_regions([turned], keep=[labels == 9])
    assert torch.equal(flipped, box((4, 8), 3, 0, 4, 1))
    mask = Mask(union)
    assert torch.equal(object_regions([mask]), union)
    assert torch.equal(object_regions([Mask(union[0])]), union)


def test_formats_of_boxes_agree():
    xyxy = tv_boxes(torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (4, 5))
    centred = tv_boxes(torch.tensor([[2.0, 1.0, 2.0, 2.0]]), (4, 5), "CXCYWH")
    assert torch.equal(object_regions([xyxy]), object_regions([centred]))
    assert torch.equal(object_boxes([centred])[0], torch.tensor([[1.0, 0.0, 3.0, 2.0]]))


def test_one_pixel_box_is_one_pixel_everywhere():
    boxes = tv_boxes(torch.tensor([[6, 2, 7, 3]]), (5, 7))
    region = object_regions([boxes])
    assert region.nonzero().tolist() == [[0, 2, 6]]
    maps = region.float()
    assert energy_pointing_game(maps, region).energy.item() == 1
    assert overlaps(maps, object_boxes([boxes]), (5, 7))[0, 50] == 1
    assert iou_at_quantile(maps, region, quantile=34 / 35).item() == 1


def test_what_is_no_object_is_refused():
    with pytest.raises(InputError, match="at least one image"):
        object_regions([])
    one, other = (tv_boxes(torch.zeros(0, 4), size) for size in ((4, 5), (4, 6)))
    with pytest.raises(InputError, match="must have one size"):
        object_regions([one, other])


# Bad input


def quantile(maps, regions):
    return iou_at_quantile(maps, regions, quantile=0.8)


def boxed(maps, regions):
    return overlaps(maps, [torch.tensor([[0.0, 0.0, 2.0, 3.0]])] * len(maps), (regions.shape[1], regions.shape[2]))


BY_PIXEL = [pointing_game, torchray_pointing_game, energy_pointing_game, quantile, auroc, pixel_counts, boxed]


@pytest.mark.parametrize("judge", [*BY_PIXEL, top_cell_precision])
def test_maps_without_an_order_and_no_maps_are_refused(judge):
    with pytest.raises(InputError, match="maps must be finite"):
        judge(NAN, box((4, 4), 0, 0, 1, 1))
    with pytest.raises(InputError, match="at least one map"):
        judge(torch.rand(0, 2, 2), torch.zeros(0, 4, 4, dtype=torch.bool))


def curved(maps, images):
    protocol = CurveProtocol(colour=(0, 0, 0), steps=2)
    return faithfulness(lambda states, _: states.mean((1, 2, 3)), images, maps, protocol=protocol)


def summed(maps, images):
    return sensitivity_n(lambda states, _: states.mean((1, 2, 3)), images, maps, images, n=1, subsets=2)


def dropped(maps, images):
    return average_drop(lambda states, _: states.mean((1, 2, 3)), images, maps)


@pytest.mark.parametrize("judge", [*BY_PIXEL[:-1], top_cell_precision, curved, summed, dropped])
def test_maps_of_more_or_fewer_images_are_refused(judge, monkeypatch):
    """Types say so too, but in tests alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    there = torch.rand(2, 3, 4, 4) if judge in (curved, summed, dropped) else torch.rand(2, 4, 4) > 0.5
    what = "images" if there.dim() == 4 else "regions"
    for count in (1, 3):
        with pytest.raises(InputError, match=f"expected the {what} of each of {count} maps; got those of 2"):
            judge(torch.rand(count, 2, 2), there)


@pytest.mark.parametrize("judge", BY_PIXEL)
def test_map_larger_than_the_image_is_averaged_into_pixels(judge):
    fine, region = drawn(0, 2, 8, 12), drawn(1, 2, 4, 6) > 0.5
    coarse = fine.view(2, 4, 2, 6, 2).mean((2, 4))
    assert_close(judge(fine, region), judge(coarse, region))


def test_cells_smaller_than_a_pixel_are_refused():
    fine, region = drawn(0, 2, 8, 12), drawn(1, 2, 4, 6) > 0.5
    with pytest.raises(InputError, match="a cell must hold a pixel"):
        top_cell_precision(fine, region)


def test_impossible_choices_are_refused():
    maps, region = torch.rand(1, 2, 2), box((4, 4), 0, 0, 1, 1)
    with pytest.raises(InputError, match=r"quantile must be in \[0, 1\]; got 1.5"):
        iou_at_quantile(maps, region, quantile=1.5)
    with pytest.raises(InputError, match="cells must be 1 to 4"):
        top_cell_precision(maps, region, cells=5)
    with pytest.raises(InputError, match="boxes of each of 1 maps; got those of 2"):
        overlaps(maps, [torch.rand(1, 4)] * 2, (4, 4))
    for judge in (energy_pointing_game, top_cell_precision):
        assert bool(judge(maps, torch.zeros(1, 4, 4, dtype=torch.bool))[0].isnan().all())


@pytest.mark.parametrize("levels", [2, 5, None])
@pytest.mark.parametrize("size", [(4, 6), (8, 6)])
def test_auroc_is_that_of_scikit_learn_with_ties_counted_half(levels, size):
    maps, region = drawn(3, 5, 4, 3), drawn(4, 5, *size) > 0.6
    maps = maps if levels is None else (maps * levels).floor()
    pixels = maps.repeat_interleave(size[0] // 4, 1).repeat_interleave(size[1] // 3, 2)
    expected = [
        roc_auc_score(inside.flatten(), values.flatten()) for inside, values in zip(region, pixels, strict=True)
    ]
    assert_close(auroc(maps, region), torch.tensor(expected).float())
    assert_close(auroc(-maps, region), 1 - torch.tensor(expected).float())


def test_auroc_of_a_map_enlarged_bilinearly_is_that_of_scikit_learn():
    maps, region = drawn(3, 5, 4, 3), drawn(4, 5, 8, 6) > 0.6
    pixels = v2.functional.resize(maps, [8, 6], antialias=False)
    expected = [
        roc_auc_score(inside.flatten(), values.flatten()) for inside, values in zip(region, pixels, strict=True)
    ]
    assert_close(auroc(maps, region, enlargement="bilinear"), torch.tensor(expected).float())


def test_auroc_needs_pixels_on_both_sides():
    maps, whole = drawn(0, 1, 2, 2), torch.ones(1, 4, 4, dtype=torch.bool)
    assert auroc(maps, whole).isnan().all()
    assert auroc(maps, ~whole).isnan().all()


@pytest.mark.parametrize("shape", [(6, 2), (2, 6)])
def test_auroc_of_a_map_that_is_finer_in_one_direction_is_that_of_its_pixels(shape):
    """Averaged along that direction into the pixels of the image, by hand."""
    maps = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    regions = torch.tensor([[True, False], [False, False]]).expand(3, 2, 2)
    pixels = maps.view(3, 2, shape[0] // 2, 2, shape[1] // 2).mean((2, 4))
    assert_close(auroc(maps, regions), auroc(pixels, regions))
