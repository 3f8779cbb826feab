"""Every metric of a comparison by name: its function, and what a suite and a table have to know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.errors import InputError, unknown
from ibviz.extensions import check_signature, first_line, is_outside, load_outside
from ibviz.metrics.concentration import complexity, sparseness
from ibviz.metrics.curves import Faithfulness
from ibviz.metrics.localisation.energy import auroc, energy_pointing_game, top_cell_precision
from ibviz.metrics.localisation.pointing_game import pointing_game
from ibviz.metrics.score_drop import Drop, average_drop
from ibviz.types import Images, Labels, Maps, Masks, Score, Scores

ARROWS = {True: "↑", False: "↓"}


@dataclass(frozen=True)
class MetricInput:
    """What a metric is given: a batch of images, one method's maps of them, and the network that is explained."""

    model: nn.Module  # in eval mode
    images: Images
    targets: Labels  # the class that is judged, per image
    maps: Maps  # on their own grid
    cells: Float[Tensor, "b _ _"]  # the maps on the grid of the comparison
    regions: Masks  # pixels of the object, per image; empty if unknown
    probability: Score  # of the judged class, whatever score the curves are of
    batch_size: int  # the most masked images in one pass
    curves: Faithfulness | None = None  # None if no metric of the suite needs them

    @cached_property
    def dropped(self) -> Drop:
        """The effect of dimming the images by the maps, computed once for both metrics that need it."""
        return average_drop(self.probability, self.images, self.cells, batch_size=self.batch_size)

    @property
    def faithfulness(self) -> Faithfulness:
        """The curves, for metrics that need them."""
        assert self.curves is not None
        return self.curves


class MetricFacts(NamedTuple):
    """The name of a metric in a table, and which direction is better."""

    label: str
    higher_is_better: bool

    @property
    def sign(self) -> int:
        """1 if higher is better, otherwise -1."""
        return 1 if self.higher_is_better else -1

    @property
    def heading(self) -> str:
        """The label with an arrow that points to the better direction.

        >>> MetricFacts("Deletion", False).heading
        'Deletion ↓'
        """
        return f"{self.label} {ARROWS[self.higher_is_better]}"


class Metric(NamedTuple):
    """A function from a `MetricInput` to one number per image, NaN where it is not defined, and how a table shows it.

    `needs` says what a suite must have: "objects" are boxes or masks, "curves" the deletion and insertion curves.
    `spread` gives the deviation of the number between single tie orders, if that is known.
    """

    function: Callable[[MetricInput], Scores]
    label: str
    description: str
    higher_is_better: bool = True
    needs: Literal["maps", "objects", "curves"] = "maps"
    unit: str = "fraction"
    spread: Callable[[MetricInput], Scores] | None = None

    @property
    def facts(self) -> MetricFacts:
        """What a table has to know."""
        return MetricFacts(self.label, self.higher_is_better)


# The first of a table's metrics, in this order, is the one that verdicts and strata are printed for.
METRICS: dict[str, Metric] = {
    "srg": Metric(
        lambda given: given.faithfulness.srg,
        "SRG",
        "insertion minus deletion area; 0 for a random order",
        needs="curves",
        unit="score",
        spread=lambda given: given.faithfulness.srg_tie_sd,
    ),
    "deletion": Metric(
        lambda given: given.faithfulness.deletion_auc,
        "Deletion",
        "area under the score while the highest cells are removed first",
        higher_is_better=False,
        needs="curves",
        unit="score",
        spread=lambda given: given.faithfulness.deletion_tie_sd,
    ),
    "insertion": Metric(
        lambda given: given.faithfulness.insertion_auc,
        "Insertion",
        "area under the score while the highest cells are added first",
        needs="curves",
        unit="score",
        spread=lambda given: given.faithfulness.insertion_tie_sd,
    ),
    "pointing_game": Metric(
        lambda given: pointing_game(given.maps, given.regions).hit,
        "Pointing",
        "1 if the highest cell lies on or near the object, otherwise 0; the expected value if cells are tied",
        needs="objects",
    ),
    "energy_pointing_game": Metric(
        lambda given: energy_pointing_game(given.maps, given.regions).energy,
        "Energy",
        "share of the map's positive values that lies on the object",
        needs="objects",
    ),
    "energy_normalised": Metric(
        lambda given: energy_pointing_game(given.maps, given.regions).normalised,
        "Energy, normalised",
        "energy above the object's share of the image, relative to the most possible; 0 for a uniform map",
        needs="objects",
    ),
    "auroc": Metric(
        lambda given: auroc(given.maps, given.regions),
        "AUROC",
        "probability that a pixel of the object has a higher value than one of the background",
        needs="objects",
    ),
    "top_cell_precision": Metric(
        lambda given: top_cell_precision(given.cells, given.regions),
        "Top cells",
        "share of the pixels of the highest cell that lies on the object",
        needs="objects",
    ),
    "average_drop": Metric(
        lambda given: given.dropped.drop,
        "Average drop",
        "relative loss of probability when the image is dimmed by the map",
        higher_is_better=False,
    ),
    "confidence_increase": Metric(
        lambda given: given.dropped.increase,
        "Increase",
        "1 if the probability rises when the image is dimmed by the map, otherwise 0",
    ),
    "sparseness": Metric(
        lambda given: sparseness(given.cells), "Sparseness", "Gini index of the absolute values", unit="Gini index"
    ),
    "complexity": Metric(
        lambda given: complexity(given.cells),
        "Complexity",
        "entropy of the shares of the absolute values",
        higher_is_better=False,
        unit="nats",
    ),
}


def metric_of(name: str) -> Metric:
    """Return the metric of that name, or that of the user's own code: `file.py:name`, a `Metric` or a function.

    A function takes a `MetricInput` and returns one number per image; in tables it has its own name, and higher is
    better. Raises `InputError` for an unknown name, and for an object that cannot be called in this way.

    >>> metric_of("deletion").facts.heading
    'Deletion ↓'
    """
    if name in METRICS:
        return METRICS[name]
    if not is_outside(name):
        raise unknown("metric", name, list(METRICS))
    given = load_outside(name)
    if not isinstance(given, Metric):
        check_signature(name, given, least=1, most=1)
        given = Metric(given, name.rpartition(":")[2], first_line(given))
    return given


def measured(name: str, given: MetricInput) -> tuple[Scores, Scores]:
    """Return a metric's number per image and its deviation between tie orders, float32.

    Raises `InputError` if the metric returns anything but one number per image.
    """
    metric = metric_of(name)
    values = metric.function(given)
    if not isinstance(values, Tensor) or values.shape != given.targets.shape:
        came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(f"metric {name} gives {came}; expected a tensor of one number per image, {len(given.images)}")
    spread = torch.zeros_like(values) if metric.spread is None else metric.spread(given)
    return values, spread
