"""What a report is made of: words, numbers and arrays, and no model."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from ibviz.figures.rows import RowMaps
from ibviz.statistics import Estimate

Numbers: TypeAlias = Sequence[float] | NDArray[np.float64]


class Line(NamedTuple):
    """One method of a table, its estimates by the headings of their columns."""

    method: str
    control: bool
    estimates: Mapping[str, Estimate]
    rank: int | None = None
    words: str = ""  # what may be said of it beside the others


class Band(NamedTuple):
    """Mean curve of a method with the 95 % interval around it, all of one length."""

    fractions: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers


class Comparison(NamedTuple):
    """Methods judged on one model under one protocol; `values` are those of the pictures shown, NaN where undefined."""

    model: str
    protocol: str
    card: Mapping[str, Any]
    lines: Sequence[Line]
    curves: Mapping[str, Mapping[str, Band]]  # by side, as "deletion", then by method
    values: Mapping[str, Mapping[str, Numbers]]  # by method, then by heading
    notes: Sequence[str] = ()
    score: str = "probability"  # that the curves are of


class Picture(NamedTuple):
    """A photograph that the report shows; `box` is x0, y0, x1, y1 in its pixels."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    label: str | None = None
    box: Sequence[float] | None = None


class Prediction(NamedTuple):
    """What a model says to a picture; `correct` is None where the truth is unknown."""

    name: str
    probability: float
    correct: bool | None = None


class Effect(NamedTuple):
    """What an intervention on each anchor did, in the order of the anchor table; NaN where no cell has the anchor."""

    what: str
    estimates: Sequence[Estimate]


class Subject(NamedTuple):
    """A model, what it says to each picture, and the maps of each method, one for each picture."""

    predictions: Sequence[Prediction]
    maps: Mapping[str, RowMaps]
    effects: Mapping[str, Effect] = {}  # of methods with anchors


class Report(NamedTuple):
    """All that a page tells; every comparison names one of `models`."""

    title: str
    lead: str  # what was judged, in a sentence
    pictures: Sequence[Picture]
    models: Mapping[str, Subject]
    comparisons: Sequence[Comparison]
    circumstances: Mapping[str, Any] = {}
    failures: Sequence[str] = ()
    left_out: Sequence[str] = ()
