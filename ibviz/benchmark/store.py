"""The store of maps on disk, from which metrics and figures read, in new and in resumed runs.

A shard holds the maps of one network and method for one batch of images. Quantised maps are stored as the index of each
cell's level and the table of anchors. Other maps are stored as float16 times a power of two per image. This preserves
ratios and signs, and small gradients do not vanish: the largest value of a map lies near the upper end of float16, so
only values below 2^-39 of it become 0. Values that differ by less than 1 part in 2048 may become equal (ties).

    maps/MODEL/METHOD/00000064-3f0c….safetensors      index of the first image, SHA-256 of the file
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import torch
from jaxtyping import Bool
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from ibviz.attribution.catalogue import Explanation
from ibviz.attribution.methods import concatenate, values
from ibviz.errors import InputError
from ibviz.files import replacing
from ibviz.models.checkpoint import encode, read_header
from ibviz.reading import AnyPath, parsing, validated
from ibviz.types import AttentionMap, Maps

FOLDER = "maps"
TOP = 15  # the largest value of a map is stored between 2^14 and 2^15; float16 ends at 65504
_MAKE_ANEW = "delete it and resume the run"
_HASH_DIGITS = 16  # of the SHA-256 in a shard's name
NAME = re.compile(rf"(\d{{8,}})-[0-9a-f]{{{_HASH_DIGITS}}}\.safetensors")


class ShardHeader(BaseModel, extra="allow"):
    """The fields of a shard's header that are read."""

    of: str = ""  # digest of network, method, options and images
    failures: list[tuple[list[int], str]] = []
    errors: list[float | None] = []  # relative standard error of each map that was drawn at random; None: unknown


class Shard(NamedTuple):
    """The maps of a batch as they are stored; `present` is False for images on which the method failed."""

    tensors: dict[str, Tensor]
    present: Bool[Tensor, " b"]


def pack(explanation: Explanation | None, present: Bool[Tensor, " b"] | None = None) -> Shard:
    """Convert maps to the form in which they are stored; maps that are equal for all images are stored once.

    None stands for a method that failed on all images; `present` then gives their number.

    >>> unpack(pack(torch.tensor([[[1.0, -0.1]]])))
    tensor([[[ 1.0000, -0.1000]]])
    >>> pack(torch.ones(64, 8, 8)).tensors["maps"].shape
    torch.Size([1, 8, 8])
    """
    if explanation is None:
        assert present is not None
        return Shard({}, torch.zeros(len(present), dtype=torch.bool))
    count = len(explanation.mean if isinstance(explanation, AttentionMap) else explanation)
    present = torch.ones(count, dtype=torch.bool) if present is None else present.cpu()
    if isinstance(explanation, AttentionMap) and explanation.index is not None and explanation.anchors is not None:
        narrow = torch.uint8 if len(explanation.anchors) <= 256 else torch.int32
        return Shard({"index": explanation.index.cpu().to(narrow), "anchors": explanation.anchors.cpu()}, present)
    trained = isinstance(explanation, AttentionMap)
    maps = (explanation.mean if isinstance(explanation, AttentionMap) else explanation).detach().cpu()
    maps = maps[:1] if bool((maps == maps[:1]).all()) else maps
    exponents = torch.frexp(maps.abs().amax((1, 2)).float()).exponent - TOP
    halves = (maps.double() * torch.exp2(-exponents.double())[:, None, None]).half()
    return Shard({"attention" if trained else "maps": halves, "exponents": exponents.to(torch.int16)}, present)


def unpack(shard: Shard) -> Explanation:
    """Return the maps of a shard in float32; those of a trained attention as an `AttentionMap`.

    The mean of an `AttentionMap` holds the stored values (quantised if there are anchors); its deviation, which is not
    stored, is NaN. If some maps are missing, the result is a plain tensor with NaN in their place; if all are missing,
    each has a single cell.
    """
    tensors, present = shard
    if not tensors:
        return torch.full((len(present), 1, 1), torch.nan)
    if "anchors" in tensors:
        index, anchors = tensors["index"].long(), tensors["anchors"]
        explanation: Explanation = _attention(anchors[index], index, anchors)
    else:
        halves = tensors.get("attention", tensors.get("maps"))
        assert halves is not None
        maps = (halves.double() * torch.exp2(tensors["exponents"].double())[:, None, None]).float()
        maps = maps.expand(len(present), -1, -1)
        explanation = _attention(maps) if "attention" in tensors else maps
    if present.all():
        return explanation
    return values(explanation).masked_fill(~present[:, None, None], torch.nan)


