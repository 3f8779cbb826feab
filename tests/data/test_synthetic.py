import math
from itertools import combinations

import pytest
import torch
from scipy.stats import chisquare
from sklearn.datasets import load_digits

from ibviz.data import synthetic
from ibviz.data.backgrounds import PHOTOGRAPHS, SIDE
from ibviz.data.config import Background, DataConfig
from ibviz.data.sources import load_images
from ibviz.data.synthetic import SPLITS, digits
from ibviz.errors import InputError

KINDS: tuple[Background, ...] = ("leaves", "photographs")


@pytest.fixture(scope="module")
def scenes():
    return digits("test", count=60, seed=0, background="leaves")


@pytest.fixture(scope="module")
def many():
    return digits("test", count=800, seed=3, background="leaves")


def test_boxes_are_the_extreme_mask_pixels(scenes):
    for mask, box in zip(scenes.masks, scenes.boxes, strict=True):
        rows, columns = zip(*mask.nonzero().tolist(), strict=True)
        assert box.tolist() == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def test_the_mask_is_exactly_where_the_digit_changes_the_picture(scenes, monkeypatch):
    """Without ink the background and strokes stay; outside the soft edge and shadow nothing may differ."""
    monkeypatch.setattr(synthetic, "_digit_ink", lambda numbers, *_: torch.zeros(len(numbers), 48, 48))
    without = digits("test", count=60, seed=0, background="leaves")
    changed = (scenes.images.int() - without.images.int()).abs().amax(1)
    near = torch.nn.functional.max_pool2d(scenes.masks.float(), 9, 1, 4) > 0
    assert changed[~near].max() == 0
    assert (changed[scenes.masks] > 20).float().mean() > 0.99
    assert without.masks is not None
    assert without.boxes is not None
    assert not without.masks.any()
    assert without.boxes.isnan().all()


def on_eight_rows(image: torch.Tensor) -> torch.Tensor:
    """A mask cut to its own box, as 8x8 coverages."""
    return torch.nn.functional.adaptive_avg_pool2d(image[None].float(), 8)[0]


def test_the_mask_shows_the_class_of_the_label(scenes):
    """A nearest neighbour in the digits of scikit-learn, which knows nothing of scenes, reads the masks."""
    values, labels = load_digits(return_X_y=True)
    known = torch.from_numpy(values / 16 > 0.5).view(-1, 8, 8)
    known = torch.stack([on_eight_rows(crop(one)) for one in known]).flatten(1)
    seen = torch.stack([on_eight_rows(crop(mask)) for mask in scenes.masks]).flatten(1)
    nearest = torch.from_numpy(labels)[torch.cdist(seen, known).argmin(1)]
    assert (nearest == scenes.labels).float().mean() > 0.8  # turned and slanted, these are not its usual food


