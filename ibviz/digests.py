"""SHA-256 digests that reveal damaged files: stored inside a JSON file, or in a JSON file for its neighbours.

Digests of tensors are in `ibviz.models.checkpoint`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ibviz.errors import InputError
from ibviz.reading import parsing, read_json

DIGEST_KEY = "sha256"  # files of older versions lack this key and are read all the same


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with its digest added.

    >>> unseal(seal({"a": (1, 2)}), Path("a.json"), "write it anew")
    {'a': (1, 2)}
    """
    return {**content, DIGEST_KEY: digest_json(content)}


def unseal(held: Any, path: Path, way_out: str) -> Any:
    """Return the content of a JSON file without its digest, which is checked if there is one.

    >>> unseal(seal({"a": 1}) | {"a": 2}, Path("a.json"), "write it anew")
    Traceback (most recent call last):
    ibviz.errors.InputError: a.json has changed since it was written (its SHA-256 differs); write it anew
    """
    if not isinstance(held, dict) or DIGEST_KEY not in held:
        return held
    rest = {key: value for key, value in held.items() if key != DIGEST_KEY}
    with parsing(f"cannot read {path} as JSON", way_out):  # it may be nested too deeply
        digest = digest_json(rest)
    if held[DIGEST_KEY] != digest:
        raise changed_file_error(path, way_out)
    return rest


def read_sealed(path: Path, way_out: str) -> Any:
    """Read a JSON file and check its digest if it has one."""
    return unseal(read_json(path, way_out), path, way_out)


def changed_file_error(path: Path, way_out: str) -> InputError:
    """Return the error for a file that has changed since it was written."""
    return InputError(f"{path} has changed since it was written (its SHA-256 differs); {way_out}")


def digest_json(content: Any) -> str:
    """Return the digest of a JSON value, independent of the order of keys; other values count by their `repr`.

    >>> digest_json({"b": [1], "a": 2}) == digest_json({"a": 2, "b": (1,)})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()


def digest_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the digest of each named file of a folder."""
    digests = {}
    for name in names:
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def check_files(folder: Path, digests: Mapping[str, str], way_out: str) -> None:
    """Refuse a folder if the digest of a file differs; missing files are ignored."""
    for name, digest in digests.items():
        path = folder / Path(name).name
        if path.is_file() and digest_files(folder, [path.name]) != {path.name: digest}:
            raise changed_file_error(path, way_out)
