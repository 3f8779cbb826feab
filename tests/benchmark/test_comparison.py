import io
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from networks import quadrants
from PIL import Image
from torch import nn

from ibviz.benchmark import comparison as module
from ibviz.benchmark.comparison import CHANGES, compare_protocols, comparison_text
from ibviz.metrics import PRESETS, CurveProtocol, faithfulness, preset, scorer
from ibviz.models.loading import wrap
from ibviz.workflows.compared_protocols import compare_protocols_on


def scene():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 16, generator=generator), torch.rand(2, 4, 4, generator=generator)


def test_every_preset_and_every_change_is_the_engine_called_directly():
    images, maps = scene()
    model = quadrants()
    _, presets, moves, _ = compare_protocols(model, images, maps, labels=torch.tensor([0, 3]))
    assert [one.name for one in presets] == list(PRESETS)
    assert {one.name for one in moves} == set(CHANGES)
    score = scorer(model, model(images).argmax(1))
    for one in presets:
        protocol = preset(one.name, (16, 16), (0.0, 0.0, 0.0), grid=(4, 4))
        direct = faithfulness(score, images, maps, protocol=protocol)
        assert one.hash == protocol.hash
        assert one.srg == pytest.approx(float(direct.srg.mean()), abs=1e-6)
        moved = math.nan if one.name == "quantus" else one.srg - presets[0].srg  # which adds up its points
        assert one.moved == pytest.approx(moved, nan_ok=True)
    changed = {one.name: one for one in moves}
    logit = CurveProtocol(colour=(0, 0, 0), grid=(4, 4), score="logit")
    direct = faithfulness(scorer(model, model(images).argmax(1), kind="logit"), images, maps, protocol=logit)
    assert changed["score: logit"].srg == pytest.approx(float(direct.srg.mean()), abs=1e-6)
    # A map without ties has one order, and its own grid is the common one: these choices move nothing.
    for name in ("ties: index", "ties: reverse", "ties: group", "grid: the map's own", "baseline: black"):
        assert changed[name].moved == pytest.approx(0, abs=1e-6)
    sizes = [abs(one.moved) for one in moves if not math.isnan(one.moved)]
    assert sizes == sorted(sizes, reverse=True)
    others = {one.name for one in moves[len(sizes) :]}  # in other units: no move, and at the end
    assert others == {"area: sum of points", *(name for name in CHANGES if name.startswith("score: "))}


def test_a_class_that_is_not_known_is_not_asked_for():
    images, maps = scene()
    found = compare_protocols(quadrants(), images, maps)
    assert {one.name for one in found.moves} == set(CHANGES) - {"class: true"}
    assert found.pointing == []
    printed = comparison_text(found, 2)
    assert "Means over 2 images. The default: 4x4 cells, 32 steps at most, baseline mean_colour" in printed
    assert "torchray is a rule of the pointing game and needs objects" in printed
    assert all(one.hash in printed for one in found.presets)


def test_known_objects_are_pointed_at_by_both_rules():
    """A constant map hits the corner object by its share, or, from TorchRay's first pixel, always."""
    images, regions = scene()[0], torch.zeros(2, 16, 16, dtype=torch.bool)
    regions[0, :4, :4] = True
    found = compare_protocols(quadrants(), images, torch.ones(2, 4, 4), regions=regions)
    default, torchray = found.pointing
    assert default.hit.micro == default.chance.micro == (16 + 2 * 4) / 256  # 15 / 14 px: one pixel beyond
    assert (torchray.name, torchray.hit.micro, torchray.hit.n, torchray.hit.excluded) == ("torchray", 1.0, 1, 1)
    printed = comparison_text(found, 2)
    assert "Pointing game; images with an object: 1, without: 1" in printed
    assert "torchray  1.0000" in printed


@pytest.mark.parametrize(("names", "known"), [("0123456789", True), ("abcd", False)])
def test_labels_of_files_are_known_where_the_model_has_their_classes(names, known, tmp_path, monkeypatch):
    linear = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, len(names)))
    model = wrap(linear, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), class_names=list(names), size=48)
    monkeypatch.setattr(module, "PRESETS", {"default": {}})
    monkeypatch.setattr(module, "CHANGES", {"ties: index": {"ties": "index"}, "class: true": {"target": "true"}})
    written = io.BytesIO()
    Image.new("RGB", (48, 48), (200, 100, 50)).save(written, "png")
    rows = {"image": [{"bytes": written.getvalue(), "path": f"{label}.png"} for label in (1, 5)], "label": [1, 5]}
    pq.write_table(pa.table(rows), tmp_path / "test.parquet")
    printed = compare_protocols_on(tmp_path, model, "random_cells", {})
    assert ("class: true" in printed) == known
    assert "ties: index" in printed
