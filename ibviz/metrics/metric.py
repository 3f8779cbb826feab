"""The record of a metric, what it is given, and what a table has to know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from ibviz.metrics.curves import Faithfulness
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