def write_shard(folder: Path, shard: Shard, *, start: int, of: Mapping[str, Any]) -> Path:
    """Store the maps of a batch; equal maps give equal files with equal names, and a failure leaves nothing behind.

    Args:
        folder: The folder of the run.
        shard: The maps.
        start: The index of the first image of the batch.
        of: The description in the header, with at least `model` and `method`, the labels that `read_maps` takes.

    Returns:
        The path of the file.
    """
    header = {"kind": "maps", "start": start, **of}
    encoded = encode({**shard.tensors, "present": shard.present}, header)
    place = maps_folder(folder, of["model"], of["method"])
    path = place / f"{start:08d}-{hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS]}.safetensors"
    with replacing(path) as beside:
        beside.write_bytes(encoded)
    return path


def find_shard(folder: Path, model: str, method: str, start: int) -> Path | None:
    """Return the path of a stored batch, or None.

    Args:
        folder: The folder of the run.
        model: The label of the network.
        method: The label of the method.
        start: The index of the first image of the batch.
    """
    return next(iter(sorted(maps_folder(folder, model, method).glob(f"{start:08d}-*.safetensors"))), None)


def check_shard(folder: Path, model: str, method: str, start: int) -> None:
    """Raise `InputError` if the maps of a batch are damaged or missing.

    Args:
        folder: The folder of the run.
        model: The label of the network.
        method: The label of the method.
        start: The index of the first image of the batch.
    """
    path = find_shard(folder, model, method, start)
    if path is None:
        raise InputError(f"{maps_folder(folder, model, method)} lacks the maps of the images from {start}")
    read_shard(path)


def shards(folder: Path) -> dict[int, list[Path]]:
    """Return the paths of all shards in a folder by the index of their first image; other files are ignored."""
    by_start: dict[int, list[Path]] = {}
    for path in sorted((folder / FOLDER).glob("*/*/*.safetensors")):
        if name := NAME.fullmatch(path.name):
            by_start.setdefault(int(name[1]), []).append(path)
    return by_start


