"""Protocols of curves: all choices that change the numbers, with a short hash that is stored beside them."""

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WrapValidator, model_validator

from ibviz.errors import InputError, unknown
from ibviz.heads import Head
from ibviz.metrics.baselines import BASELINES
from ibviz.metrics.localisation.pointing_game import POINTING_PRESETS
from ibviz.metrics.score import ScoreName, TargetRule
from ibviz.metrics.ties import TieRule
from ibviz.settings import Count, Settings, name_in
from ibviz.types import Grid

Brightness = Annotated[float, Field(ge=0, le=1)]
_Side = Annotated[int, Field(ge=1)]
_Colour = Annotated[tuple[Brightness, ...], Field(min_length=1)]

BaselineName = Annotated[str, name_in("baseline", lambda: BASELINES, outside=True)]

ADAPTIVE = "adaptive"
FINEST = 32  # even steps from which adaptive ones are chosen


def _steps(given: Any, check: Callable[[Any], "int | str"]) -> "int | str":
    """Return the number of steps or "adaptive"; one error for both in place of one for each."""
    try:
        return check(given)
    except ValidationError as error:
        wanted = "expected a whole number from 1 on" if isinstance(given, str) else error.errors()[0]["msg"]
        raise ValueError(f"{wanted}, or {ADAPTIVE!r}; got {given!r}") from None


Steps = Annotated[Count | Literal["adaptive"], WrapValidator(_steps)]
Tolerance = Annotated[float, Field(gt=0)]


class CurveProtocol(Settings):
    """The settings of deletion and insertion curves, one per comparison.

    >>> protocol = CurveProtocol(colour=(0.5, 0.5, 0.5), grid=(8, 8))
    >>> protocol.hash == protocol.model_copy(update={"batch_size": 7}).hash
    True
    """

    version: Literal[2] = 2  # of the implementation; raised with any change of numbers
    space: Literal["pixels"] = "pixels"  # removed pixels are replaced in [0, 1], before the normalisation
    baseline: BaselineName = "mean_colour"  # values of removed pixels
    insertion_baseline: BaselineName | None = None  # None: the same, which SRG needs to be meaningful
    colour: _Colour  # mean of the network's training data, per channel
    unit: Literal["cell", "pixel"] = "cell"  # the unit of removal
    grid: tuple[_Side, _Side] | None = None  # rows, columns of the maps' common grid; None: each map's own
    enlargement: Literal["nearest", "bilinear"] = "nearest"  # from the grid to pixels, if the unit is pixels
    cuts: Literal["even", "floor", "stride", "stride_after", "stride_between", "rounded"] = "even"
    steps: Steps = FINEST  # number of fractions after the first; for strides: cells per step; or "adaptive"
    tolerance: Tolerance = 0.01  # bound of an area's error by adaptive steps if its curve is monotone, in the score
    area: Literal["fractions", "even", "points", "count", "mean"] = "fractions"  # how a curve becomes a number
    second: Literal["insertion", "lerf"] = "insertion"  # lerf: removal, least relevant first
    ties: TieRule = "expected"  # random orders, level by level, row by row, or row by row backwards
    orders: int = Field(default=8, ge=2, multiple_of=2)  # number of random orders, in reversed pairs
    seed: int = 0  # of tie orders and of noise in a baseline
    score: ScoreName = "probability"
    head: Literal["softmax", "sigmoid"] | None = "softmax"  # of the network; None: outputs are not probabilities
    target: TargetRule | Literal["given"] = "predicted"  # "given": classes chosen by the caller
    precision: Literal["float32", "bfloat16"] = "float32"  # of the network; ranks and areas are always float32
    batch_size: int | None = Field(default=None, ge=1)  # masked images per pass; None: chosen by the caller

    @model_validator(mode="after")
    def _consistent(self) -> "CurveProtocol":
        if self.ties == "group" and (self.cuts, self.area) != ("even", "fractions"):
            raise ValueError(
                "ties = 'group' reads whole levels: it goes with cuts = 'even' and area = 'fractions' only"
            )
        if self.steps == ADAPTIVE and (self.ties == "group" or (self.cuts, self.area) != ("even", "fractions")):
            raise ValueError(
                "steps = 'adaptive' goes with cuts = 'even', area = 'fractions' and ties = 'expected', 'index' or "
                f"'reverse'; got {self.cuts!r}, {self.area!r} and {self.ties!r}"
            )
        return self

    def on(self, grid: Grid) -> "CurveProtocol":
        """Return the protocol with a grid, if cells are removed and it has none; pixels need no grid.

        >>> CurveProtocol(colour=(0.5, 0.5, 0.5)).on((8, 8)).grid
        (8, 8)
        """
        return self.model_copy(update={"grid": grid}) if self.grid is None and self.unit == "cell" else self

    def judging(self, head: Head) -> "CurveProtocol":
        """Return the protocol with the head of a network; outputs without a probability are scored as logits.

        >>> from ibviz.heads import find_head
        >>> CurveProtocol(colour=(0.5,)).judging(find_head("none")).score
        'logit'
        """
        plain = not head.has_probability and self.score == "probability"
        name = head.name if head.has_probability else None
        return self.model_copy(update={"head": name} | ({"score": "logit"} if plain else {}))

    @property
    def baselines(self) -> tuple[BaselineName, BaselineName]:
        """The baselines of deletion and insertion."""
        return self.baseline, self.insertion_baseline or self.baseline

    @property
    def most_steps(self) -> int:
        """The number of steps; of adaptive ones, how many there are to choose from."""
        return FINEST if self.steps == ADAPTIVE else int(self.steps)

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits of the SHA-256 of all choices that change numbers."""
        return digest(self.model_dump(mode="json", exclude=self._idle()))

    def _idle(self) -> set[str]:
        """Return the fields that cannot change a number, given the others."""
        idle = {"batch_size"}
        if self.head == "softmax":
            idle |= {"head"}
        if self.ties == "group":
            idle |= {"cuts", "steps"}
        if self.steps != ADAPTIVE:
            idle |= {"tolerance"}
        if self.ties != "expected":
            idle |= {"orders"}
            idle |= set() if self._asks_for("seed") else {"seed"}
        if self.unit == "cell":
            idle |= {"enlargement"}
        if not self._asks_for("colour"):
            idle |= {"colour"}
        if self.baselines[0] == self.baselines[1]:
            idle |= {"insertion_baseline"}
        return idle

    def _asks_for(self, name: str) -> bool:
        """Return True if a baseline may use a choice; baselines from the user's code always may."""
        return any(baseline not in BASELINES or BASELINES[baseline].takes(name) for baseline in self.baselines)


