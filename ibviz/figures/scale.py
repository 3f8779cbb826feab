"""Colour scales of the rows of a panel; on one scale, equal values have equal colours."""

from typing import Any, NamedTuple
from warnings import warn

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from numpy.typing import NDArray

from ibviz.errors import unknown

FloatArray = NDArray[np.float64]

# Without the palest end, which is barely visible over a grey photograph.
SEQUENTIAL = ListedColormap(colormaps["inferno"](np.linspace(0, 0.92, 256)), name="inferno, 0 to 0.92")
DIVERGING = colormaps["RdBu_r"]
MINUS = "\u2212"  # the typographic minus sign, as wide as a plus
MISLEADING = (
    *("jet", "hsv", "rainbow", "gist_rainbow", "turbo", "nipy_spectral", "gist_ncar", "gist_stern", "prism", "flag"),
    *("brg", "terrain", "ocean", "twilight", "twilight_shifted"),
)
TWO_SIDED = (
    *("PiYG", "PRGn", "BrBG", "PuOr", "RdGy", "RdBu", "RdYlBu", "RdYlGn", "Spectral", "coolwarm", "bwr", "seismic"),
    *("berlin", "managua", "vanimo"),
)
ROBUST = 99.5  # percentile of |values| that limits a row with outliers
_ROUNDING = 1e-6  # fraction of the largest value below which negative values and differences count as rounding


class Scale(NamedTuple):
    """Colours of a row by value."""

    rule: str  # origin of the limits, in words
    norm: Normalize
    colours: Colormap
    limits: tuple[float, float]
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    strength: FloatArray  # of each colour, from 0 to 1: distance of its value from zero or from the least value
    extend: str = "neither"  # ends at which values lie beyond the limits, as matplotlib names them
    remarks: tuple[str, ...] = ()  # shown beside the label
    levels: tuple[float, ...] = ()  # anchor values in ascending order, if any

    def mark(self, value: float) -> float:
        """Position on the bar of the boundary at `value`: the value itself, or the edge of the next anchor's segment.

        >>> anchor_scale(np.array([0.0, 0.1, 1.0])).mark(0.5)
        0.55
        """
        if not self.levels:
            return value
        assert isinstance(self.norm, BoundaryNorm)
        return float(self.norm.boundaries[np.searchsorted(self.levels, value)])

    def account(self) -> dict[str, Any]:
        """Return the facts of the scale for the sidecar."""
        return {"scale": self.rule, "limits": self.limits, "colours": self.colours.name, "extend": self.extend}


def anchor_scale(anchors: FloatArray, limits: tuple[float, float] | None = None) -> Scale:
    """Return one colour per distinct anchor, by its value between `limits`, by default the least and greatest anchor.

    >>> anchor_scale(np.array([0.9, 0.1, 0.1])).labels
    ('0.10', '0.90')
    """
    levels = np.unique(anchors)
    low, high = limits or (float(levels[0]), float(levels[-1]))
    strength = ((levels - low) / (high - low)).clip(0, 1) if high > low else np.array([0.5])
    edges = _edges(levels)
    middles = (edges[:-1] + edges[1:]) / 2  # in the middle of the segments of a uniform bar
    norm = BoundaryNorm(edges, len(levels))
    colours = ListedColormap(SEQUENTIAL(strength), name=SEQUENTIAL.name)
    rule = "anchors" if limits is None else "anchors, limits as asked for"
    ticks, known = tuple(middles.tolist()), tuple(levels.tolist())
    return Scale(rule, norm, colours, (low, high), ticks, level_labels(levels), strength, levels=known)


def fixed_scale(limits: tuple[float, float], values: FloatArray) -> Scale:
    """Return a scale with the given limits, diverging if they are symmetric, with arrows if `values` lie beyond.

    >>> fixed_scale((-1.0, 1.0), np.array([0.5, 3.0])).extend
    'max'
    """
    low, high = limits
    below, above = values.min() < low, values.max() > high
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (bool(below), bool(above)), "neither"
    )
    return _even("as asked for", DIVERGING if low == -high else SEQUENTIAL, limits)._replace(extend=extend)


def _edges(levels: FloatArray) -> FloatArray:
    inner = (levels[:-1] + levels[1:]) / 2
    first, last = (levels[1] - levels[0], levels[-1] - levels[-2]) if len(levels) > 1 else (1.0, 1.0)
    return np.concatenate([levels[:1] - first / 2, inner, levels[-1:] + last / 2])


