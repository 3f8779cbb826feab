"""The embedded data set: a handwritten digit hidden among strokes on a photograph, with the exact pixels it covers.

Nothing is downloaded: the digits come with scikit-learn, the photographs with scikit-image and scikit-learn. Ink of
digit and strokes follows one rule of colour and thickness, so only the shape at the right place tells the class.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from ibviz.data.image_set import ImageSet
from ibviz.data.listing import Split
from ibviz.errors import InputError
from ibviz.progress import progress
from ibviz.types import Boxes, Images, Labels, Masks, Pixels

Ink = Float[Tensor, "n 48 48"]  # opacity
Dots = Float[Tensor, "n s c"]  # one number for each candidate place of each stroke

SIDE = 48
CHUNK = 250  # images rendered at once; bounds the memory, changes no pixel
STROKES = 4  # at most; the first two are always there
PLACES = 10  # candidate places for each stroke
SPLITS: dict[Split, range] = {
    "train": range(14),
    "validation": range(14, 17),
    "test": range(17, 20),
}  # of every 20 digits
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": ("astronaut", "flower.jpg", "stereo_motorcycle", "hubble_deep_field", "retina"),
    "validation": ("rocket", "immunohistochemistry"),
    "test": ("chelsea", "china.jpg", "coffee"),
}
PHOTOGRAPH_HEIGHT = 144  # pixels, after which a crop of 48 to 108 becomes a canvas
LUMA = torch.tensor([0.299, 0.587, 0.114])


class Dice(NamedTuple):
    """Uniform [0, 1) numbers behind every choice, one row per image: row i does not depend on how many rows follow."""

    digit: Float64[Tensor, "n 6"]  # which, x, y, size, rotation, slant
    photograph: Float64[Tensor, "n 5"]  # which, x, y, scale, flip
    number: Float64[Tensor, "n 1"]  # of strokes
    strokes: Float64[Tensor, "n 4 3"]  # length, opening, thickness
    places: Float64[Tensor, "n 4 10 3"]  # x, y, direction
    colours: Float64[Tensor, "n 5 3"]  # hue, saturation, contrast of each stroke and, last, the digit


class Sources(NamedTuple):
    """What the scenes of one split are made of."""

    glyphs: tuple[Float[Tensor, "k 8 8"], ...]  # by class
    panorama: Images  # the photographs side by side
    edges: Float64[Tensor, " photographs+1"]  # where each begins, pixels


def digits(split: Split, *, count: int, seed: int) -> ImageSet:
    """Draw `count` scenes of 48 px with one digit each, its exact mask and tight box; image i has class i mod 10.

    Splits share no digit and no photograph, whatever the seed, though a writer may appear in several. An image depends
    on split, seed and its position alone.

    >>> scenes = digits("test", count=20, seed=0)
    >>> scenes.images.shape, scenes.labels[:4].tolist(), scenes.names[0]
    (torch.Size([20, 3, 48, 48]), [0, 1, 2, 3], 'test-00000')
    """
    if count < 1:
        raise InputError(f"digits needs a count of at least 1; got {count}")
    sources, labels = _sources(split), torch.arange(count) % 10
    dice, images = _roll(split, count, seed), torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    masks = torch.empty(count, SIDE, SIDE, dtype=torch.bool)
    for start in progress(range(0, count, CHUNK), f"drawing digits, {split}"):
        part = slice(start, start + CHUNK)
        images[part], masks[part] = _render(Dice(*(rolled[part] for rolled in dice)), labels[part], sources)
    names = tuple(f"{split}-{index:05d}" for index in range(count))
    return ImageSet(images, labels, tuple("0123456789"), names, masks, tight_boxes(masks))


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


def _roll(split: Split, count: int, seed: int) -> Dice:
    shapes = ((6,), (5,), (1,), (STROKES, 3), (STROKES, PLACES, 3), (STROKES + 1, 3))
    first = (seed * len(SPLITS) + list(SPLITS).index(split)) * len(shapes)
    generators = (torch.Generator().manual_seed(first + part) for part in range(len(shapes)))
    return Dice(
        *(
            torch.rand(count, *shape, generator=one, dtype=torch.float64)
            for shape, one in zip(shapes, generators, strict=True)
        )
    )


@cache  # small, and decoding the photographs takes a second
def _sources(split: Split) -> Sources:
    photographs = [_photograph(name) for name in PHOTOGRAPHS[split]]
    edges = torch.tensor([0, *(one.shape[-1] for one in photographs)], dtype=torch.float64).cumsum(0)
    return Sources(_glyphs(split), torch.cat(photographs, dim=-1), edges)


def _glyphs(split: Split) -> tuple[Tensor, ...]:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    values, labels = load_digits(return_X_y=True)
    glyphs = torch.from_numpy(values / 16).float().view(-1, 8, 8)
    of_class = (glyphs[torch.from_numpy(labels == digit)] for digit in range(10))
    return tuple(one[[index for index in range(len(one)) if index % 20 in SPLITS[split]]] for one in of_class)


def _photograph(name: str) -> Images:
    photograph = torch.from_numpy(np.array(_bundled(name)())[..., :3]).permute(2, 0, 1)[None].float() / 255
    size = (PHOTOGRAPH_HEIGHT, round(PHOTOGRAPH_HEIGHT * photograph.shape[3] / photograph.shape[2]))
    return functional.interpolate(photograph, size, mode="bilinear", antialias=True)


def _bundled(name: str) -> Callable[[], np.ndarray]:
    from skimage import data  # noqa: PLC0415 - slow to import
    from sklearn.datasets import load_sample_image  # noqa: PLC0415 - slow to import

    if name == "stereo_motorcycle":
        return lambda: data.stereo_motorcycle()[0]
    return (lambda: load_sample_image(name)) if name.endswith(".jpg") else getattr(data, name)


def _render(dice: Dice, labels: Labels, sources: Sources) -> tuple[Pixels, Masks]:
    canvas = _backgrounds(dice.photograph, sources)
    centre, size = _digit_place(dice.digit)
    for stroke, colour in zip(_strokes(dice, centre, size), dice.colours.unbind(1), strict=False):
        canvas = _paint(canvas, stroke, colour)
    ink = _digit_ink(dice.digit, _pick(dice.digit[:, 0], labels, sources.glyphs), centre, size)
    return (_paint(canvas, ink, dice.colours[:, -1]) * 255).round().byte(), ink > 0.5


def _between(dice: Float64[Tensor, "*n"], low: float, high: float) -> Float64[Tensor, "*n"]:
    return low + (high - low) * dice


def _backgrounds(dice: Float64[Tensor, "n 5"], sources: Sources) -> Float[Tensor, "n 3 48 48"]:
    which = (dice[:, 0] * (len(sources.edges) - 1)).long()
    half = _between(dice[:, 3], 24.0, 54.0)
    height, width = sources.panorama.shape[-2:]
    left, right = sources.edges[which] + half, sources.edges[which + 1] - half
    x = (left + dice[:, 1] * (right - left)) * 2 / width - 1
    y = (half + dice[:, 2] * (height - 2 * half)) * 2 / height - 1
    flip, zero = torch.where(dice[:, 4] < 0.5, -1, 1), torch.zeros_like(x)
    theta = torch.stack([flip * half * 2 / width, zero, x, zero, half * 2 / height, y], dim=1).view(-1, 2, 3)
    return _sample(sources.panorama.expand(len(dice), -1, -1, -1), theta, "bilinear")


def _sample(source: Tensor, theta: Float64[Tensor, "n 2 3"], mode: str) -> Tensor:
    grid = functional.affine_grid(theta.float(), [len(theta), 1, SIDE, SIDE], align_corners=False)
    return functional.grid_sample(source, grid, mode=mode, align_corners=False)


def _pick(dice: Float64[Tensor, " n"], labels: Labels, glyphs: tuple[Tensor, ...]) -> Float[Tensor, "n 8 8"]:
    pairs = zip(dice.tolist(), labels.tolist(), strict=True)
    return torch.stack([glyphs[label][int(one * len(glyphs[label]))] for one, label in pairs])


def _digit_place(dice: Float64[Tensor, "n 6"]) -> tuple[Float64[Tensor, "n 2"], Float64[Tensor, " n"]]:
    size = _between(dice[:, 3], 18.0, 27.0)  # of the 8 rows; ink fills about nine tenths
    margin = size / 2 + 1
    return margin[:, None] + dice[:, 1:3] * (SIDE - 2 * margin)[:, None], size


def _digit_ink(
    dice: Float64[Tensor, "n 6"],
    glyphs: Float[Tensor, "n 8 8"],
    centre: Float64[Tensor, "n 2"],
    size: Float64[Tensor, " n"],
) -> Ink:
    angle, slant = _between(dice[:, 4], -0.2, 0.2), _between(dice[:, 5], -0.2, 0.2)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos + slant * sin, sin - slant * cos, -sin, cos], dim=1).view(-1, 2, 2)
    shift = turn @ (SIDE / 2 - centre)[:, :, None]
    theta = torch.cat([turn * SIDE / 2, shift], dim=2) * 2 / size[:, None, None]
    coverage = _sample(glyphs[:, None], theta, "bicubic").squeeze(1)
    bold = glyphs.mean((1, 2)).view(-1, 1, 1)  # some pens were wide: their ink is cut off at a higher level
    level = (0.5 + 1.5 * (bold - 0.3)).clamp(0.45, 0.75)
    return (0.5 + 3.0 * (coverage - level)).clamp(0, 1)  # a steep edge: as sharp as the strokes'


def _strokes(dice: Dice, centre: Float64[Tensor, "n 2"], size: Float64[Tensor, " n"]) -> list[Ink]:
    """Arcs from nearly straight to open half circles, beside the digit."""
    length, opening = _between(dice.strokes[..., 0], 9.0, 18.0), _between(dice.strokes[..., 1], 0.05, 1.5)
    thickness = _between(dice.strokes[..., 2], 1.2, 2.0)
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
    places = torch.cat([_between(dice[..., :2], 3.0, SIDE - 3.0), 2 * torch.pi * dice[..., 2:]], dim=-1)
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
    step = _between(dice[:, 2], 0.42, 0.6)
    target = torch.where(covered > 0.5, covered - step, covered + step).clamp(0.03, 0.97)
    colour = _coloured(dice[:, 0], _between(dice[:, 1], 0.4, 1.0), target).float()
    shadow = (covered > 0.5).float().view(-1, 1, 1, 1)  # white under dark ink, black under light ink
    canvas = torch.lerp(canvas, shadow, 0.5 * functional.avg_pool2d(ink, 5, stride=1, padding=2)[:, None])
    return torch.lerp(canvas, colour[:, :, None, None], ink[:, None])


def _coloured(
    hue: Float64[Tensor, " n"], saturation: Float64[Tensor, " n"], luma: Float64[Tensor, " n"]
) -> Float64[Tensor, "n 3"]:
    """Colour of exactly this luma: the pure hue mixed with white or black, then with its grey."""
    pure = (((hue[:, None] * 6 + torch.tensor([0, 4, 2])) % 6 - 3).abs() - 1).clamp(0, 1)
    own, luma = (pure * LUMA).sum(1, keepdim=True), luma[:, None]
    mixed = torch.where(luma < own, pure * luma / own, 1 - (1 - pure) * (1 - luma) / (1 - own))
    return luma + saturation[:, None] * (mixed - luma)
