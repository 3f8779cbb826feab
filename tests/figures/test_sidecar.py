"""Files are whole, the same each time, and lie beside the account of how they were made."""

import json
import re
import zlib
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from ibviz.digests import digest_json
from ibviz.errors import InputError
from ibviz.figures import anchor_usage, curves, panel, table
from ibviz.figures.sidecar import Panel
from tests.figures.drawn import grey, quantised


def example() -> Panel:
    index = torch.arange(18).view(2, 3, 3) % 3
    rows = {"ours": quantised(index, [0.1, 0.5, 0.9]), "cam": torch.linspace(0, 1, 32).view(2, 4, 4)}
    boxes = torch.tensor([[2.0, 2.0, 9.0, 9.0]] * 2)
    return panel(grey(2), rows, captions=["cat", "dog"], boxes=boxes, record={"seed": 1})


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_drawn_again_the_bytes_are_the_same(tmp_path, suffix, monkeypatch):
    first = example()
    first.save(tmp_path / f"first{suffix}")
    first.save(tmp_path / "between.pdf")
    first.save(tmp_path / f"again{suffix}")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    example().save(tmp_path / f"second{suffix}")
    bytes_ = {(tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "again", "second")}
    assert len(bytes_) == 1


def test_one_sidecar_serves_all_formats_of_a_stem(tmp_path):
    drawn = example()
    drawn.save(tmp_path / "fig.png", dpi=100)
    drawn.save(str(tmp_path / "fig.PDF"))
    told = json.loads((tmp_path / "fig.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"fig.png", "fig.PDF", "fig.json", "fig.data.safetensors"}
    digest = sha256((tmp_path / "fig.data.safetensors").read_bytes()).hexdigest()
    data = {"file": "fig.data.safetensors", "sha256": digest}
    assert told.pop("sha256") == digest_json(told)
    assert told == {**drawn.account, "data": data, "dpi": {".png": 100, ".pdf": 300}}
    panel(grey(1), {}).save(tmp_path / "fig.png")
    assert json.loads((tmp_path / "fig.json").read_text())["dpi"] == {".png": 300}


@pytest.mark.parametrize("text", ["{}", "[1]", "not json"])
def test_a_json_file_of_another_kind_is_left_alone(tmp_path, text):
    (tmp_path / "fig.json").write_text(text)
    with pytest.raises(InputError, match="not the sidecar of a figure"):
        example().save(tmp_path / "fig.png")
    assert (tmp_path / "fig.json").read_text() == text
    assert not (tmp_path / "fig.png").exists()


def test_a_pdf_has_truetype_fonts_and_text_as_text(tmp_path):
    example().save(tmp_path / "fig.pdf")
    raw = (tmp_path / "fig.pdf").read_bytes()
    assert b"/FontFile2" in raw
    assert b"/Type3" not in raw
    assert b"/CreationDate" not in raw
    pages = [_inflate(stream) for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", raw, re.DOTALL)]
    shown = [page for page in pages if b" Tf" in page and b"BT" in page]
    assert len(shown) == 1
    assert shown[0].count(b"BT") >= 6  # two captions, two labels, two notes, ticks


def _inflate(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("broken")])
def test_a_failing_save_leaves_the_previous_files_and_nothing_beside_them(tmp_path, monkeypatch, error):
    path = tmp_path / "fig.png"
    example().save(path, dpi=50)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def half(_: Figure, target: Path, **options: object) -> None:
        assert options["format"] == "png"
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises((InputError, RuntimeError)):
        panel(grey(1), {}).save(path)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["fig.jpg", "fig", "fig.json"])
def test_an_unknown_suffix_lists_the_known(tmp_path, name):
    with pytest.raises(InputError, match=r"\.pdf, \.png, \.svg"):
        example().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_a_png():
    assert example()._repr_png_().startswith(b"\x89PNG")


def drawn_without_pictures() -> dict[str, Panel]:
    scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    return {
        "curves": curves({"deletion": {"cam": (torch.linspace(0, 1, 5), scores)}}, template="slides"),
        "usage": anchor_usage(torch.tensor([1, 0]), torch.tensor([0.1, 0.9])),
        "table": table(["method", "n"], [["cam", "3"]]),
    }


@pytest.mark.parametrize("name", ["curves", "usage", "table"])
def test_a_pdf_without_pictures_is_vector_with_fonts_inside(tmp_path, name):
    drawn_without_pictures()[name].save(tmp_path / "fig.pdf")
    raw = (tmp_path / "fig.pdf").read_bytes()
    assert b"/FontFile2" in raw
    assert b"/Type3" not in raw
    assert b"/Subtype /Image" not in raw


def test_a_pdf_of_a_panel_has_an_image_for_each_cell_and_each_smooth_bar_alone(tmp_path):
    example().save(tmp_path / "fig.pdf", dpi=100)
    photographs, overlays, smooth_bars = 2, 4, 1  # a photograph and the map over it are one image
    assert (tmp_path / "fig.pdf").read_bytes().count(b"/Subtype /Image") == photographs + overlays + smooth_bars
