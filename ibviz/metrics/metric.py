"""The record of a metric, its input, and the properties that tables need."""

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
    """The input of a metric: a batch of images, the maps of one method, and the network that is explained."""

    model: nn.Module  # in eval mode
    images: Images
    targets: Labels  # the judged class, per image
    maps: Maps  # on their own grid
    cells: Float[Tensor, "b _ _"]  # the maps on the grid of the comparison
    regions: Masks  # pixels of the object, per image; empty if unknown
    probability: Score  # of the judged class, regardless of the score of the curves
    batch_size: int  # the largest number of masked images per pass
    curves: Faithfulness | None = None  # None if no metric of the suite needs them

    @cached_property
    def dropped(self) -> Drop:
        """The effect of dimming the images by the maps, computed once for both metrics that need it."""
        return average_drop(self.probability, self.images, self.cells, batch_size=self.batch_size)

    @property
    def faithfulness(self) -> Faithfulness:
        """The curves, for metrics with `needs="curves"`."""
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
    """A function from a `MetricInput` to one number per image, NaN if undefined, and its properties for tables.

    `needs` names a requirement: "objects" stands for boxes or masks, "curves" for deletion and insertion curves.
    `spread` returns the standard deviation of the number between tie orders, if that is known.
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
        """The properties that tables need."""
        return MetricFacts(self.label, self.higher_is_better)
