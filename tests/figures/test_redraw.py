"""A figure drawn again from its sidecar is the same file; data that has changed is refused."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from ibviz import cli
from ibviz.errors import InputError
from ibviz.figures import Template, anchor_usage, curves, dots, overlay, panel, rate_accuracy, table, trainings
from ibviz.figures.sidecar import Panel, pack_argument, unpack_argument
from ibviz.types import AttentionMap
from ibviz.workflows.figure import redraw_figure, redraw_files
from tests.figures.drawn import continuous, quantised


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def every_option(**changes: Any) -> Panel:
    index = torch.arange(18).view(2, 3, 3) % 3
    rows = {
        "tensor": quantised(index, [0.1, 0.5, 0.9]),
        "mapping": continuous(rand(2, 4, 4)),
        "half": rand(2, 4, 4).half(),
        "double": rand(2, 3, 3).double() - 0.5,
        "pixels": rand(2, 32, 32),
        "again": rand(2, 32, 32),
    }
    boxes = torch.tensor([[2.0, 2.0, 9.0, 9.0], [torch.nan] * 4])
    return panel(
        rand(2, 3, 32, 32),
        rows,
        captions=["cat", "dog"],
        boxes=boxes,
        masks=rand(2, 32, 32) > 0.9,
        blend=0.5,
        fade=True,
        contours=[0.5],
        scales={"half": "shared", "tensor": (0.0, 1.0), "pixels": "shared"},
        original_size=(64, 64),
        record={"seed": 1},
        **{"template": "cvpr column", **changes},
    )


def of_curves() -> Panel:
    steps = torch.linspace(0, 1, 6)
    sides = {
        "deletion": {
            "cam": (steps, rand(5, 6)),
            "own": (rand(5, 6).sort().values, rand(5, 6)),
            "noise": (steps, rand(4, 6)),
        }
    }
    return curves(sides, controls=["noise"], score="logit", template="neurips")


def of_rates(**changes: Any) -> Panel:
    value = torch.tensor([0.5, 0.8])
    return rate_accuracy(
        {"a": (torch.tensor([9.0, 300.0]), torch.stack([value, value - 0.1, value + 0.1], 1))}, **changes
    )


NEW: dict[str, Any] = {
    "scale": "image",
    "limit": 99.0,
    "cmap": "viridis",
    "groups": {"m": "one", "n": "two"},
    "title": "net",
    "note": "cropped",
}
DRAWN: dict[str, Callable[[], Panel]] = {
    "panel": every_option,
    "huge": lambda: panel(rand(1, 3, 60, 1200), {"m": rand(1, 60, 1200)}),
    "overlay": lambda: overlay(rand(3, 8, 8), rand(2, 2), label="m"),
    "own page": lambda: overlay(rand(3, 8, 8), rand(2, 2), template=Template(4.0, 5.0, "DejaVu Serif", 9.0)),
    "new": lambda: panel(rand(1, 3, 8, 8), {"m": rand(1, 2, 2), "n": rand(1, 8, 8)}, **NEW),
    "curves": of_curves,
    "usage": lambda: anchor_usage(torch.tensor([3, 0]), rand(2), occupancy=torch.tensor([[1, 0]]), class_names=["x"]),
    "rates": of_rates,
    "dots": lambda: dots({"default": 0.4, "black": 0.3, "logit": float("nan")}, reference="default"),
    "trainings": lambda: trainings({"cam": rand(3, 3)}, {"cam": rand(3)}, controls={"centre": rand(3)}),
    "table": lambda: table(["method", "n"], [["a", "1"], ["b", "2"]], controls=[0]),
}


@pytest.mark.parametrize("name", list(DRAWN))
def test_redrawn_elsewhere_the_bytes_are_the_same(tmp_path, name):
    DRAWN[name]().save(tmp_path / "one.png", dpi=80)
    assert redraw_files(tmp_path / "one.json", tmp_path / "two" / "again.png") == [tmp_path / "two" / "again.png"]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two" / "again.png").read_bytes()
    told, again = (json.loads(path.read_text()) for path in (tmp_path / "one.json", tmp_path / "two" / "again.json"))
    if told["data"] is not None:
        assert again["data"].pop("sha256") == told["data"].pop("sha256")
        assert (told["data"]["file"], again["data"]["file"]) == ("one.data.safetensors", "again.data.safetensors")
        again["data"] = told["data"]
    if again != told:
        assert again.pop("sha256") != told.pop("sha256")  # since the data has another name
    assert again == told


def test_redrawn_in_place_every_format_comes_back(tmp_path):
    drawn = DRAWN["overlay"]()
    for suffix in (".png", ".pdf", ".svg"):
        drawn.save(tmp_path / f"fig{suffix}", dpi=60)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for suffix in (".png", ".pdf", ".svg"):
        (tmp_path / f"fig{suffix}").unlink()
    redraw_files(tmp_path / "fig.json", None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_was_given_may_change_after_drawing(tmp_path):
    maps = rand(1, 4, 4)
    drawn = panel(rand(1, 3, 8, 8), {"m": maps})
    drawn.save(tmp_path / "fig.png", dpi=60)
    maps.zero_()
    drawn.save(tmp_path / "fig.png", dpi=60)
    assert redraw_figure(tmp_path / "fig.json").account == drawn.account


def test_data_that_has_changed_is_refused_and_nothing_is_written(tmp_path):
    DRAWN["overlay"]().save(tmp_path / "fig.png", dpi=60)
    data = tmp_path / "fig.data.safetensors"
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1
    data.write_bytes(bytes(raw))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"fig.data.safetensors has changed since fig.json was written"):
        redraw_files(tmp_path / "fig.json", tmp_path / "out.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    data.unlink()
    with pytest.raises(InputError, match=r"cannot read .*fig.data.safetensors, the data of fig.json: No such file"):
        redraw_figure(tmp_path / "fig.json")


def test_a_sidecar_from_before_data_were_kept_says_so(tmp_path):
    DRAWN["overlay"]().save(tmp_path / "fig.png", dpi=60, data=False)
    assert {path.name for path in tmp_path.iterdir()} == {"fig.png", "fig.json"}
    with pytest.raises(InputError, match="made without data"):
        redraw_figure(tmp_path / "fig.json")


def test_exactly_what_was_packed_is_unpacked():
    shared = rand(3)
    attention = AttentionMap(rand(1, 2, 2), rand(1, 2, 2), torch.tensor([[[0, 1], [1, 0]]]), rand(2))
    given = {
        "a": (shared, shared),
        "tuple": [1, None, "x", (2,)],
        "mapping": {"attention": attention},
        "bytes": torch.arange(256).float() / 255,
        "half": rand(2).bfloat16(),
        "no": torch.tensor([torch.nan, 0.0]),
    }
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack_argument(given, tensors, "x")))
    back = unpack_argument(packed, tensors)
    assert back["a"][0] is back["a"][1]  # kept once
    assert back["tuple"] == given["tuple"]
    assert sorted(str(one.dtype) for one in tensors.values()) == sorted(
        ["torch.float32", "torch.int64", "torch.float32", "torch.uint8", "torch.bfloat16", "torch.float32"]
    )
    for name in ("bytes", "half", "no"):
        torch.testing.assert_close(back[name], given[name], rtol=0, atol=0, equal_nan=True)
    index, anchors = back["mapping"]["attention"].index, back["mapping"]["attention"].anchors
    torch.testing.assert_close((index, anchors), (attention.index, attention.anchors), rtol=0, atol=0)


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ibviz", "figure", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.run()
    return int(stopped.value.code or 0)


PAGES = [
    ("panel", {"template": "neurips"}, ["--template", "neurips"]),
    ("overlay", {"template": "slides", "blend": 0.3}, ["--template", "slides", "--blend", "0.3"]),
    ("overlay", {"cmap": "viridis", "contours": [0.5, 0.8]}, ["--colours", "viridis", "--contours", "0.5,0.8"]),
    ("usage", {"template": "cvpr"}, ["--template", "cvpr"]),
    (
        "rates",
        {"template": Template(5.0, 9.0, "DejaVu Serif")},
        ["--width", "5", "--font", "DejaVu Serif"],
    ),
]
ANEW: dict[str, Callable[..., Panel]] = {
    "panel": lambda **changes: every_option(**changes),
    "overlay": lambda **changes: overlay(rand(3, 8, 8), rand(2, 2), label="m", **changes),
    "usage": lambda **changes: anchor_usage(
        torch.tensor([3, 0]), rand(2), occupancy=torch.tensor([[1, 0]]), class_names=["x"], **changes
    ),
    "rates": lambda **changes: of_rates(**changes),
}


@pytest.mark.parametrize(("name", "changes", "flags"), PAGES)
def test_redrawn_with_changes_the_bytes_are_those_of_the_figure_drawn_so(tmp_path, monkeypatch, name, changes, flags):
    DRAWN[name]().save(tmp_path / "one.png", dpi=80)
    ANEW[name](**changes).save(tmp_path / "so.png", dpi=80)
    ANEW[name](**changes).save(tmp_path / "so.pdf", dpi=80)
    assert run(monkeypatch, tmp_path / "one.json", "--out", tmp_path / "two", "--format", "png", *flags) == 0
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "so.png").read_bytes()
    assert (tmp_path / "two.png").read_bytes() != (tmp_path / "one.png").read_bytes()
    redraw_files(tmp_path / "two.json", tmp_path / "three.pdf")
    again, so = (json.loads((tmp_path / f"{stem}.json").read_text()) for stem in ("two", "so"))
    assert again["arguments"] == so["arguments"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--template", "cvpr"], "give their name, --out FILE"),
        (["--out", "x.png", "--template", "cvprr"], "unknown template 'cvprr'.*did you mean 'cvpr'"),
        (["--out", "x.png", "--font", "Dejavu"], "no installed font is called 'Dejavu'"),
        (["--out", "x.png", "--width", "-1"], "above 0"),
        (["--out", "x", "--format", "jpg"], "unknown format 'jpg'"),
        (["--out", "x.png", "--contours", "a"], "--contours takes numbers"),
        (["--out", "x.png", "--blend", "0.3"], "a figure of the kind table has no blend"),
    ],
)
def test_a_change_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys, flags, says):
    DRAWN["table"]().save(tmp_path / "fig.png", dpi=60)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, tmp_path / "fig.json", *flags) == 2
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert error.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("x")]


def test_a_panel_in_a_figure_of_ones_own_is_not_redrawn(tmp_path):
    figure = Figure(figsize=(4, 4))
    panel(rand(1, 3, 8, 8), {"m": rand(1, 2, 2)}, axes=figure.subplots()).save(tmp_path / "fig.png", dpi=50)
    with pytest.raises(InputError, match="made without data; draw the figure anew"):
        redraw_figure(tmp_path / "fig.json")


def test_the_command_line_draws_again_and_names_the_file(tmp_path, monkeypatch, capsys):
    DRAWN["overlay"]().save(tmp_path / "fig.png", dpi=60)
    assert run(monkeypatch, tmp_path / "fig.json", "--out", tmp_path / "new.pdf") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "new.pdf")
    assert (tmp_path / "new.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read .*No such file"),
        ("{}", "not the sidecar of a figure"),
        (
            '{"format": "ibviz figure", "kind": "tie study", "record": {}}',
            "unknown kind of figure in .* known: anchor_usage",
        ),
        ('{"format": "ibviz figure", "kind": "panel", "record": {}}', "made without data"),
        ('{"format": "ibviz figure", "kind": "panel", "record": {}, "arguments": {"images": {"tensor": "0"}}}', "data"),
        (
            '{"format": "ibviz figure", "kind": "table", "record": {}, "arguments": {"colour": 1}, "dpi": {}}',
            "unknown argument of table in .*fig.json 'colour'; known: cells, controls, header",
        ),
        (
            '{"format": "ibviz figure", "kind": "table", "record": {}, "arguments": {"cells": 1, "header": []}}',
            "fig.json does not hold the arguments of table: ",
        ),
    ],
)
def test_what_is_no_sidecar_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys, text, says):
    if text is not None:
        (tmp_path / "fig.json").write_text(text)
    assert run(monkeypatch, tmp_path / "fig.json") == 2
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert error.count("\n") == 1
