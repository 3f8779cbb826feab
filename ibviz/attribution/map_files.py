"""Reading and writing of maps: exact, with anchors and with a record of their origin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ibviz.attribution.catalogue import Explanation
from ibviz.errors import InputError
from ibviz.models.checkpoint import read_tensors, write_tensors
from ibviz.reading import AnyPath
from ibviz.types import AttentionMap

KIND = "maps"
_PARTS = ("/index", "/anchors", "/mean")  # suffixes of the names of an attention map's tensors


class SavedMaps(NamedTuple):
    """Maps by the label of their method, and the record that was saved with them."""

    maps: dict[str, Explanation]
    record: dict[str, Any]


def save_maps(path: AnyPath, maps: Mapping[str, Explanation], record: Mapping[str, Any] | None = None) -> None:
    """Write maps exactly, as safetensors: the anchor of each cell and the table of anchors, otherwise float32.

    Args:
        path: File to write; replaced as a whole or not at all.
        maps: Maps `(b, rows, columns)` by label, each on its own grid; the deviation of an attention is not saved.
        record: Facts to save with them, as JSON allows, such as the names of the images, the class and the model.
    """
    tensors: dict[str, Tensor] = {}
    for label, explanation in maps.items():
        if not isinstance(explanation, AttentionMap):
            tensors[label] = explanation
        elif explanation.index is not None and explanation.anchors is not None:
            narrow = torch.int16 if len(explanation.anchors) < 2**15 else torch.int32
            tensors |= {f"{label}/index": explanation.index.to(narrow), f"{label}/anchors": explanation.anchors}
        else:
            tensors[f"{label}/mean"] = explanation.mean
    write_tensors(Path(path), tensors, {"kind": KIND, "labels": list(maps), "record": dict(record or {})})


def load_maps(path: AnyPath) -> SavedMaps:
    """Read maps that `save_maps` or `ibviz explain` wrote, for `ibviz.figures.panel` and `ibviz.evaluate`.

    An attention map has its quantised values as its mean and NaN as its deviation. Raises `InputError` for any other
    file and for a damaged one.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "maps.safetensors"
    >>> save_maps(path, {"Grad-CAM": torch.ones(2, 7, 7)}, {"images": ["cat.jpg", "dog.jpg"]})
    >>> saved = load_maps(path)
    >>> saved.maps["Grad-CAM"].shape, saved.record
    (torch.Size([2, 7, 7]), {'images': ['cat.jpg', 'dog.jpg']})
    """
    tensors, header = read_tensors(Path(path), KIND)
    parts = {name.rpartition("/")[0] if name.endswith(_PARTS) else name: None for name in tensors}
    labels = header.get("labels", list(parts))  # files of older versions have no list of labels
    maps = {label: _explanation(label, tensors, path) for label in labels}
    return SavedMaps(maps, header.get("record", {}))


def _explanation(label: str, tensors: Mapping[str, Tensor], path: AnyPath) -> Explanation:
    if label in tensors:
        return _checked(tensors[label], label, path)
    index, anchors, mean = (tensors.get(label + part) for part in _PARTS)
    if index is not None and anchors is not None:
        mean = _values(index.long(), anchors)
    if mean is None:
        raise InputError(f"{path}: the parts of {label!r} do not belong together; write the maps again")
    values = _checked(mean, label, path)
    return AttentionMap(values, torch.full_like(values, torch.nan), None if index is None else index.long(), anchors)


def _values(index: Tensor, anchors: Tensor) -> Tensor | None:
    """Return the anchor of each cell, None if an index is outside the table."""
    fits = anchors.ndim == 1 and index.numel() > 0 and 0 <= int(index.min()) <= int(index.max()) < len(anchors)
    return anchors[index] if fits else None


def _checked(maps: Tensor, label: str, path: AnyPath) -> Tensor:
    if maps.ndim != 3 or not maps.is_floating_point():
        raise InputError(
            f"{path}: {label!r} should be maps (b, rows, columns); got {tuple(maps.shape)} of {maps.dtype}"
        )
    return maps