def attention_scale(values: FloatArray) -> Scale:
    """Return the scale of continuous attention: 0 to 1, or its least to its greatest value if it exceeds them.

    >>> attention_scale(np.array([0.2, 0.7])).limits, attention_scale(np.array([0.2, 1.7])).limits
    ((0.0, 1.0), (0.2, 1.7))
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return _even("fixed to 0 and 1", SEQUENTIAL, (0.0, 1.0))
    if is_constant(values):  # its rounding would fill the scale
        return _even("from zero to the constant", SEQUENTIAL, (min(low, 0.0), max(high, 0.0)))
    return _even("least to greatest", SEQUENTIAL, (low, high))


def is_constant(values: FloatArray) -> bool:
    """Return True if all values are the same up to rounding.

    >>> is_constant(np.array([7.0, 7.000001])), is_constant(np.array([0.0, 1e-9]))
    (True, False)
    """
    return bool(np.ptp(values) <= _ROUNDING * np.abs(values).max())


def least_scale(values: FloatArray) -> Scale:
    """Return the scale of a map whose zero has no meaning: its least to its greatest value, which the row says.

    >>> least_scale(np.array([3.0, 4.0])).limits
    (3.0, 4.0)
    """
    scale = _even("least to greatest", SEQUENTIAL, (float(values.min()), float(values.max())))
    return scale._replace(remarks=("not\u00a0from\u00a00",))


def map_scale(values: FloatArray, *, robust: bool = False, limit: float | None = None) -> Scale:
    """Return the scale of a map: zero to its greatest value, or symmetric about zero if a value is negative.

    The scale ends at the percentile `limit` of |values|, and the bar then has arrows. Without one, a `robust` scale of
    a row with outliers ends at percentile 99.5.

    >>> map_scale(np.array([0.0, 4.0])).limits, map_scale(np.array([-3.0, 1.0])).limits
    ((0.0, 4.0), (-3.0, 3.0))
    """
    top = float(np.abs(values).max())
    if top == 0:
        return _even("all values are zero", SEQUENTIAL, (0.0, 1.0))._replace(remarks=("all zero",))
    share = limit or ROBUST
    inner = float(np.percentile(np.abs(values), share)) if robust or limit else 0.0
    signed, cut = values.min() < -_ROUNDING * top, 0 < inner < (top if limit else top / 2)
    end = inner if cut else top
    scale = _signed(end) if signed else _even("zero to greatest", SEQUENTIAL, (0.0, end))
    return _cut(scale, "both" if signed else "max", share) if cut else scale


def _signed(limit: float) -> Scale:
    return _even("symmetric about zero", DIVERGING, (-limit, limit))


def _cut(scale: Scale, extend: str, share: float) -> Scale:
    rule = f"{scale.rule}, limit at {share:g} % of |values|"
    return scale._replace(rule=rule, extend=extend, remarks=(f"limit {share:g}\u00a0%",))


def unit_scale(values: FloatArray, *, signed: bool) -> Scale:
    """Return the scale that is the same in every figure: 0 to 1, or -1 to 1 for signed values.

    >>> unit_scale(np.array([0.5, 3.0]), signed=False).extend
    'max'
    """
    scale = fixed_scale((-1.0 if signed else 0.0, 1.0), values)
    return scale._replace(rule=f"fixed to {scale.labels[0]} and 1", remarks=("fixed scale",))


def own_scale(*, signed: bool, from_least: bool) -> Scale:
    """Return the scale of images of which each has been divided by its own greatest |value|, or stretched to 0 and 1.

    >>> own_scale(signed=False, from_least=True).labels
    ('min', '', 'max')
    """
    ends = ("min" if from_least else "0", "", "max")
    scale = _even("each image its own", DIVERGING if signed else SEQUENTIAL, (-1.0 if signed else 0.0, 1.0))
    labels = (f"{MINUS}max", "0", "max") if signed else ends
    return scale._replace(labels=labels, remarks=("scale per image",))


def check_colours(name: str) -> str:
    """Raise `InputError` for an unknown colour map, and warn of one whose lightness rises and falls.

    >>> check_colours("viridis")
    'viridis'
    """
    if name not in colormaps:
        raise unknown("colour map", name, [known for known in colormaps if not known.endswith("_r")])
    if name.removesuffix("_r") in MISLEADING:
        warn(
            f"{name} shows edges where the values have none, for its lightness rises and falls; inferno, viridis, "
            "magma, cividis and gray do not",
            UserWarning,
            stacklevel=3,
        )
    return name


def recoloured(scale: Scale, name: str) -> Scale:
    """Return a scale in another colour map: a diverging one for a signed scale, any other for an unsigned one.

    >>> recoloured(map_scale(np.array([0.0, 4.0])), "viridis").colours.name
    'viridis'
    """
    signed, diverging = scale.colours is DIVERGING, name.removesuffix("_r") in TWO_SIDED
    if signed != diverging:
        return scale
    chosen = colormaps[name]
    colours = ListedColormap(chosen(scale.strength), name=name) if scale.levels else chosen.resampled(scale.colours.N)
    return scale._replace(colours=colours)


def _even(rule: str, colours: Colormap, limits: tuple[float, float]) -> Scale:
    ticks = (limits[0], sum(limits) / 2, limits[1])
    shares = np.linspace(0, 1, colours.N)
    strength = np.abs(2 * shares - 1) if colours is DIVERGING else shares
    return Scale(rule, Normalize(*limits), colours, limits, ticks, tuple(map(short, ticks)), strength)


def short(value: float) -> str:
    """Format a number with two significant digits, or as an integer of three to five digits.

    >>> short(0.01234), short(0.0), short(156.4), short(3e6), short(-1e-5) == f"{MINUS}1e{MINUS}5"
    ('0.012', '0', '156', '3e6', True)
    """
    whole = 99.5 <= abs(value) < 99_999.5
    return f"{value:{'.0f' if whole else '.2g'}}".replace("e-0", "e-").replace("e+0", "e").replace("-", MINUS)


def level_labels(levels: FloatArray) -> tuple[str, ...]:
    """Format anchor values with as many decimals as tell them apart, from two to five.

    >>> level_labels(np.array([0.5, 0.501]))
    ('0.500', '0.501')
    """
    texts: tuple[str, ...] = ()
    for decimals in range(2, 6):
        texts = tuple(f"{level:.{decimals}f}".replace("-", MINUS) for level in levels)
        if len(set(texts)) == len(texts):
            break
    return texts


def thinned(labels: tuple[str, ...], room: int) -> list[str]:
    """Replace labels evenly by blanks, but never the first or last, until at most `room` are left.

    >>> thinned(("a", "b", "c", "d", "e", "f"), 4)
    ['a', '', 'c', '', '', 'f']
    """
    last = len(labels) - 1
    step = max(1, -(-last // max(1, room - 1)))
    kept = {place for place in range(0, last, step) if last - place >= step} | {0, last}
    return [label if place in kept else "" for place, label in enumerate(labels)]
