"""Embedded data set: a handwritten digit among strokes on a background, with the exact mask of the digit.

Nothing is downloaded: the digits are bundled with scikit-learn, and the backgrounds are synthetic (dead leaves), or
crops of photographs bundled with scikit-image and scikit-learn. Colour and thickness of digit and strokes follow the
same distribution, so that only the shape of the digit reveals the class.
"""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from ibviz.data.backgrounds import BACKGROUNDS, LUMA, SIDE, BackgroundKind, Span, colours_of_luma, sample, to_range
from ibviz.data.config import Background
from ibviz.data.image_set import ImageSet
from ibviz.data.listing import Split
from ibviz.errors import InputError
from ibviz.progress import progress
from ibviz.types import Boxes, Images, Labels, Masks, Pixels

Ink = Float[Tensor, "n 48 48"]  # opacity

_IMAGES_AT_ONCE = 100  # images rendered at once; bounds memory, changes no pixel
STROKES = 4  # per image at most; the first two are always drawn
_CANDIDATES = 10  # candidate positions per stroke
SPLITS: dict[Split, range] = {
    "train": range(14),
    "validation": range(14, 17),
    "test": range(17, 20),
}  # of every 20 digits


class RandomNumbers(NamedTuple):
    """Uniform random numbers in [0, 1), one row per image; a row is independent of the number of rows after it."""

    digit: Float64[Tensor, "n 6"]  # glyph, x, y, size, rotation, slant
    background: Float64[Tensor, "n *shape"]  # shape given by the kind of background
    number: Float64[Tensor, "n 1"]  # number of strokes
    strokes: Float64[Tensor, "n 4 3"]  # length, opening, thickness
    places: Float64[Tensor, "n 4 10 3"]  # x, y, direction
    colours: Float64[Tensor, "n 5 3"]  # hue, saturation, contrast of each stroke and, last, the digit


def digits(split: Split, *, count: int, seed: int, background: Background = "leaves") -> ImageSet:
    """Draw `count` scenes of 48 px with one digit each, its exact mask and tight box; image i has class i mod 10.

    For any seed, splits share no digit and no photograph, although a writer may appear in several. An image depends on
    split, seed, background and its index alone. The test split has 261 distinct digits, of which 200 scenes show 147.

    Args:
        split: "train", "validation" or "test".
        count: Number of images, at least 1.
        seed: Seed of all random choices.
        background: "leaves", synthetic dead leaves drawn per image, or "photographs", crops of bundled ones.

    Returns:
        Images whose `clusters` name the photograph behind each, or None for leaves, which are independent per image.

    >>> scenes = digits("test", count=20, seed=0)
    >>> scenes.images.shape, scenes.labels[:4].tolist(), scenes.names[0]
    (torch.Size([20, 3, 48, 48]), [0, 1, 2, 3], 'test-00000')
    """
    if count < 1:
        raise InputError(f"digits needs a count of at least 1; got {count}")
    kind, labels, clusters = BACKGROUNDS[background], torch.arange(count) % 10, []
    generators, images = _generators(split, seed), torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    masks = torch.empty(count, SIDE, SIDE, dtype=torch.bool)
    for start in progress(range(0, count, _IMAGES_AT_ONCE), f"drawing digits, {split}"):
        part = slice(start, start + _IMAGES_AT_ONCE)
        numbers = _draw_numbers(generators, kind.shape, len(labels[part]))
        canvas = kind.draw(numbers.background, split)
        images[part], masks[part] = _render(numbers, kind, canvas, labels[part], _glyphs(split))
        clusters += kind.clusters(numbers.background, split) if kind.clusters else ()
    names = tuple(f"{split}-{index:05d}" for index in range(count))
    return ImageSet(
        images, labels, tuple("0123456789"), names, masks, tight_boxes(masks), clusters=tuple(clusters) or None
    )


def tight_boxes(masks: Masks) -> Boxes:
    """Return the smallest half-open box around each mask, NaN for an empty mask.

    >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    >>> mask[0, 1, 2:4] = True
    >>> tight_boxes(mask)
    tensor([[2., 1., 4., 2.]])
    """
    spans = [_span(masks.any(axis)) for axis in (1, 2)]  # columns, then rows
    boxes = torch.stack([spans[0][0], spans[1][0], spans[0][1], spans[1][1]], dim=1).float()
    boxes[~masks.flatten(1).any(1)] = torch.nan
    return boxes


