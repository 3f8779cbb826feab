"""The embedded data set: a handwritten digit among strokes on a background, with the exact pixels that it covers.

Nothing is downloaded: the digits come with scikit-learn, the backgrounds are cut from photographs that come with
scikit-image and scikit-learn, or drawn (dead leaves). Ink of digit and strokes follows one rule of colour and
thickness, so only the shape at the right place tells the class.
"""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from ibviz.data.backgrounds import BACKGROUNDS, LUMA, SIDE, Kind, Span, between, coloured, sample
from ibviz.data.config import Background
from ibviz.data.image_set import ImageSet
from ibviz.data.listing import Split
from ibviz.errors import InputError
from ibviz.progress import progress
from ibviz.types import Boxes, Images, Labels, Masks, Pixels

Ink = Float[Tensor, "n 48 48"]  # opacity
Dots = Float[Tensor, "n s c"]  # one number for each candidate place of each stroke

CHUNK = 100  # images rendered at once; bounds the memory, changes no pixel
STROKES = 4  # at most; the first two are always there
PLACES = 10  # candidate places for each stroke
SPLITS: dict[Split, range] = {
    "train": range(14),
    "validation": range(14, 17),
    "test": range(17, 20),
}  # of every 20 digits


class Dice(NamedTuple):
    """Uniform [0, 1) numbers behind every choice, one row per image: row i does not depend on how many rows follow."""

    digit: Float64[Tensor, "n 6"]  # which, x, y, size, rotation, slant
    background: Float64[Tensor, "n *shape"]  # as many as its kind needs
    number: Float64[Tensor, "n 1"]  # of strokes
    strokes: Float64[Tensor, "n 4 3"]  # length, opening, thickness
    places: Float64[Tensor, "n 4 10 3"]  # x, y, direction
    colours: Float64[Tensor, "n 5 3"]  # hue, saturation, contrast of each stroke and, last, the digit


def digits(split: Split, *, count: int, seed: int, background: Background = "photographs") -> ImageSet:
    """Draw `count` scenes of 48 px with one digit each, its exact mask and tight box; image i has class i mod 10.

    Splits share no digit and no photograph, whatever the seed, though a writer may appear in several. An image depends
    on split, seed, background and its position alone. The test split has 261 distinct digits, so that 200 scenes show
    147 of them.

    Returns:
        Images whose `clusters` name the photograph behind each; None for leaves, which are drawn anew for every image.

    >>> scenes = digits("test", count=20, seed=0)
    >>> scenes.images.shape, scenes.labels[:4].tolist(), scenes.names[0]
    (torch.Size([20, 3, 48, 48]), [0, 1, 2, 3], 'test-00000')
    """
    if count < 1:
        raise InputError(f"digits needs a count of at least 1; got {count}")
    kind, labels, clusters = BACKGROUNDS[background], torch.arange(count) % 10, []
    generators, images = _generators(split, seed), torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    masks = torch.empty(count, SIDE, SIDE, dtype=torch.bool)
    for start in progress(range(0, count, CHUNK), f"drawing digits, {split}"):
        part = slice(start, start + CHUNK)
        dice = _roll(generators, kind.dice, len(labels[part]))
        canvas = kind.draw(dice.background, split)
        images[part], masks[part] = _render(dice, kind, canvas, labels[part], _glyphs(split))
        clusters += kind.clusters(dice.background, split) if kind.clusters else ()
    names = tuple(f"{split}-{index:05d}" for index in range(count))
    return ImageSet(
        images, labels, tuple("0123456789"), names, masks, tight_boxes(masks), clusters=tuple(clusters) or None
    )


