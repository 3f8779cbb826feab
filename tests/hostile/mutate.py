"""Strategies that damage sound files: bytes anywhere, or one value of what is written as JSON."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

# What no field of a file expects.
STRANGE: list[Any] = [
    *(None, True, 0, -1, 2, 2**31, 2**70, 0.5, -1e308, 1e9, float("nan"), float("inf")),
    *("", "x", "../../x", "\ud800", "\0", "x" * 5000, [], {}, [[]], {"x": 1}, [None], [1, 2, 3]),
]


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Bytes of a file with up to four places changed, cut off, doubled or filled with others."""
    found = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(found) - 1, 0)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        kind = draw(st.sampled_from(["bit", "bytes", "cut", "double", "zeros", "ones"]))
        if kind == "bit" and found:
            found[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "bytes":
            found[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "cut":
            del found[place : place + draw(st.sampled_from([1, 16, len(found)]))]
        elif kind == "double":
            found[place:place] = found[place : place + length]
        else:
            found[place : place + length] = (b"\0" if kind == "zeros" else b"\xff") * length
    return bytes(found)


def places(held: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values of nested lists and dictionaries."""
    inner = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list) else ()
    return [(*above, key) for key, _ in inner] + [
        way for key, value in inner_of(held) for way in places(value, (*above, key))
    ]


def inner_of(held: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a list or dictionary."""
    return list(held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list) else ())


@st.composite
def twisted(draw: st.DrawFn, sound: Any) -> Any:
    """What a JSON file holds, with up to three values removed, renamed, or replaced by strange ones."""
    held = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        ways = places(held)
        if not ways:
            break
        *above, last = draw(st.sampled_from(ways))
        parent = held
        for key in above:
            parent = parent[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "rename", "wrap"]))
        if kind == "remove":
            del parent[last]
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "", "kind", "tensor", "0"]))] = parent.pop(last)
        elif kind == "wrap":
            parent[last] = draw(st.sampled_from([[parent[last]], {"tuple": [parent[last]]}, {"x": parent[last]}]))
        else:
            parent[last] = copy.deepcopy(draw(st.sampled_from(STRANGE)))
    return held


def text(held: Any) -> bytes:
    """As a JSON file would be written, with NaN and lone surrogates as Python does."""
    return json.dumps(held).encode()