# The settings of other programs, as in their code, within what masks of whole pixels can express. RISE and Xplique sort
# in ascending order and flip, so ties are reversed; the others sort in descending order. If a program uses an unstable
# sort or `topk`, its order of ties depends on the machine; the stable order is used here instead. Zero after the
# normalisation is the mean colour. Xplique lets the user choose baseline and score; 0 and the probability are usual.
PRESETS: dict[str, dict[str, object]] = {
    "default": {},
    "rise": {"insertion_baseline": "blur_rise", "cuts": "stride", "area": "even", "ties": "reverse"},
    "torchcam": {"cuts": "stride", "ties": "index"},
    "quantus": {"baseline": "image_minimum", "cuts": "stride_after", "area": "count", "ties": "index"},
    "xplique": {"cuts": "floor", "steps": 10, "area": "even", "ties": "reverse"},
    "latec": {"insertion_baseline": "blur_latec", "cuts": "stride_between", "area": "points", "ties": "index"},
    "iba": {
        "baseline": "image_mean",
        "cuts": "rounded",
        "steps": 100,
        "area": "mean",
        "second": "lerf",
        "ties": "index",
    },
}


PresetName = Annotated[str, name_in("preset", lambda: PRESETS)]


def preset(name: str, size: Grid, colour: tuple[float, ...], *, grid: Grid | None = None) -> CurveProtocol:
    """Return the protocol of that name.

    A step is a row of pixels for RISE and Quantus (224 in their examples), 50 pixels for LATEC and a 20th of the image
    for TorchCAM; IBA removes tiles of 8 x 8 pixels. Quantus ranks the channels of a pixel separately; for maps that are
    equal in all channels, three times as many features per step give the same curve. TorchRay has no curves; its
    pointing game is one of `ibviz.metrics.POINTING_PRESETS`.

    Args:
        name: One of `PRESETS`.
        size: Rows and columns of the images, in pixels.
        colour: The mean colour of the network's training data, in [0, 1].
        grid: The grid of the comparison, which only "default" uses.

    Raises:
        InputError: The name is unknown, or that of a pointing game.

    >>> preset("torchcam", (32, 32), (0.5, 0.5, 0.5)).steps
    52
    """
    if name in POINTING_PRESETS and name not in PRESETS:
        raise InputError(
            f"{name!r} is a rule of the pointing game and has no curves: use ibviz.metrics.POINTING_PRESETS[{name!r}] "
            f"with maps and the regions of their objects, or one of {', '.join(sorted(PRESETS))}"
        )
    if name not in PRESETS:
        raise unknown("preset", name, list(PRESETS))
    strides = {"rise": size[1], "quantus": size[1], "latec": 50, "torchcam": -(-size[0] * size[1] // 20)}
    places: dict[str, dict[str, object]] = {
        "default": {"grid": grid},
        "torchcam": {"unit": "pixel", "enlargement": "bilinear"},
        "iba": {"grid": (max(1, size[0] // 8), max(1, size[1] // 8))},
    }
    steps = {"steps": strides[name]} if name in strides else {}
    return CurveProtocol.model_validate(
        {"colour": colour} | PRESETS[name] | steps | places.get(name, {"unit": "pixel"})
    )


class Card(Settings):
    """A protocol with hashes of data, weights and code, which tell if two numbers are of the same measurement.

    >>> protocol = CurveProtocol(colour=(0.5, 0.5, 0.5))
    >>> Card(protocol=protocol, data="1f", weights="2e", versions={"torch": "2.11"}).hash.startswith(protocol.hash)
    True
    """

    protocol: CurveProtocol
    data: str  # hash of the images and targets
    weights: str  # hash of the network
    code: dict[str, str] = Field(default_factory=dict)  # hash of the code behind each name from outside ibviz
    versions: dict[str, str]  # recorded, but not part of the hash

    @property
    def hash(self) -> str:
        """The eight digits of the protocol, then four for data, weights and outside code."""
        rest = [self.data, self.weights, *([self.code] if self.code else [])]
        return f"{self.protocol.hash}-{digest(rest)[:4]}"


def digest(content: object) -> str:
    """Return eight hexadecimal digits of the SHA-256 of a value that JSON can hold.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
