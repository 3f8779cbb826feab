"""What `ibviz explain` takes of a folder, beside what lies there that is no picture."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from ibviz.data.decode import fit, read_image
from ibviz.errors import InputError
from ibviz.models.loading import load
from ibviz.workflows.explain import explain_files, read_source


@pytest.fixture
def folder(tmp_path):
    """Two photographs among a broken one, a pipe, a folder and a photograph of a kind that is not read."""
    generator = np.random.default_rng(0)
    for name in ("a.png", "c.jpg"):
        Image.fromarray(generator.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    (tmp_path / "d.tif").touch()
    (tmp_path / "e.jpg").mkdir()
    os.mkfifo(tmp_path / "f.jpg")
    return tmp_path


def test_what_is_broken_in_a_folder_is_left_out_and_listed(folder):
    model = load("digits")
    with (
        pytest.warns(UserWarning, match=r"1 image skipped, unreadable: b\.png"),
        pytest.warns(UserWarning, match=r"3 with the name of an image .*: d\.tif, e\.jpg, f\.jpg"),
    ):
        given = read_source(folder, model, None)
    assert given.names == ("a.png", "c.jpg")
    assert [fault.name for fault in given.faults] == ["b.png"]
    assert given.images.equal(torch.stack([fit(read_image(folder / name), 48) for name in given.names]))


@pytest.mark.filterwarnings("ignore:. with the name")
def test_a_folder_of_broken_pictures_and_a_broken_picture_are_errors(folder):
    for name in ("a.png", "c.jpg"):
        (folder / name).write_bytes(b"hello")
    with pytest.raises(InputError, match=r"cannot decode .*a\.png.*2 others cannot be read either"):
        read_source(folder, load("digits"), None)
    with pytest.raises(InputError, match=r"cannot decode .*b\.png.* replace or remove it$"):
        read_source(folder / "b.png", load("digits"), None)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nowhere.jpg"])
def test_a_name_that_is_nowhere_is_one_error(tmp_path, name):
    with pytest.raises(InputError, match="cannot read image"):
        read_source(tmp_path / name, load("digits"), None)


def test_what_a_killed_explain_left_half_written_goes(tmp_path):
    Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    dead = tmp_path / "out" / f".panel-01.pdf.{'3' * 18}.part.pdf"
    dead.parent.mkdir()
    dead.write_text("half")
    explain_files(tmp_path / "a.png", load("digits"), {"attention": {}}, tmp_path / "out")
    written = {"panel-01.png", "panel-01.pdf", "panel-01.json", "panel-01.data.safetensors", "maps-01.safetensors"}
    assert {path.name for path in dead.parent.iterdir()} == written
