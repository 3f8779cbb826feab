"""Data as text inside a page."""

import base64
import json
import math
from typing import Any

from ibviz.figures.report.contents import Numbers
from ibviz.statistics import Estimate

# What ends a script element or begins a tag; all that is not ASCII, U+2028 among it, is escaped by `json` already.
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def as_json(data: Any) -> str:
    """JSON that may stand inside a script element, whatever names it holds.

    >>> as_json({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(str.maketrans(UNSAFE))


def number(value: float) -> float | None:
    """Four digits that matter, or nothing where a value is undefined: JSON has no NaN.

    >>> number(0.123456), number(float("nan"))
    (0.1235, None)
    """
    return float(f"{value:.4g}") if math.isfinite(value) else None


def numbers(values: Numbers) -> list[float | None]:
    """Numbers for a page."""
    return [number(value) for value in values]


def interval(one: Estimate) -> list[float | None] | None:
    """Mean and both ends of its interval, or nothing where it is undefined."""
    return numbers([one.mean, one.low, one.high]) if math.isfinite(one.mean) else None


def as_text(data: bytes) -> str:
    """Bytes in base64.

    >>> as_text(b"ibviz")
    'aWJ2aXo='
    """
    return base64.b64encode(data).decode("ascii")