def tight_boxes(masks: Masks) -> Boxes:
    """Smallest half-open box around each mask, NaN where it is empty.

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
    parts = len(Dice._fields)
    first = (seed * len(SPLITS) + list(SPLITS).index(split)) * parts
    return [torch.Generator().manual_seed(first + part) for part in range(parts)]


def _roll(generators: list[torch.Generator], background: tuple[int, ...], rows: int) -> Dice:
    """Roll for the next `rows` images; each choice has its own generator."""
    shapes = ((6,), background, (1,), (STROKES, 3), (STROKES, PLACES, 3), (STROKES + 1, 3))
    pairs = zip(generators, shapes, strict=True)
    return Dice(*(torch.rand(rows, *shape, generator=one, dtype=torch.float64) for one, shape in pairs))


@cache
def _glyphs(split: Split) -> tuple[Tensor, ...]:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    glyphs = torch.from_numpy(values / 16).float().view(-1, 8, 8)
    of_class = (glyphs[torch.from_numpy(labels == digit)] for digit in range(10))
    return tuple(one[[index for index in range(len(one)) if index % 20 in SPLITS[split]]] for one in of_class)


def _render(dice: Dice, kind: Kind, canvas: Images, labels: Labels, glyphs: tuple[Tensor, ...]) -> tuple[Pixels, Masks]:
    centre, size = _digit_place(dice.digit, kind.digit)
    for stroke, colour in zip(_strokes(dice, kind, centre, size), dice.colours.unbind(1), strict=False):
        canvas = _paint(canvas, stroke, colour)
    ink = _digit_ink(dice.digit, _pick(dice.digit[:, 0], labels, glyphs), centre, size)
    return (_paint(canvas, ink, dice.colours[:, -1]) * 255).round().byte(), ink > 0.5


def _pick(dice: Float64[Tensor, " n"], labels: Labels, glyphs: tuple[Tensor, ...]) -> Float[Tensor, "n 8 8"]:
    pairs = zip(dice.tolist(), labels.tolist(), strict=True)
    return torch.stack([glyphs[label][int(one * len(glyphs[label]))] for one, label in pairs])


def _digit_place(dice: Float64[Tensor, "n 6"], sizes: Span) -> tuple[Float64[Tensor, "n 2"], Float64[Tensor, " n"]]:
    size = between(dice[:, 3], *sizes)
    margin = size / 2 + 1
    return margin[:, None] + dice[:, 1:3] * (SIDE - 2 * margin)[:, None], size


def _digit_ink(
    dice: Float64[Tensor, "n 6"],
    glyphs: Float[Tensor, "n 8 8"],
    centre: Float64[Tensor, "n 2"],
    size: Float64[Tensor, " n"],
) -> Ink:
    angle, slant = between(dice[:, 4], -0.2, 0.2), between(dice[:, 5], -0.2, 0.2)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos + slant * sin, sin - slant * cos, -sin, cos], dim=1).view(-1, 2, 2)
    shift = turn @ (SIDE / 2 - centre)[:, :, None]
    theta = torch.cat([turn * SIDE / 2, shift], dim=2) * 2 / size[:, None, None]
    coverage = sample(glyphs[:, None], theta, "bicubic").squeeze(1)
    bold = glyphs.mean((1, 2)).view(-1, 1, 1)  # some pens were wide: their ink is cut off at a higher level
    level = (0.5 + 1.5 * (bold - 0.3)).clamp(0.45, 0.75)
    return (0.5 + 3.0 * (coverage - level)).clamp(0, 1)  # a steep edge: as sharp as the strokes'


def _strokes(dice: Dice, kind: Kind, centre: Float64[Tensor, "n 2"], size: Float64[Tensor, " n"]) -> list[Ink]:
    """Arcs from nearly straight to open half circles, beside the digit."""
    length, opening = between(dice.strokes[..., 0], *kind.length), between(dice.strokes[..., 1], 0.05, 1.5)
    thickness = between(dice.strokes[..., 2], *kind.thickness)
    radius = length / (2 * opening)
    x, y, direction = _clear_places(dice.places, radius, opening, centre, size).unbind(-1)
    x, y = x - radius * direction.cos(), y - radius * direction.sin()
    present = torch.arange(STROKES) < 2 + (3 * dice.number).floor()
    arcs = torch.stack([x, y, radius, direction, opening, thickness], dim=-1).float()
    return [_arc(one) * present[:, k, None, None] for k, one in enumerate(arcs.unbind(1))]


def _clear_places(
    dice: Float64[Tensor, "n 4 10 3"],
    radius: Float64[Tensor, "n 4"],
    opening: Float64[Tensor, "n 4"],
    centre: Float64[Tensor, "n 2"],
    size: Float64[Tensor, " n"],
) -> Float64[Tensor, "n 4 3"]:
    """First candidate whose arc keeps clear of the digit, else the one that keeps clearest: middle and direction."""
    places = torch.cat([between(dice[..., :2], 3.0, SIDE - 3.0), 2 * torch.pi * dice[..., 2:]], dim=-1)
    direction = places[..., 2, None] + opening[..., None, None] * torch.linspace(-1, 1, 5)
    points = places[..., None, :2] + radius[..., None, None, None] * (
        torch.stack([direction.cos(), direction.sin()], -1)
        - torch.stack([places[..., 2].cos(), places[..., 2].sin()], -1)[..., None, :]
    )
    half = size[:, None] * torch.tensor([0.38, 0.48])
    clearance = ((points - centre[:, None, None, None]).abs() - half[:, None, None, None]).amax(-1).amin(-1)
    rank = torch.where(clearance > 2.5, 1000.0 - torch.arange(PLACES), clearance)
    best = rank.argmax(-1)[..., None, None].expand(-1, -1, 1, 3)
    return places.gather(2, best).squeeze(2)


def _arc(arc: Float[Tensor, "n 6"]) -> Ink:
    """Ink of an arc with round ends: distance to the circle inside its opening, to the nearer end outside."""
    x, y, radius, direction, opening, thickness = arc[:, :, None, None].unbind(1)
    right, down = torch.arange(SIDE) + 0.5 - x, torch.arange(SIDE)[:, None] + 0.5 - y
    along = right * direction.cos() + down * direction.sin()
    across = (down * direction.cos() - right * direction.sin()).abs()
    end_along, end_across = radius * opening.cos(), radius * opening.sin()
    to_end = torch.hypot(along - end_along, across - end_across)
    to_circle = (torch.hypot(along, across) - radius).abs()
    distance = torch.where(across * opening.cos() > along * opening.sin(), to_end, to_circle)
    return (0.5 + thickness - distance).clamp(0, 1)


def _paint(canvas: Images, ink: Ink, dice: Float64[Tensor, "n 3"]) -> Images:
    """Lay ink on the canvas in a colour whose luma differs by 0.42 to 0.6 from what it covers, over a soft shadow."""
    luma = (canvas * LUMA[:, None, None]).sum(1)
    covered = (luma * ink).sum((1, 2), dtype=torch.float64) / ink.sum((1, 2), dtype=torch.float64).clamp(min=1e-6)
    step = between(dice[:, 2], 0.42, 0.6)
    target = torch.where(covered > 0.5, covered - step, covered + step).clamp(0.03, 0.97)
    colour = coloured(dice[:, 0], between(dice[:, 1], 0.4, 1.0), target).float()
    shadow = (covered > 0.5).float().view(-1, 1, 1, 1)  # white under dark ink, black under light ink
    canvas = torch.lerp(canvas, shadow, 0.5 * functional.avg_pool2d(ink, 5, stride=1, padding=2)[:, None])
    return torch.lerp(canvas, colour[:, :, None, None], ink[:, None])
