"""Every choice that moves a curve's numbers, with a short hash that travels beside them."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field

from ibviz.config import Settings

Brightness = Annotated[float, Field(ge=0, le=1)]
Cells = Annotated[int, Field(ge=1)]

# What cannot change a number: removing whole levels leaves nothing to step through or to shuffle.
_IDLE = {"expected": {"batch_size"}, "group": {"batch_size", "steps", "orders", "seed"}}


class CurveProtocol(Settings):
    """How deletion and insertion are run; one per comparison.

    >>> protocol = CurveProtocol(baseline=(0.5, 0.5, 0.5), grid=(8, 8))
    >>> protocol.hash == protocol.model_copy(update={"batch_size": 7}).hash
    True
    """

    version: Literal[1] = 1  # of the rules behind the fields; a change of any number raises it
    baseline: tuple[Brightness, Brightness, Brightness]  # colour of a removed pixel, [0, 1] pixel space
    grid: tuple[Cells, Cells]  # rows, columns; its cells are the unit of removal
    steps: int = Field(default=32, ge=1)  # fractions after the first; all cells if there are fewer
    ties: Literal["expected", "group"] = "expected"  # mean over random orders of tied cells, or one level at a time
    orders: int = Field(default=8, ge=2, multiple_of=2)  # in reversed pairs
    seed: int = 0
    batch_size: int = Field(default=256, ge=1)

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits of the SHA-256 of all choices that change numbers."""
        choices = self.model_dump(mode="json", exclude=_IDLE[self.ties])
        return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:8]
