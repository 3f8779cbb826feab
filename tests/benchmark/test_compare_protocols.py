import pytest
import torch
from networks import quadrants

from ibviz.benchmark.compare_protocols import CHANGES, compare_protocols, page
from ibviz.metrics import PRESETS, CurveProtocol, faithfulness, preset, scorer


def scene():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 16, generator=generator), torch.rand(2, 4, 4, generator=generator)


def test_every_preset_and_every_change_is_the_engine_called_directly():
    images, maps = scene()
    model = quadrants()
    presets, moves = compare_protocols(model, images, maps, labels=torch.tensor([0, 3]))
    assert [one.name for one in presets] == list(PRESETS)
    assert {one.name for one in moves} == set(CHANGES)
    score = scorer(model, model(images).argmax(1))
    for one in presets:
        protocol = preset(one.name, (16, 16), (0.0, 0.0, 0.0), grid=(4, 4))
        direct = faithfulness(score, images, maps, protocol=protocol)
        assert one.hash == protocol.hash
        assert one.srg == pytest.approx(float(direct.srg.mean()), abs=1e-6)
        assert one.moved == pytest.approx(one.srg - presets[0].srg)
    changed = {one.name: one for one in moves}
    logit = CurveProtocol(colour=(0, 0, 0), grid=(4, 4), score="logit")
    direct = faithfulness(scorer(model, model(images).argmax(1), kind="logit"), images, maps, protocol=logit)
    assert changed["score: logit"].srg == pytest.approx(float(direct.srg.mean()), abs=1e-6)
    # A map without ties has one order, and its own grid is the common one: these choices move nothing.
    for name in ("ties: index", "ties: reverse", "ties: group", "grid: the map's own", "baseline: black"):
        assert changed[name].moved == pytest.approx(0, abs=1e-6)
    assert abs(moves[0].moved) == max(abs(one.moved) for one in moves)


def test_a_class_that_is_not_known_is_not_asked_for():
    images, maps = scene()
    presets, moves = compare_protocols(quadrants(), images, maps)
    assert {one.name for one in moves} == set(CHANGES) - {"class: true"}
    printed = page(presets, moves, 2)
    assert "Means over 2 images." in printed
    assert all(one.hash in printed for one in presets)
