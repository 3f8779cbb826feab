"""Figures with a sidecar, a JSON file that says how they were drawn, and a file of the data they were drawn from."""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

from matplotlib.figure import Figure
from pydantic import BaseModel, Field
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, float32, uint8

from ibviz.digests import DIGEST_KEY, seal, unseal
from ibviz.errors import InputError
from ibviz.figures.settings import DEFAULT_TEMPLATE, Template, find_template, settings
from ibviz.files import replacing
from ibviz.reading import parsing, read_bytes, validated
from ibviz.types import AttentionMap

FORMAT = "ibviz figure"
VERSION = 2  # version 1 had no data
DATA = ".data.safetensors"
DPI = 300
MOST_DPI = 4800
MOST_DATA = 2**32  # bytes
_DEEPEST = 12  # levels of nested lists and mappings among the arguments of a figure
# Without dates and versions, equal figures are equal files; the sidecar holds the versions.
OPTIONS: dict[str, dict[str, Any]] = {
    ".pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    ".png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}},  # 6 packs 5 % better, thrice as long
    ".svg": {"metadata": {"Creator": None, "Date": None}},
}


class Panel:
    """A figure, its account (how it was drawn) and its data; notebooks display it, and `save` writes all three.

    >>> Panel(Figure(), account("blank", {}, {"seed": 1})).account["record"]
    {'seed': 1}
    """

    def __init__(self, figure: Figure, account: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Hold a drawn figure, its account, and the tensors to which the account refers."""
        self.figure, self.account, self.tensors = figure, account, dict(tensors or {})

    def save(self, path: str | Path, *, dpi: int = DPI, data: bool = True) -> None:
        """Write the figure as PNG, PDF or SVG, with its sidecar and data beside it.

        All formats of a stem share `<stem>.json` and `<stem>.data.safetensors`.

        Args:
            path: File to write; its suffix decides the format.
            dpi: Resolution of a PNG, and of images in a PDF or SVG.
            data: Write the data too; without it the figure cannot be redrawn.

        Raises:
            InputError: If the suffix is unknown, or `<stem>.json` is not the sidecar of a figure.
        """
        path = Path(path)
        if path.suffix.lower() not in OPTIONS:
            raise InputError(f"a figure is saved as {', '.join(OPTIONS)}, by its suffix; got {str(path)!r}")
        sidecar, arrays = path.with_suffix(".json"), path.with_name(path.stem + DATA)
        packed = save_tensors(self.tensors) if data and self.tensors else None
        named = None if packed is None else {"file": arrays.name, "sha256": sha256(packed).hexdigest()}
        told = _with_dpi({**self.account, "data": named}, sidecar, path.suffix.lower(), dpi)
        with ExitStack() as files:
            text = json.dumps(seal(told), indent=1, ensure_ascii=False) + "\n"
            files.enter_context(replacing(sidecar)).write_text(text, encoding="utf-8")
            if packed is not None:
                files.enter_context(replacing(arrays)).write_bytes(packed)
            self._write(files.enter_context(replacing(path)), path.suffix.lower(), dpi)

    def _repr_png_(self) -> bytes:
        drawn = BytesIO()
        self._write(drawn, ".png", dpi=200)
        return drawn.getvalue()

    def _write(self, target: Path | BytesIO, suffix: str, dpi: int) -> None:
        template = unpack_argument(self.account.get("arguments", {}).get("template", DEFAULT_TEMPLATE), {})
        with settings(find_template(Template(*template) if isinstance(template, tuple) else template)):
            self.figure.savefig(target, format=suffix[1:], dpi=dpi, **OPTIONS[suffix])


def build_panel(
    kind: str, figure: Figure, facts: Mapping[str, Any], arguments: Mapping[str, Any], record: Mapping[str, Any] | None
) -> Panel:
    """Create a panel from a figure drawn by the function named `kind`.

    Args:
        kind: Name of the function.
        figure: The drawn figure.
        facts: Facts of the drawing, for the sidecar.
        arguments: Keyword arguments of the function except `record`, from which it can be redrawn.
        record: Facts given by the caller, for the sidecar.
    """
    tensors: dict[str, Tensor] = {}
    packed = {name: pack_argument(value, tensors, name) for name, value in arguments.items()}
    return Panel(figure, account(kind, {**facts, "arguments": packed}, record), tensors)


def account(kind: str, facts: Mapping[str, Any], record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the contents of a sidecar: kind of figure, facts of its drawing, library versions, the caller's record.

    >>> account("panel", {"blend": 0.5}, None)["kind"]
    'panel'
    """
    libraries = {name: version(name) for name in ("ibviz", "matplotlib", "numpy")}
    head = {"format": FORMAT, "version": VERSION, "kind": kind, "libraries": libraries}
    try:
        return json.loads(json.dumps({**head, **facts, "record": dict(record or {})}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"record must hold what JSON can: finite numbers, text, lists, dictionaries; {error}"
        ) from error


def pack_argument(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Encode an argument as JSON and add its tensors to `tensors`, losslessly and 8-bit pixels as bytes.

    Values that JSON lacks become a dictionary with a single key, which names their type.

    >>> import torch
    >>> kept: dict[str, Tensor] = {}
    >>> pack_argument({"CAM": torch.ones(1, 2, 2), "of": (1, 2)}, kept, "maps")
    {'mapping': {'CAM': {'pixels': '0 maps/CAM'}, 'of': {'tuple': [1, 2]}}}
    >>> kept["0 maps/CAM"].dtype
    torch.uint8
    """
    if isinstance(value, Tensor):
        return _pack_tensor(value, tensors, name)
    if isinstance(value, AttentionMap):
        exact = {"mean": value.mean} if value.index is None else {"index": value.index, "anchors": value.anchors}
        return {"attention": {part: pack_argument(field, tensors, f"{name}/{part}") for part, field in exact.items()}}
    if isinstance(value, Mapping):
        return {"mapping": {key: pack_argument(item, tensors, f"{name}/{key}") for key, item in value.items()}}
    if isinstance(value, tuple | list):
        parts = [pack_argument(item, tensors, f"{name}/{number}") for number, item in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    return value


def _pack_tensor(value: Tensor, tensors: dict[str, Tensor], name: str) -> dict[str, str]:
    value = value.detach().cpu().contiguous().clone()
    bytes_ = _as_bytes(value)
    kind, kept = ("tensor", value) if bytes_ is None else ("pixels", bytes_)
    equal = (key for key, other in tensors.items() if other.dtype == kept.dtype and other.equal(kept))
    key = next(equal, f"{len(tensors)} {name}")
    tensors[key] = kept
    return {kind: key}


def _as_bytes(value: Tensor) -> Tensor | None:
    """Convert floats that are multiples of 1/255 to bytes; None for any other tensor."""
    if value.dtype != float32:
        return None
    bytes_ = (value.nan_to_num() * 255).round().clamp(0, 255).to(uint8)
    return bytes_ if _pixels(bytes_).equal(value) else None


def _pixels(bytes_: Tensor) -> Tensor:
    return bytes_.float() / 255


def unpack_argument(packed: Any, tensors: Mapping[str, Tensor], depth: int = 0) -> Any:
    """Decode an argument of `pack_argument`, except the deviation of an attention map, which no figure shows."""
    if depth > _DEEPEST:
        raise InputError(f"its arguments are nested more than {_DEEPEST} deep")
    inner = partial(unpack_argument, tensors=tensors, depth=depth + 1)
    if isinstance(packed, list):
        return [inner(item) for item in packed]
    if not isinstance(packed, dict):
        return packed
    kind: str
    held: Any
    kind, held = next(iter(packed.items()), ("nothing", ""))
    if len(packed) != 1 or not isinstance(held, HELD.get(kind, ())):
        raise InputError(f"a value among its arguments is one of {', '.join(HELD)}; got {str(list(packed))[:100]}")
    if kind == "mapping":
        return {key: inner(item) for key, item in held.items()}
    if kind == "attention":
        return _unpack_attention({part: inner(field) for part, field in held.items()})
    return tuple(map(inner, held)) if kind == "tuple" else _unpack_tensor(kind, held, tensors)


def _unpack_tensor(kind: str, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise InputError(f"it was made without data, or has lost the part {name!r}")
    if kind == "pixels" and tensors[name].dtype != uint8:
        raise InputError(f"its part {name!r} should hold bytes; it holds {tensors[name].dtype}")
    return _pixels(tensors[name]) if kind == "pixels" else tensors[name]


def _unpack_attention(parts: dict[str, Any]) -> AttentionMap:
    mean, index, anchors = (parts.get(part) for part in ("mean", "index", "anchors"))
    if mean is None and isinstance(index, Tensor) and isinstance(anchors, Tensor):
        whole = anchors.ndim == 1 and not index.is_floating_point() and index.numel() > 0
        if not whole or not 0 <= int(index.min()) <= int(index.max()) < len(anchors):
            raise InputError("the numbers of an attention map's anchors do not belong to its table of anchors")
        mean = anchors[index.long()]
    if not isinstance(mean, Tensor):
        raise InputError(f"an attention map holds a mean, or index and anchors; got {', '.join(parts) or 'nothing'}")
    return AttentionMap(mean, mean.new_zeros(mean.shape), index, anchors)


HELD: dict[str, type] = {"tensor": str, "pixels": str, "attention": dict, "mapping": dict, "tuple": list}


class DataFile(BaseModel):
    """File with the tensors of a figure, beside its sidecar."""

    file: str
    sha256: str


class Sidecar(BaseModel):
    """Contents of a sidecar, as far as they are used."""

    kind: str
    arguments: dict[str, Any] = {}
    record: dict[str, Any] | None = None
    data: DataFile | None = None
    dpi: dict[Literal[".pdf", ".png", ".svg"], Annotated[float, Field(ge=1, le=MOST_DPI)]] = {}


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar; raise `InputError` for any other file and for a damaged one."""
    encoded, told = read_bytes(path, what="sidecar"), None
    with suppress(ValueError, RecursionError):
        told = json.loads(encoded)
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise InputError(
            f"{path} is not the sidecar of a figure and is left alone; give the .json beside a figure, or "
            "save one under another name"
        )
    told = unseal(told, path, f"restore it, or draw what it says now by deleting its line {DIGEST_KEY}")
    validated(Sidecar, told, f"{path} is damaged, or of another version of ibviz")
    return told


def read_data(sidecar: Path, named: Mapping[str, str] | None) -> dict[str, Tensor]:
    """Read the tensors of a figure from the file that its sidecar names; raise `InputError` if its SHA-256 differs."""
    if named is None:
        return {}
    path = sidecar.parent / Path(named["file"]).name
    if not os.path.isfile(path):
        raise InputError(f"cannot read {path}, the data of {sidecar.name}: No such file; restore it")
    packed = read_bytes(path, most=MOST_DATA)
    if sha256(packed).hexdigest() != named["sha256"]:
        raise InputError(f"{path} has changed since {sidecar.name} was written (its SHA-256 differs); restore it")
    with parsing(f"{path} is not a safetensors file"):
        return load_tensors(packed)


def _with_dpi(account: dict[str, Any], sidecar: Path, suffix: str, dpi: int) -> dict[str, Any]:
    before = read_sidecar(sidecar) if sidecar.exists() else {}
    same = {key: value for key, value in before.items() if key != "dpi"} == account
    return {**account, "dpi": {**(before.get("dpi", {}) if same else {}), suffix: dpi}}
