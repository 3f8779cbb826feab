"""Contents of a report: text, numbers and arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from ibviz.figures.panel_rows import RowMaps
from ibviz.statistics import Estimate

Floats: TypeAlias = Sequence[float] | NDArray[np.float64]


class TableLine(NamedTuple):
    """Row of a table: one method."""

    method: str
    control: bool
    estimates: Mapping[str, Estimate]  # by heading of the column
    rank: int | None = None
    words: str = ""  # verdict against the other methods


class Band(NamedTuple):
    """Mean curve of a method with its 95 % interval; all fields have one length."""

    fractions: Floats
    mean: Floats
    low: Floats
    high: Floats


class ReportComparison(NamedTuple):
    """Methods compared on one model under one protocol."""

    model: str
    protocol: str
    card: Mapping[str, Any]
    lines: Sequence[TableLine]
    curves: Mapping[str, Mapping[str, Band]]  # by side, such as "deletion", then by method
    values: Mapping[str, Mapping[str, Floats]]  # of each picture, by method, then by heading; NaN if undefined
    notes: Sequence[str] = ()
    score: str = "probability"  # vertical axis of the curves


class Picture(NamedTuple):
    """Photograph of a report."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    label: str | None = None
    box: Sequence[float] | None = None  # x0, y0, x1, y1 in pixels


class Prediction(NamedTuple):
    """Prediction of a model for a picture."""

    name: str
    probability: float
    correct: bool | None = None  # None if the true class is unknown


class Effect(NamedTuple):
    """Effect of an intervention on each anchor."""

    what: str  # what was measured, in words
    estimates: Sequence[Estimate]  # in the order of the anchor table; NaN if no cell has the anchor


class ReportModel(NamedTuple):
    """A model, its predictions and its maps, one per picture."""

    predictions: Sequence[Prediction]
    maps: Mapping[str, RowMaps]  # by method
    effects: Mapping[str, Effect] = {}  # of methods with anchors
    from_least: Sequence[str] = ()  # methods in whose maps zero has no meaning


class Report(NamedTuple):
    """Contents of a report; every comparison names one of `models`."""

    title: str
    lead: str  # one sentence that says what was compared
    pictures: Sequence[Picture]
    models: Mapping[str, ReportModel]  # by name
    comparisons: Sequence[ReportComparison]
    circumstances: Mapping[str, Any] = {}
    failures: Sequence[str] = ()
    left_out: Sequence[str] = ()