def read_shard(path: Path) -> tuple[Shard, dict[str, Any]]:
    """Read a shard and its header; refuse a file whose checksum differs from the one in its name."""
    failure = f"{path} does not hold maps as ibviz stores them"
    header = validated(ShardHeader, read_header(path, "maps"), failure, _MAKE_ANEW)
    encoded = path.read_bytes()
    if hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS] != path.stem.partition("-")[2]:
        raise InputError(f"{path} was changed after it was written: its name is not its checksum; {_MAKE_ANEW}")
    with parsing(f"{path} is not a safetensors file", _MAKE_ANEW):
        tensors = load(encoded)
    if not _is_sound(tensors):
        held = ", ".join(f"{name}: {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items())
        raise InputError(f"{failure}, but {held[:300]}; {_MAKE_ANEW}")
    present = tensors.pop("present")
    return Shard(tensors, present), header.model_dump()


def _is_sound(tensors: Mapping[str, Tensor]) -> bool:
    """Return True if these are the tensors of a shard, with consistent types and shapes."""
    present, kinds = tensors.get("present"), set(tensors) - {"present"}
    if present is None or present.dtype != torch.bool or present.ndim != 1:
        return False
    if kinds == {"index", "anchors"}:
        return _are_levels(tensors["index"], tensors["anchors"], len(present))
    if kinds in ({"maps", "exponents"}, {"attention", "exponents"}):
        maps, exponents = tensors[min(kinds - {"exponents"})], tensors["exponents"]
        typed = maps.dtype == torch.float16 and exponents.dtype == torch.int16
        return typed and _are_maps(maps, len(present)) and exponents.shape == maps.shape[:1]
    return not kinds and not present.any()


def _are_levels(index: Tensor, anchors: Tensor, images: int) -> bool:
    typed = index.dtype in (torch.uint8, torch.int32) and anchors.is_floating_point() and anchors.ndim == 1
    return typed and _are_maps(index, images) and 0 <= int(index.min()) <= int(index.max()) < len(anchors)


def _are_maps(maps: Tensor, images: int) -> bool:
    return maps.ndim == 3 and maps.numel() > 0 and len(maps) in (1, images)


def read_maps(folder: AnyPath, model: str, method: str, images: slice | None = None) -> Explanation:
    """Read the maps of a network and method from a folder of `ibviz evaluate`, in the order of `images.parquet`.

    Args:
        folder: The folder of the results.
        model: The label of the network.
        method: The label of the method.
        images: A slice of the images, by default all; only the shards that hold them are read.

    Returns:
        An `AttentionMap` for a trained attention, otherwise maps `(b, rows, columns)`, NaN for images on which the
        method failed.

    Raises:
        InputError: There are no such maps, or they are damaged or incomplete.
    """
    folder = Path(folder)
    paths = sorted(maps_folder(folder, model, method).glob("[0-9]*-*.safetensors"))
    if not paths:
        raise InputError(f"no maps of {method!r} by {model!r} in {folder}; there are: {_known(folder)}")
    counts = [_count(path) for path in paths]
    _check_whole(folder, sum(counts), f"{method!r} by {model!r}")
    chosen = torch.arange(sum(counts))[images or slice(None)]
    parts, begin = [], 0
    for path, count in zip(paths, counts, strict=True):
        places = chosen[(chosen >= begin) & (chosen < begin + count)] - begin
        if len(places):
            parts.append(unpack(read_shard(path)[0])[places])
        begin += count
    return _joined(parts)


def _check_whole(folder: Path, count: int, maps: str) -> None:
    """Refuse maps of fewer images than the result has: a missing file would shift all later maps."""
    import pyarrow.parquet as pq

    path = folder / "images.parquet"
    if not path.is_file():
        return
    with parsing(f"cannot read {path} as Parquet", "run the suite again"):
        images = pq.read_metadata(path).num_rows
    if count != images:
        raise InputError(
            f"{folder} keeps maps of {maps} for {count} of its {images} images; run the suite into another folder"
        )


def maps_folder(folder: Path, model: str, method: str) -> Path:
    """Return the folder of the shards of a network and method; characters unfit for file names are percent-encoded.

    >>> maps_folder(Path("out"), "timm/resnet50", "Grad-CAM, last layer").as_posix()
    'out/maps/timm%2Fresnet50/Grad-CAM, last layer'
    """
    return folder / FOLDER / _file_name(model) / _file_name(method)


def _file_name(label: str) -> str:
    return quote(label, safe=" ,()+").replace(".", "%2E")  # no label may become "." or ".."


def _attention(values: Maps, index: Tensor | None = None, anchors: Tensor | None = None) -> AttentionMap:
    return AttentionMap(values, torch.full_like(values, torch.nan), index, anchors)


def _joined(parts: list[Explanation]) -> Explanation:
    """Join consecutive parts; the result is a plain tensor if any part is, because a map is missing there."""
    if all(isinstance(part, AttentionMap) for part in parts):
        return concatenate(parts)
    plain = [values(part) for part in parts]
    grid = next((maps.shape[1:] for maps in plain if not maps.isnan().all()), plain[0].shape[1:])
    return torch.cat([maps.expand(-1, *grid) if maps.isnan().all() else maps for maps in plain])


def _count(path: Path) -> int:
    failure = f"{path} does not hold maps as ibviz stores them"
    with parsing(failure, _MAKE_ANEW), safe_open(path, "pt") as file:
        return file.get_slice("present").get_shape()[0]


def _known(folder: Path) -> str:
    known = [f"{unquote(place.parent.name)}: {unquote(place.name)}" for place in sorted((folder / FOLDER).glob("*/*"))]
    return "; ".join(known) or "none"
