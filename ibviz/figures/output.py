"""A finished figure, saved whole, with the account of how it was made beside it."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ibviz.errors import InputError
from ibviz.figures.settings import settings
from ibviz.files import replacing

FORMAT = "ibviz figure"
VERSION = 1
# Dates and versions in a file would make two equal figures differ; the sidecar holds the versions.
OPTIONS: dict[str, dict[str, Any]] = {
    ".pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    ".png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}},  # 6 packs 5 % better, thrice as long
    ".svg": {"metadata": {"Creator": None, "Date": None}},
}


class Panel:
    """A figure and the account of how it was made; a notebook shows it, `save` writes both.

    >>> Panel(Figure(), account("blank", {}, {"seed": 1})).account["record"]
    {'seed': 1}
    """

    def __init__(self, figure: Figure, account: dict[str, Any]) -> None:
        """Hold a figure that is drawn already."""
        self.figure, self.account = figure, account

    def save(self, path: str | Path, *, dpi: int = 300) -> None:
        """Write PNG, PDF or SVG by the suffix, and `<stem>.json`, one for all formats of a stem, beside it."""
        path = Path(path)
        if path.suffix.lower() not in OPTIONS:
            raise InputError(f"a figure is saved as {', '.join(OPTIONS)}, by its suffix; got {str(path)!r}")
        sidecar = path.with_suffix(".json")
        text = json.dumps(_with_dpi(self.account, sidecar, path.suffix.lower(), dpi), indent=1, ensure_ascii=False)
        with replacing(sidecar) as account, replacing(path) as figure:
            account.write_text(text + "\n", encoding="utf-8")
            self._write(figure, path.suffix.lower(), dpi)

    def _repr_png_(self) -> bytes:
        drawn = BytesIO()
        self._write(drawn, ".png", dpi=200)
        return drawn.getvalue()

    def _write(self, target: Path | BytesIO, suffix: str, dpi: int) -> None:
        with settings():
            self.figure.savefig(target, format=suffix[1:], dpi=dpi, **OPTIONS[suffix])


def account(kind: str, facts: Mapping[str, Any], record: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a sidecar says: the kind of figure, facts of its drawing, library versions and the caller's record.

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


def _with_dpi(account: dict[str, Any], sidecar: Path, suffix: str, dpi: int) -> dict[str, Any]:
    before = _read(sidecar)
    same = {key: value for key, value in before.items() if key != "dpi"} == account
    return {**account, "dpi": {**(before["dpi"] if same else {}), suffix: dpi}}


def _read(sidecar: Path) -> dict[str, Any]:
    if not sidecar.exists():
        return {}
    try:
        before = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict) or before.get("format") != FORMAT:
        raise InputError(f"{sidecar} is not the sidecar of a figure and is left alone; save under another name")
    return before
