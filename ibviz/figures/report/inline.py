"""Encoding of data as text inside an HTML page."""

import base64
import json
import math
from typing import Any

from ibviz.figures.report.contents import Floats
from ibviz.statistics import Estimate

# Characters that could end a script element or begin a tag; `json` already escapes everything but ASCII.
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def script_json(data: Any) -> str:
    """Encode data as JSON that is safe inside a script element.

    >>> script_json({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(str.maketrans(UNSAFE))


def number(value: float) -> float | None:
    """Round a number to four significant digits; None if it is not finite, because JSON has no NaN.

    >>> number(0.123456), number(float("nan"))
    (0.1235, None)
    """
    return float(f"{value:.4g}") if math.isfinite(value) else None


def numbers(values: Floats) -> list[float | None]:
    """Round numbers as `number` does."""
    return [number(value) for value in values]


def packed_interval(estimate: Estimate) -> list[float | None] | None:
    """Return mean, low and high of an estimate; None if it is undefined."""
    return numbers([estimate.mean, estimate.low, estimate.high]) if math.isfinite(estimate.mean) else None


def as_text(data: bytes) -> str:
    """Encode bytes in base64.

    >>> as_text(b"ibviz")
    'aWJ2aXo='
    """
    return base64.b64encode(data).decode("ascii")