def crop(mask: torch.Tensor) -> torch.Tensor:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def test_splits_share_no_digit_and_no_photograph():
    for one, other in combinations(SPLITS, 2):
        assert not set(PHOTOGRAPHS[one]) & set(PHOTOGRAPHS[other])
    glyphs = {split: torch.cat(synthetic._glyphs(split)).flatten(1) for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert torch.cdist(glyphs[one], glyphs[other]).min() > 0.1
    assert {split: len(one) for split, one in glyphs.items()} == {"train": 1269, "validation": 267, "test": 261}


@pytest.mark.parametrize("background", KINDS)
@pytest.mark.parametrize("chunk", [1, 7])
def test_an_image_does_not_depend_on_chunk_or_count(monkeypatch, chunk, background):
    whole = digits("test", count=30, seed=0, background=background)
    monkeypatch.setattr(synthetic, "_IMAGES_AT_ONCE", chunk)
    again = digits("test", count=12, seed=0, background=background)
    assert again.images.equal(whole.images[:12])
    assert whole.masks is not None
    assert again.masks is not None
    assert again.masks.equal(whole.masks[:12])
    assert again.names == whole.names[:12]
    assert again.clusters == (None if whole.clusters is None else whole.clusters[:12])


def test_a_recipe_chooses_the_background():
    default = load_images(DataConfig(limit=20), "train", None)
    photographs = load_images(DataConfig(background="photographs", limit=20), "train", None)
    assert default.images.equal(digits("train", count=20, seed=0, background="leaves").images)
    assert photographs.images.equal(digits("train", count=20, seed=0, background="photographs").images)


def test_photographs_are_drawn_as_they_were_before_there_was_a_choice():
    """Numbers of what commit 97d67a3 drew."""
    drawn = digits("test", count=3, seed=0, background="photographs")
    assert drawn.masks is not None
    assert drawn.boxes is not None
    assert drawn.boxes.tolist() == [[22, 8, 33, 27], [16, 24, 26, 42], [14, 16, 29, 39]]
    assert drawn.masks.sum((1, 2)).tolist() == [103, 94, 138]
    colours = torch.tensor([[159.85, 102.68, 74.31], [114.81, 101.78, 88.12], [117.45, 46.37, 36.45]])
    torch.testing.assert_close(drawn.images.float().mean((2, 3)), colours, atol=0.02, rtol=0)
    deviations = torch.tensor([80.129, 61.656, 66.963])
    torch.testing.assert_close(drawn.images.float().std((1, 2, 3)), deviations, atol=0.02, rtol=0)


def test_a_digit_stands_anywhere_where_it_fits(many):
    """In the middle of the canvas, where digits of every size fit, no place is likelier; the borders are reached."""
    middles = (many.boxes[:, :2] + many.boxes[:, 2:]) / 2
    inside = middles[((middles > 14) & (middles < 34)).all(1)]
    for axis in (0, 1):
        assert chisquare(torch.histc(inside[:, axis], 5, 14, 34).numpy()).pvalue > 0.01
    assert len(inside) / len(middles) < 0.6
    assert (many.boxes[:, :2].amin(0) < 5).all()
    assert (many.boxes[:, 2:].amax(0) > SIDE - 5).all()


def test_no_place_of_the_canvas_is_a_good_guess(many):
    """The best of all cells of 4 px lies on the digit in less than a third of the images."""
    hits = torch.nn.functional.max_pool2d(many.masks.float(), 4).mean(0)
    assert hits.max() < 0.4


def test_another_seed_and_another_split_draw_other_places(scenes):
    reseeded = digits("test", count=20, seed=1, background="leaves")
    for other in (reseeded, digits("validation", count=20, seed=0, background="leaves")):
        assert other.boxes is not None
        assert (other.boxes != scenes.boxes[:20]).any(1).all()


@pytest.mark.parametrize(
    ("background", "inked", "boxed"), [("leaves", 0.06, (0.05, 0.12)), ("photographs", 0.09, (0.08, 0.25))]
)
def test_classes_are_even_and_evidence_is_small(background, inked, boxed):
    scenes = digits("test", count=60, seed=0, background=background)
    assert scenes.masks is not None
    assert scenes.boxes is not None
    assert scenes.labels.bincount().tolist() == [6] * 10
    assert 0.02 < scenes.masks.float().mean() < inked
    x0, y0, x1, y1 = scenes.boxes.unbind(1)
    assert boxed[0] < ((x1 - x0) * (y1 - y0)).mean() / 48**2 < boxed[1]
    assert min(x0.min(), y0.min()) >= 0
    assert max(x1.max(), y1.max()) <= 48


def arc_by_walking(arc: list[float], column: int, row: int) -> float:
    """Ink at a pixel from the nearest of 4000 points walked along the arc."""
    x, y, radius, direction, opening, thickness = arc
    angles = [direction + opening * (2 * step / 3999 - 1) for step in range(4000)]
    gaps = (math.hypot(x + radius * math.cos(a) - column - 0.5, y + radius * math.sin(a) - row - 0.5) for a in angles)
    return min(max(0.5 + thickness - min(gaps), 0), 1)


def test_a_stroke_is_what_walking_along_its_arc_paints():
    arc = [20.0, 26.0, 8.0, 0.7, 1.2, 1.6]
    ink = synthetic._arc(torch.tensor([arc]))[0]
    places = [(column, row) for column in range(10, 40, 3) for row in range(12, 42, 3)]
    walked = torch.tensor([arc_by_walking(arc, *place) for place in places])
    assert walked.max() == 1
    torch.testing.assert_close(torch.stack([ink[row, column] for column, row in places]), walked, atol=2e-3, rtol=0)


def test_no_scene_is_an_error():
    with pytest.raises(InputError, match="at least 1; got 0"):
        digits("train", count=0, seed=0)
