"""Small inputs that once ended in a bare error, a hang or a full memory, kept outside of the project."""

import json
import os
import re
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hostile.sound import images, picture, read_circumstances, read_part

from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.runner.plan import read_plan
from ibviz.benchmark.store import read_shard
from ibviz.data.config import DataConfig
from ibviz.data.decode import fit, read_image
from ibviz.data.listing import decoded
from ibviz.data.objects import View
from ibviz.data.sources import find_part
from ibviz.errors import InputError
from ibviz.files import read_rows
from ibviz.models.checkpoint import load_model, read_header
from ibviz.models.loading import load
from ibviz.settings import read_toml
from ibviz.training.recipe import Recipe
from ibviz.workflows.figure import redraw_figure

SHARED = os.environ.get("IBVIZ_SHARED")
HOSTILE = Path(SHARED or "nowhere") / "cases" / "hostile"
FILES = sorted(HOSTILE.glob("*/*"))
COLUMN = re.compile(r"(\w+)\.(\w+) kind \d")
pytestmark = pytest.mark.skipif(not FILES, reason="IBVIZ_SHARED names no folder with cases/hostile")


def read_annotations(path: Path) -> None:
    """COCO, below the settings of its data where there are any."""
    first, _, rest = path.read_text(errors="surrogateescape").partition("\n")
    settings = json.loads(first) if rest else {"source": "coco", "masks": True, "image_size": 16}
    content = rest or first
    path.unlink()
    for split in ("train", "val"):
        place = path.parent / "annotations" / f"instances_{split}2017.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(content, errors="surrogateescape")
        folder = path.parent / f"{split}2017"
        folder.mkdir(exist_ok=True)
        for number in range(9):
            (folder / f"{number}.png").write_bytes(picture("PNG", (40, 30)))
    config = DataConfig.model_validate(settings)
    for split in ("train", "test"):
        decoded(find_part(config, split, path.parent), View(16))


def read_report(path: Path) -> None:
    """Circumstances of a run, or the name of a column that held another kind of values."""
    content = path.read_text()
    if COLUMN.fullmatch(content.strip()):
        pytest.skip("a column's name alone; see test_made for the columns")
    (path.parent / "circumstances.json").write_text(content)
    read_circumstances(path.parent / "circumstances.json")


def read_corrupt(path: Path) -> None:
    """A file of a run, by the name it had there."""
    name = path.name.partition("_")[2]
    readers: dict[str, Callable[[Path], Any]] = {
        "circumstances": read_circumstances,
        "maps": read_shard,
        "plan": lambda one: read_plan(one.parent),
        "parts_000001_facts": read_part,
        "parts": read_rows,
        "rows": read_rows,
    }
    place = path.rename(path.with_name(name.removeprefix("parts_000001_") if "facts" not in name else name))
    next(read for kind, read in readers.items() if name.startswith(kind))(place)


def read_parquet(path: Path) -> None:
    (path.parent / "in").mkdir()
    images("parquet")(path.rename(path.parent / "in" / f"train_{path.name}"))


READERS: dict[str, list[Callable[[Path], Any]]] = {
    "annotations": [read_annotations],
    "checkpoint": [load_model, lambda path: read_header(path, "checkpoint")],
    "corrupt": [read_corrupt],
    "images": [lambda path: fit(read_image(path), 224)],
    "parquet": [read_parquet],
    "pth": [load],
    "report": [read_report],
    "sidecar": [redraw_figure],
    "toml": [lambda path: read_toml(path, Recipe), lambda path: read_toml(path, SuiteConfig)],
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_known_file_is_read_as_far_as_it_is_sound_or_refused(file, tmp_path):
    for number, read in enumerate(READERS[file.parent.name]):
        path = tmp_path / str(number) / file.name
        path.parent.mkdir()
        path.write_bytes(file.read_bytes())
        begun = time.process_time()
        with suppress(InputError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        assert time.process_time() - begun < 10


def test_each_kind_of_the_known_files_has_a_reader():
    assert {file.parent.name for file in FILES} == set(READERS)
