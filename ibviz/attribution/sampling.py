"""Random draws of attribution methods: the standard error of a map, and the rule by which drawing ends.

Draws come in units: with `sampling="paired"` a draw and its complement (antithetic draws, Hammersley and Morton 1956),
with "plain" a single draw. Units are independent of each other, so the spread between them gives the standard error of
their mean. It is given relative to the size of the map; each method says in which norm.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

Sampling = Literal["paired", "plain"]
ErrorLimit = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # relative standard error at which drawing ends
RowValues = Float[Tensor, " rows"]  # one value per explained image
BLOCK = 64  # draws between two looks at the standard error
COPIES: dict[Sampling, int] = {"paired": 2, "plain": 1}  # draws per unit
_RECORD = ContextVar[list[float] | None]("_RECORD", default=None)


@contextmanager
def recorded_errors() -> Iterator[list[float]]:
    """Yield a list that gets the relative standard error of each map that a sampling method computes in the block.

    The order is that of the images. The error is `inf` if it cannot be estimated, as from a single unit. Methods that
    draw nothing, and those of Captum, add nothing.

    >>> from ibviz.attribution import explain, recorded_errors
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    >>> with recorded_errors() as errors:
    ...     maps = explain(network, torch.rand(2, 3, 8, 8), "smooth_grad", samples=4)
    >>> [round(error, 3) for error in errors]
    [0.0, 0.0]
    """
    errors: list[float] = []
    token = _RECORD.set(errors)
    try:
        yield errors
    finally:
        _RECORD.reset(token)


def units_in(draws: int, sampling: Sampling) -> int:
    """Return the number of units in a number of draws; an odd number of paired draws is rounded up.

    >>> units_in(5, "paired"), units_in(5, "plain")
    (3, 5)
    """
    return -(-draws // COPIES[sampling])


def relative_error(squares: RowValues, total: RowValues, units: int, size: RowValues) -> RowValues:
    """Return the standard error of a mean of units, relative to the size of the map; see `as_share`.

    Args:
        squares: Sum of the squared norms of the units.
        total: Squared norm of the sum of the units.
        units: Number of units.
        size: Norm of the estimated map.

    Returns:
        0 if all units are equal up to rounding, and `inf` for a single unit.

    >>> ones = torch.ones(1, dtype=torch.float64)
    >>> relative_error(4 * ones, 4 * ones, 2, 2**0.5 * ones).round(decimals=6), relative_error(ones, ones, 1, ones)
    (tensor([1.], dtype=torch.float64), tensor([inf], dtype=torch.float64))
    """
    if units < 2:
        return torch.full_like(size, torch.inf)
    spread = squares - total / units
    spread = spread.masked_fill(spread <= squares * torch.finfo(torch.float32).eps, 0)  # rounding alone
    return as_share((spread / (units * (units - 1))).sqrt(), size)


def as_share(error: RowValues, size: RowValues) -> RowValues:
    """Return a standard error as a share of the size of the true map; `inf` if the estimated map is noise.

    Noise makes a map larger, by its own square in the mean, so that this much is taken off the square of its size.

    >>> as_share(torch.tensor([3.0, 2.0, 0.0]), torch.tensor([5.0, 2.0, 0.0]))
    tensor([0.7500,    inf, 0.0000])
    """
    share = error / (size.square() - error.square()).clamp(min=0).sqrt()
    return share.masked_fill(error == 0, 0)


class Drawing:
    """The rows of a batch that wait for more draws, and the standard error that each has reached."""

    waiting: Int[Tensor, " waiting"]
    errors: RowValues

    def __init__(self, rows: int, limit: float | None) -> None:
        """Begin with all rows waiting; without a limit they wait until all draws are made."""
        self.limit = limit
        self.waiting = torch.arange(rows)
        self.errors = torch.full((rows,), torch.inf, dtype=torch.float64)

    def reach(self, errors: Float[Tensor, " waiting"]) -> None:
        """Store the errors of the waiting rows; those whose error is small enough wait no longer."""
        self.errors[self.waiting] = errors.cpu()
        if self.limit is not None:
            self.waiting = self.waiting[errors.cpu() > self.limit]


def record_errors(errors: RowValues) -> None:
    """Add the errors of a batch to the list of `recorded_errors`, if there is one."""
    recorded = _RECORD.get()
    if recorded is not None:
        recorded += errors.tolist()