def _span(used: Tensor) -> tuple[Tensor, Tensor]:
    return used.int().argmax(1), used.shape[1] - used.flip(1).int().argmax(1)


def _generators(split: Split, seed: int) -> list[torch.Generator]:
    parts = len(RandomNumbers._fields)
    first = (seed * len(SPLITS) + list(SPLITS).index(split)) * parts
    return [torch.Generator().manual_seed(first + part) for part in range(parts)]


def _draw_numbers(generators: list[torch.Generator], background: tuple[int, ...], rows: int) -> RandomNumbers:
    """Draw the random numbers of the next `rows` images; each kind of choice has its own generator."""
    shapes = ((6,), background, (1,), (STROKES, 3), (STROKES, _CANDIDATES, 3), (STROKES + 1, 3))
    pairs = zip(generators, shapes, strict=True)
    draws = (torch.rand(rows, *shape, generator=generator, dtype=torch.float64) for generator, shape in pairs)
    return RandomNumbers(*draws)


@cache
def _glyphs(split: Split) -> tuple[Tensor, ...]:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    glyphs = torch.from_numpy(values / 16).float().view(-1, 8, 8)
    of_class = (glyphs[torch.from_numpy(labels == digit)] for digit in range(10))
    return tuple(
        digits_of_class[[index for index in range(len(digits_of_class)) if index % 20 in SPLITS[split]]]
        for digits_of_class in of_class
    )


def _render(
    numbers: RandomNumbers, kind: BackgroundKind, canvas: Images, labels: Labels, glyphs: tuple[Tensor, ...]
) -> tuple[Pixels, Masks]:
    centre, size = _digit_place(numbers.digit, kind.digit)
    for stroke, colour in zip(_strokes(numbers, kind, centre, size), numbers.colours.unbind(1), strict=False):
        canvas = _paint(canvas, stroke, colour)
    ink = _digit_ink(numbers.digit, _pick(numbers.digit[:, 0], labels, glyphs), centre, size)
    return (_paint(canvas, ink, numbers.colours[:, -1]) * 255).round().byte(), ink > 0.5


def _pick(numbers: Float64[Tensor, " n"], labels: Labels, glyphs: tuple[Tensor, ...]) -> Float[Tensor, "n 8 8"]:
    pairs = zip(numbers.tolist(), labels.tolist(), strict=True)
    return torch.stack([glyphs[label][int(number * len(glyphs[label]))] for number, label in pairs])


def _digit_place(numbers: Float64[Tensor, "n 6"], sizes: Span) -> tuple[Float64[Tensor, "n 2"], Float64[Tensor, " n"]]:
    size = to_range(numbers[:, 3], *sizes)
    margin = size / 2 + 1
    return margin[:, None] + numbers[:, 1:3] * (SIDE - 2 * margin)[:, None], size


def _digit_ink(
    numbers: Float64[Tensor, "n 6"],
    glyphs: Float[Tensor, "n 8 8"],
    centre: Float64[Tensor, "n 2"],
    size: Float64[Tensor, " n"],
) -> Ink:
    angle, slant = to_range(numbers[:, 4], -0.2, 0.2), to_range(numbers[:, 5], -0.2, 0.2)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos + slant * sin, sin - slant * cos, -sin, cos], dim=1).view(-1, 2, 2)
    shift = turn @ (SIDE / 2 - centre)[:, :, None]
    theta = torch.cat([turn * SIDE / 2, shift], dim=2) * 2 / size[:, None, None]
    coverage = sample(glyphs[:, None], theta, "bicubic").squeeze(1)
    bold = glyphs.mean((1, 2)).view(-1, 1, 1)  # ink of wide pens is thresholded at a higher level
    level = (0.5 + 1.5 * (bold - 0.3)).clamp(0.45, 0.75)
    return (0.5 + 3.0 * (coverage - level)).clamp(0, 1)  # an edge as sharp as that of the strokes


