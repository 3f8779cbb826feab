from pathlib import Path

import pytest
import torch
from networks import quadrants
from safetensors.torch import save_file

import ibviz
from ibviz.attribution import load_maps, save_maps
from ibviz.errors import InputError
from ibviz.models.checkpoint import write_tensors
from ibviz.types import AttentionMap

INDEX = torch.tensor([[[0, 2], [1, 1]], [[2, 2], [0, 1]]])
ANCHORS = torch.tensor([0.1, 0.5, 0.9])
ATTENTION = AttentionMap(ANCHORS[INDEX] + 0.01, torch.zeros(2, 2, 2), INDEX, ANCHORS)


def test_what_is_written_is_read_back_exactly(tmp_path):
    grad, plain = torch.rand(2, 7, 5), AttentionMap(torch.rand(2, 3, 3), torch.zeros(2, 3, 3), None, None)
    record = {"images": ["a.png", "b.png"], "target": 3}
    save_maps(tmp_path / "maps.safetensors", {"Grad/CAM": grad, "Attention": ATTENTION, "Mean": plain}, record)
    saved = load_maps(tmp_path / "maps.safetensors")
    assert saved.record == record
    assert torch.equal(ibviz.attribution.methods.values(saved.maps["Grad/CAM"]), grad)
    attention, mean = saved.maps["Attention"], saved.maps["Mean"]
    assert isinstance(attention, AttentionMap)
    assert isinstance(mean, AttentionMap)
    assert attention.index is not None
    assert torch.equal(attention.index, INDEX)
    assert torch.equal(attention.values(), ANCHORS[INDEX])
    assert torch.equal(mean.mean, plain.mean)


def test_figures_and_evaluations_take_what_is_read(tmp_path):
    images, network = torch.rand(2, 3, 16, 16), quadrants()
    maps = {"Saliency": ibviz.explain(network, images, "saliency", targets=0), "Attention": ATTENTION}
    save_maps(tmp_path / "maps.safetensors", maps)
    read = load_maps(str(tmp_path / "maps.safetensors")).maps
    ibviz.figures.panel(images, read).save(tmp_path / "panel.png")
    values = [ibviz.evaluate(network, images, given, targets=0).frame()["value"].tolist() for given in (maps, read)]
    assert values[0] == values[1]


def test_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "maps.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_maps(path)
    save_file({"a": torch.rand(1, 2, 2)}, path)
    with pytest.raises(InputError, match="holds tensors without an ibviz header; expected an ibviz maps"):
        load_maps(path)
    for tensors, message in (
        ({"a": torch.rand(2, 2)}, r"'a' should be maps \(b, rows, columns\); got \(2, 2\)"),
        ({"a/index": INDEX + 1, "a/anchors": ANCHORS}, "the parts of 'a' do not belong together"),
        ({"a/anchors": ANCHORS}, "the parts of 'a' do not belong together"),
    ):
        write_tensors(path, tensors, {"kind": "maps", "record": {}})
        with pytest.raises(InputError, match=message):
            load_maps(path)
