"""torchmetrics classes for the metrics of this package: they accumulate over batches and processes, and run no network.

`update` takes keyword arguments, so that one `MetricCollection` serves all: `collection.update(deletion=curve,
insertion=curve, maps=maps, regions=regions, boxes=boxes)`. States are sums, whose memory is independent of the number
of images; `reduction="none"` keeps one value per image instead. Images without a defined value are left out and
counted in `excluded`.

Areas are those under the given curves, over their own fractions. `Faithfulness` has the mean of the areas of single tie
orders by the rule of its protocol, which is the same unless cells differ in size or the protocol names another rule.
"""

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ibviz.errors import InputError
from ibviz.metrics.curves import Curve, trapezoid
from ibviz.metrics.grid import Enlargement
from ibviz.metrics.localisation.boxes import DELTAS, THRESHOLD_COUNT, Contours, box_accuracy, box_hits, overlaps
from ibviz.metrics.localisation.energy import energy_pointing_game
from ibviz.metrics.localisation.pointing_game import pointing_game
from ibviz.types import Grid, Maps, Masks, Scores

Reduction = Literal["mean", "none"]


class _PerImage(Metric, ABC):
    """Mean over images, or the value of each; the names of its states contain the metric's name and options.

    Metrics of a torchmetrics collection whose states have equal names and values after the first batch share them from
    then on. Deletion and insertion of a uniform map are equal, so their states need different names.
    """

    is_differentiable: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    full_state_update: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    higher_is_better: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]
    plot_lower_bound: ClassVar[float] = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]
    plot_upper_bound: ClassVar[float] = 1.0  # pyright: ignore[reportIncompatibleVariableOverride]
    excluded: Int[Tensor, ""]

    def __new__(cls, *given: object, **options: object) -> Any:
        """Raise `InputError` for a network or a tensor given in place of options."""
        del options  # for `__init__`
        if given and not isinstance(given[0], str):  # torchmetrics passes a name when it copies a metric
            raise InputError(
                f"{cls.__name__} takes no {type(given[0]).__name__}: it runs no network, but sums up what "
                "`update` is given, such as curves of ibviz.metrics.faithfulness; to judge maps of a "
                "network, ibviz.evaluate"
            )
        return super().__new__(cls)

    def __init__(self, *, reduction: Reduction = "mean", options: tuple[object, ...] = ()) -> None:
        super().__init__()
        self.reduction, self.name = reduction, _named(type(self).__name__.lower(), *options)
        if reduction == "none":
            self.add_state(f"{self.name}_values", [], dist_reduce_fx="cat")
        else:
            self.add_state(f"{self.name}_sum", torch.zeros(()), dist_reduce_fx="sum")
            self.add_state(f"{self.name}_n", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("excluded", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def _add(self, values: Scores) -> None:
        self.excluded += values.isnan().sum()
        if self.reduction == "none":
            getattr(self, f"{self.name}_values").append(values)
        else:
            setattr(self, f"{self.name}_sum", getattr(self, f"{self.name}_sum") + values.nansum())
            setattr(self, f"{self.name}_n", getattr(self, f"{self.name}_n") + (~values.isnan()).sum())

    def compute(self) -> Float[Tensor, "*b"]:
        """Return the mean over images with a defined value, NaN if there is none; or one value per image."""
        if self.reduction == "none":
            values = getattr(self, f"{self.name}_values")
            return dim_zero_cat(values) if len(values) else torch.zeros(0, device=self.device)
        return getattr(self, f"{self.name}_sum") / getattr(self, f"{self.name}_n")

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the computed value or the given values, as torchmetrics does."""
        return self._plot(val, ax)


class Deletion(_PerImage):
    """Area under the deletion curve; lower is better.

    >>> metric = Deletion()
    >>> metric.update(deletion=Curve(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])))
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = False

    def update(self, deletion: Curve) -> None:
        """Add the curves of a batch."""
        self._add(trapezoid(deletion))


class Insertion(_PerImage):
    """Area under the insertion curve; higher is better."""

    def update(self, insertion: Curve) -> None:
        """Add the curves of a batch."""
        self._add(trapezoid(insertion))


class SRG(_PerImage):
    """Insertion minus deletion from one baseline (Blücher 2024): 0 for a random order; higher is better."""

    plot_lower_bound = -1.0

    def update(self, deletion: Curve, insertion: Curve) -> None:
        """Add both curves of a batch, which have the same two end points if they have one baseline."""
        self._add(trapezoid(insertion) - trapezoid(deletion))


class PointingGame(_PerImage):
    """Mean expected hit of `ibviz.metrics.pointing_game`; higher is better."""

    def __init__(
        self, *, tolerance: float | None = None, enlargement: Enlargement = "nearest", reduction: Reduction = "mean"
    ) -> None:
        """Set the options of the function."""
        super().__init__(reduction=reduction, options=(tolerance, enlargement))
        self.tolerance = tolerance
        self.enlargement: Enlargement = enlargement

    def update(self, maps: Maps, regions: Masks) -> None:
        """Add a batch of maps and the regions of their objects."""
        self._add(pointing_game(maps, regions, tolerance=self.tolerance, enlargement=self.enlargement).hit)