def _strokes(
    numbers: RandomNumbers, kind: BackgroundKind, centre: Float64[Tensor, "n 2"], size: Float64[Tensor, " n"]
) -> list[Ink]:
    """Draw arcs beside the digit, from nearly straight ones to nearly half circles."""
    length, opening = to_range(numbers.strokes[..., 0], *kind.length), to_range(numbers.strokes[..., 1], 0.05, 1.5)
    thickness = to_range(numbers.strokes[..., 2], *kind.thickness)
    radius = length / (2 * opening)
    x, y, direction = _clear_places(numbers.places, radius, opening, centre, size).unbind(-1)
    x, y = x - radius * direction.cos(), y - radius * direction.sin()
    present = torch.arange(STROKES) < 2 + (3 * numbers.number).floor()
    arcs = torch.stack([x, y, radius, direction, opening, thickness], dim=-1).float()
    return [_arc(arc) * present[:, k, None, None] for k, arc in enumerate(arcs.unbind(1))]


def _clear_places(
    numbers: Float64[Tensor, "n 4 10 3"],
    radius: Float64[Tensor, "n 4"],
    opening: Float64[Tensor, "n 4"],
    centre: Float64[Tensor, "n 2"],
    size: Float64[Tensor, " n"],
) -> Float64[Tensor, "n 4 3"]:
    """Return centre and direction of the first candidate that clears the digit, or of the farthest if none does."""
    places = torch.cat([to_range(numbers[..., :2], 3.0, SIDE - 3.0), 2 * torch.pi * numbers[..., 2:]], dim=-1)
    direction = places[..., 2, None] + opening[..., None, None] * torch.linspace(-1, 1, 5)
    points = places[..., None, :2] + radius[..., None, None, None] * (
        torch.stack([direction.cos(), direction.sin()], -1)
        - torch.stack([places[..., 2].cos(), places[..., 2].sin()], -1)[..., None, :]
    )
    half = size[:, None] * torch.tensor([0.38, 0.48])
    clearance = ((points - centre[:, None, None, None]).abs() - half[:, None, None, None]).amax(-1).amin(-1)
    rank = torch.where(clearance > 2.5, 1000.0 - torch.arange(_CANDIDATES), clearance)
    best = rank.argmax(-1)[..., None, None].expand(-1, -1, 1, 3)
    return places.gather(2, best).squeeze(2)


def _arc(arc: Float[Tensor, "n 6"]) -> Ink:
    """Draw an arc with round ends, by distance to the circle within its opening and to the nearer end outside."""
    x, y, radius, direction, opening, thickness = arc[:, :, None, None].unbind(1)
    right, down = torch.arange(SIDE) + 0.5 - x, torch.arange(SIDE)[:, None] + 0.5 - y
    along = right * direction.cos() + down * direction.sin()
    across = (down * direction.cos() - right * direction.sin()).abs()
    end_along, end_across = radius * opening.cos(), radius * opening.sin()
    to_end = torch.hypot(along - end_along, across - end_across)
    to_circle = (torch.hypot(along, across) - radius).abs()
    distance = torch.where(across * opening.cos() > along * opening.sin(), to_end, to_circle)
    return (0.5 + thickness - distance).clamp(0, 1)


def _paint(canvas: Images, ink: Ink, numbers: Float64[Tensor, "n 3"]) -> Images:
    """Paint ink over a soft shadow, in a colour whose luma differs by 0.42 to 0.6 from that of the covered pixels."""
    luma = (canvas * LUMA[:, None, None]).sum(1)
    covered = (luma * ink).sum((1, 2), dtype=torch.float64) / ink.sum((1, 2), dtype=torch.float64).clamp(min=1e-6)
    step = to_range(numbers[:, 2], 0.42, 0.6)
    target = torch.where(covered > 0.5, covered - step, covered + step).clamp(0.03, 0.97)
    colour = colours_of_luma(numbers[:, 0], to_range(numbers[:, 1], 0.4, 1.0), target).float()
    shadow = (covered > 0.5).float().view(-1, 1, 1, 1)  # white under dark ink, black under light ink
    canvas = torch.lerp(canvas, shadow, 0.5 * functional.avg_pool2d(ink, 5, stride=1, padding=2)[:, None])
    return torch.lerp(canvas, colour[:, :, None, None], ink[:, None])
