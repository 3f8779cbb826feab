"""The record of a row, the two kinds of case, and what a case is told about the run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal, NamedTuple

import torch

Role = Literal["ours", "rival", "limit"]
Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One contestant of a case: its times, and how they compare with ours.

    In a growth case `size` is what grows, and in a case of samplers the number of passes; `error` is then the error
    that was reached. A contestant that cannot run has no seconds and says why in `note`.
    """

    case: str
    contestant: str
    role: Role
    network: str = ""
    seconds: list[float] = field(default_factory=list)  # of each round
    work: float = 1.0  # units of work in one call
    unit: str = "call"
    ratio: list[float] = field(default_factory=list)  # time per unit over ours, in each round; above 1 ours is faster
    size: float | None = None
    error: float | None = None
    memory: float | None = None  # MiB at the peak of a process
    note: str = ""

    @property
    def failed(self) -> bool:
        """True if nothing was measured."""
        return not (self.seconds or self.ratio)

    @property
    def middle(self) -> float:
        """The median of the seconds; NaN if there are none."""
        return median(self.seconds) if self.seconds else float("nan")

    @property
    def least(self) -> float:
        """The least of the seconds; NaN if there are none."""
        return min(self.seconds, default=float("nan"))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Contestant(NamedTuple):
    """A way to do the work of a case."""

    name: str
    role: Role
    run: Run
    work: float = 1.0  # units of work in one call
    note: str = ""


class Settings(NamedTuple):
    """What the command line chooses for every case."""

    device: torch.device = torch.device("cpu")
    images: int = 7_000  # the most images of a growth case
    least_rounds: int = 3
    seconds: float = 1.0  # a fast contestant of ours goes on until it has run for so long


class Case(NamedTuple):
    """A measurement: its name is `group/...`, and its function returns the rows."""

    name: str
    run: Callable[["Case", Settings], list[Row]]
    by_name_only: bool = False  # takes too long for a run of everything