class EnergyPointingGame(_PerImage):
    """Mean energy of `ibviz.metrics.energy_pointing_game`, chance-normalised on request; higher is better."""

    plot_lower_bound = -1.0

    def __init__(
        self, *, normalised: bool = False, enlargement: Enlargement = "nearest", reduction: Reduction = "mean"
    ) -> None:
        """Set the options of the function."""
        super().__init__(reduction=reduction, options=(normalised, enlargement))
        self.normalised = normalised
        self.enlargement: Enlargement = enlargement

    def update(self, maps: Maps, regions: Masks) -> None:
        """Add a batch of maps and the regions of their objects."""
        result = energy_pointing_game(maps, regions, enlargement=self.enlargement)
        self._add(result.normalised if self.normalised else result.energy)


class MaxBoxAcc(Metric):
    """`ibviz.metrics.max_box_acc` over batches, version 2 by default; higher is better.

    `chosen_on` is a metric with the same `deltas` that was updated with another split. Thresholds are the best ones on
    all images that it has seen, in all processes, by the time this metric is made. Without it only the oracle is
    defined.

    >>> boxes = [torch.tensor([[0.0, 0.0, 1.0, 1.0]])]
    >>> metric = MaxBoxAcc(size=(2, 2))
    >>> metric.update(maps=torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), boxes=boxes)
    >>> metric.compute()
    {'max_box_acc': tensor(nan), 'max_box_acc_oracle': tensor(1.)}
    """

    is_differentiable: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    full_state_update: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]
    higher_is_better: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]
    plot_lower_bound: ClassVar[float] = 0.0  # pyright: ignore[reportIncompatibleVariableOverride]
    plot_upper_bound: ClassVar[float] = 1.0  # pyright: ignore[reportIncompatibleVariableOverride]
    hits: Int[Tensor, "deltas thresholds"]
    others: Int[Tensor, "deltas thresholds"] | None
    excluded: Int[Tensor, ""]

    def __init__(
        self,
        *,
        size: Grid,
        deltas: Sequence[float] = DELTAS,
        contours: Contours = "all",
        enlargement: Enlargement = "bilinear",
        chosen_on: "MaxBoxAcc | None" = None,
    ) -> None:
        """Set the options of `overlaps` and `max_box_acc`.

        Args:
            size: Height and width of the images in pixels.
            deltas: Thresholds of intersection over union.
            contours: "all" contours of a map (version 2), or only the "largest" (version 1).
            enlargement: Interpolation from the map to pixels.
            chosen_on: Metric of another split that chooses the thresholds of the maps.

        Raises:
            InputError: If `chosen_on` has other deltas or has seen no image with a box.
        """
        super().__init__()
        self.size, self.deltas = size, deltas
        self.contours: Contours = contours
        self.enlargement: Enlargement = enlargement
        self.register_buffer("others", None if chosen_on is None else chosen_on._counted(deltas), persistent=False)
        self.add_state("hits", torch.zeros(len(deltas), THRESHOLD_COUNT, dtype=torch.long), dist_reduce_fx="sum")
        # Options in the name keep metrics of a collection apart, as in `_PerImage`.
        self.counter = _named("boxed", *size, *deltas, contours, enlargement)
        for name in (self.counter, "excluded"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def boxed(self) -> Int[Tensor, ""]:
        """Number of images with a box."""
        return getattr(self, self.counter)

    def _counted(self, deltas: Sequence[float]) -> Int[Tensor, "deltas thresholds"]:
        """Count hits over all processes, for another metric that chooses its thresholds by them."""
        if tuple(self.deltas) != tuple(deltas):
            raise InputError(f"expected a metric of deltas {tuple(deltas)} to choose on; got {tuple(self.deltas)}")
        with self.sync_context():
            hits, boxed = self.hits.clone(), int(self.boxed)
        if not boxed:
            raise InputError("the metric to choose thresholds on has seen no image with a box; update it first")
        return hits

    def update(self, maps: Maps, boxes: Sequence[Float[Tensor, "_ 4"]]) -> None:
        """Add a batch of maps and the boxes of each image as x0, y0, x1, y1 in pixels."""
        ious = overlaps(maps, boxes, self.size, contours=self.contours, enlargement=self.enlargement)
        missing = ious[:, 0].isnan().sum()
        self.hits += box_hits(ious, self.deltas)
        setattr(self, self.counter, self.boxed + len(ious) - missing)
        self.excluded += missing

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Return the accuracy at the chosen thresholds, NaN without `chosen_on`, and that of the oracle."""
        n = int(self.boxed)
        result = box_accuracy(self.hits, self.others, n=n, excluded=int(self.excluded))
        numbers = {"max_box_acc": result.accuracy, "max_box_acc_oracle": result.oracle}
        return {name: torch.tensor(value, device=self.device) for name, value in numbers.items()}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the computed value or the given values, as torchmetrics does."""
        return self._plot(val, ax)


def _named(*parts: object) -> str:
    """Join a metric's name and options to the name of a state.

    >>> _named("pointinggame", 0.5, "nearest")
    'pointinggame_0_5_nearest'
    """
    return "_".join(str(part).replace(".", "_") for part in parts)
