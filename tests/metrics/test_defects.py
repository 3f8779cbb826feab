"""One test for each defect found in other programs' metrics: what they do, and that this one does otherwise.

The numbers are those of the list the metrics were written against. Where a peer itself can be asked, it is in
`test_presets`, `test_localisation` and `test_imputation`.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import typer
from torch.testing import assert_close

from ibviz.cli import app
from ibviz.figures import panel
from ibviz.metrics import (
    CurveProtocol,
    PointingGame,
    auroc,
    averages,
    energy_pointing_game,
    faithfulness,
    iou_at_quantile,
    max_box_acc,
    overlaps,
    pixel_counts,
    pointing_game,
    sensitivity_n,
    top_cell_precision,
    torchray_pointing_game,
)
from tests.figures.drawn import grey, middle, parts
from tests.metrics.reference import masked, ordered_cells
from tests.metrics.test_curves import images, wavy

ROOT = Path(__file__).parents[2]
RULES = ("expected", "group", "index", "reverse")
# Three levels of 49, 6 and 9 of 64 cells, the highest the rarest: 77, 9 and 14 %.
THREE_LEVELS = torch.tensor([0.0] * 49 + [0.5] * 6 + [1.0] * 9)[
    torch.randperm(64, generator=torch.Generator().manual_seed(0))
].view(1, 8, 8)


def protocol(**choices) -> CurveProtocol:
    return CurveProtocol.model_validate({"colour": (0, 0, 0)} | choices)


def share_kept(states, rows):
    """Of an image of ones on a baseline of zeros."""
    del rows
    return states.mean((1, 2, 3))


def region(size, top, left, bottom, right) -> torch.Tensor:
    made = torch.zeros(1, *size, dtype=torch.bool)
    made[:, top:bottom, left:right] = True
    return made


def test_d1_an_empty_mask_is_no_hit():
    """Quantus stores NaN as a boolean, which makes it True. Here the image is left out, and counted."""
    regions = torch.cat([region((4, 4), 0, 0, 0, 0), region((4, 4), 0, 0, 2, 2)])
    maps = torch.eye(4).flip(0).expand(2, -1, -1)  # no maximum on the object
    hit = pointing_game(maps, regions, tolerance=0.0).hit
    assert averages(hit, torch.zeros(2, dtype=torch.long)) == (0.0, 0.0, 1, 1)
    shell = PointingGame(tolerance=0.0)
    shell.update(maps=maps, regions=regions)
    assert (float(shell.compute()), int(shell.excluded)) == (0.0, 1)


MAPS = torch.tensor([[[0.9, 0.8, 0.1], [0.3, 0.7, 0.2]]])
BOX = [torch.tensor([[0.0, 0.0, 3.0, 4.0]])]
FOUND = torch.tensor([[0.2, 0.6], [0.9, 0.4]])
CALLS = {
    pointing_game: (torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), region((1, 16), 0, 6, 1, 10)),
    energy_pointing_game: (MAPS, region((6, 9), 0, 0, 3, 4)),
    pixel_counts: (MAPS, region((6, 9), 0, 0, 2, 4)),
    auroc: (MAPS, region((6, 9), 0, 0, 2, 4)),
    top_cell_precision: (MAPS, region((6, 9), 0, 0, 2, 4)),
    iou_at_quantile: (MAPS, region((6, 9), 0, 0, 2, 4)),
    overlaps: (torch.tensor([[[0.9, 0.0, 0.8], [0.0, 0.0, 0.8]]]), BOX, (6, 9)),
    max_box_acc: (FOUND,),
    sensitivity_n: (wavy, images(1, (6, 9)), MAPS, images(1, (6, 9), seed=4)),
}
NEEDED = {iou_at_quantile: {"quantile": 0.5}, sensitivity_n: {"n": 2}}
FLAGS = [
    (pointing_game, "tolerance", 3.0),
    (pointing_game, "enlargement", "bilinear"),
    (energy_pointing_game, "enlargement", "bilinear"),
    (auroc, "enlargement", "bilinear"),
    (pixel_counts, "enlargement", "nearest"),
    (top_cell_precision, "cells", 3),
    (iou_at_quantile, "quantile", 0.9),
    (iou_at_quantile, "enlargement", "bilinear"),
    (overlaps, "contours", "largest"),
    (overlaps, "enlargement", "nearest"),
    (max_box_acc, "deltas", (0.9,)),
    (sensitivity_n, "n", 3),
    (sensitivity_n, "subsets", 7),
    (sensitivity_n, "seed", 5),
]


@pytest.mark.parametrize(("judge", "flag", "value"), FLAGS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_d2_every_option_does_something(judge, flag, value):
    """An option of Quantus' pointing game always raised. Here each is used, and moves the result of a fixed case."""
    usual = judge(*CALLS[judge], **NEEDED.get(judge, {}))
    other = judge(*CALLS[judge], **(NEEDED.get(judge, {}) | {flag: value}))
    with pytest.raises(AssertionError):
        assert_close(other, usual, equal_nan=True)


def test_d2_no_option_is_forgotten():
    for judge in CALLS:
        options = {name for name, one in inspect.signature(judge).parameters.items() if one.kind == one.KEYWORD_ONLY}
        moving = options - {"batch_size"}  # moves memory, and no number
        assert moving == {flag for other, flag, _ in FLAGS if other is judge}


def test_d3_a_uniform_map_hits_as_often_as_chance():
    """Where any tied maximum counts, as with Quantus, a map that says nothing scores 100 %."""
    found = pointing_game(torch.full((1, 3, 5), 0.4), region((6, 10), 1, 2, 4, 7), tolerance=0.0)
    assert_close(found.hit, torch.tensor([15 / 60]))
    assert found.best.item() == 1  # the rule of Quantus


def test_d4_road_fills_colours_under_one_map():
    """Quantus' ROAD fails on RGB images with a one-channel map. A constant colour is imputed as that colour."""
    colour = torch.tensor([0.2, 0.5, 0.8])
    x = colour.view(1, 3, 1, 1).expand(1, 3, 8, 12).contiguous()
    for channel in range(3):
        score = lambda states, _, channel=channel: states.mean((2, 3))[:, channel]
        found = faithfulness(score, x, torch.rand(1, 4, 6), protocol=protocol(baseline="road", ties="group"))
        assert_close(found.deletion.scores, colour[channel].expand(1, 25), atol=0.01, rtol=0)  # its noise: 0.01


def test_d5_all_channels_of_a_pixel_change_together():
    """Quantus ranks the values of channels apart, so half a colour is removed."""
    x, seen = images(1), []

    def score(states, rows):
        seen.append((states != x).sum(1))
        return wavy(states, rows)

    faithfulness(score, x, torch.rand(1, 8, 8), protocol=protocol(unit="pixel"))
    changed = torch.cat(seen)
    assert changed.unique().tolist() == [0, 3]
    assert int((changed > 0).sum()) > 1000


def test_d6_the_area_does_not_depend_on_the_number_of_steps():
    """Quantus sums points one apart and leaves the unchanged image out: more steps, more area."""
    x, maps = torch.ones(1, 3, 8, 8), torch.rand(1, 8, 8)
    for steps in (2, 8, 64):
        found = faithfulness(share_kept, x, maps, protocol=protocol(steps=steps))
        assert_close(found.deletion_auc, torch.tensor([0.5]))
        assert found.deletion.scores[0, 0].item() == 1.0


def test_d7_every_name_taken_from_numpy_exists():
    """Four programs call functions that NumPy has removed. Nothing holds ours back, and what it asks for is there."""
    assert re.search(r'"numpy>=2"', (ROOT / "pyproject.toml").read_text())
    asked = set()
    for path in (ROOT / "ibviz").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                asked.add(node.attr)
    assert len(asked) > 10
    assert {name for name in asked if not hasattr(np, name)} == set()


@pytest.mark.parametrize("rule", RULES)
def test_d8_the_stated_fraction_is_removed(rule):
    """pytorch-grad-cam's ROAD cuts at a percentile: of three levels, nominal 30 to 90 % all remove everything."""
    found = faithfulness(share_kept, torch.ones(1, 3, 16, 16), THREE_LEVELS, protocol=protocol(ties=rule))
    assert_close(1 - found.deletion.scores, found.deletion.fractions)
    nominal = [0, 9 / 64, 15 / 64, 1] if rule == "group" else torch.linspace(0, 1, 33).tolist()
    assert_close(found.deletion.fractions, torch.tensor([nominal]))


def test_d9_what_the_documents_import_exists():
    """pytorch-grad-cam's README imports a module that is not there. The README's own snippet runs in another test."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    blocks = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    found = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    assert found
    for node in found:
        module = importlib.import_module(node.module or "")
        assert {one.name for one in node.names if not hasattr(module, one.name)} == set()


def test_d10_tolerance_zero_can_hit_and_the_default_fits_the_image():
    """TorchRay's comparison is strict, so 0 never hits, and its 15 px make 98.8 % of the points of 32 x 32 hits."""
    centre = region((32, 32), 8, 8, 24, 24)
    plain = pointing_game(centre.float(), centre, tolerance=0.0)
    assert (plain.hit.item(), plain.chance.item()) == (1.0, 0.25)
    scaled = pointing_game(centre.float(), centre)  # 15 / 7 px: two pixels beyond each side, one across each corner
    assert scaled.chance.item() == (256 + 4 * 2 * 16 + 4) / 1024
    assert torchray_pointing_game(centre.float(), centre).chance.item() > 0.98


def test_d11_every_point_is_a_state_of_its_own_and_near_values_keep_their_order():
    """InputIBA hands one tensor to many steps, which makes a staircase, and reads its maps from 8-bit pictures."""
    x = images(1)
    maps = 0.5 + torch.randperm(16, generator=torch.Generator().manual_seed(2)).view(1, 4, 4) * 1e-5  # one grey of 256

    def ruthless(states, rows):
        score = wavy(states, rows)
        states.fill_(torch.nan)  # a scorer that writes into what it is given
        return score

    found = faithfulness(ruthless, x, maps, protocol=protocol(batch_size=5))
    order = ordered_cells(maps.flatten().tolist(), list(range(16)))
    for step in range(17):
        expected = masked(x[0], set(order[step:]), (4, 4), (0, 0, 0))
        assert_close(found.deletion.scores[0, step], wavy(expected[None], torch.tensor([0]))[0])


def test_d12_both_ends_are_scored():
    """LATEC scores neither the image nor the baseline, so a constant score of 1 has an area below 1."""
    x, rows = images(), torch.arange(3)
    found = faithfulness(wavy, x, torch.rand(3, 4, 4), protocol=protocol())
    assert_close(found.deletion.scores[:, [0, -1]], torch.stack([wavy(x, rows), wavy(x * 0, rows)], dim=1))
    constant = faithfulness(lambda s, _: torch.ones(len(s)), x, torch.rand(3, 4, 4), protocol=protocol())
    assert_close(constant.deletion_auc, torch.ones(3))


def test_d13_two_networks_have_two_numbers():
    """FoXAI integrates its thresholds, not the network's answers."""
    x, maps = images(), torch.rand(3, 4, 4)
    for factor in (1.0, 3.0):
        found = faithfulness(lambda s, _: factor * s.mean((1, 2, 3)), x * 0 + 1, maps, protocol=protocol())  # noqa: B023
        assert_close(found.deletion_auc, torch.full((3,), factor / 2))


@pytest.mark.parametrize("rule", RULES)
def test_d14_the_last_point_removes_everything(rule):
    """InterpretDL asks for more than a threshold, so the lowest level stays: of three levels, 23 % are removed."""
    found = faithfulness(share_kept, torch.ones(1, 3, 16, 16), THREE_LEVELS, protocol=protocol(ties=rule))
    assert (found.deletion.fractions[0, -1].item(), found.deletion.scores[0, -1].item()) == (1.0, 0.0)
    assert found.f_baseline.item() == 0.0


@pytest.mark.parametrize("rule", RULES)
def test_d15_the_stated_fraction_is_revealed(rule):
    """PAIR's curve asks for 0.5 % and shows 14 %, asks for 34 % and shows all."""
    found = faithfulness(share_kept, torch.ones(1, 3, 16, 16), THREE_LEVELS, protocol=protocol(ties=rule))
    assert_close(found.insertion.scores, found.insertion.fractions)
    first, last = found.insertion.fractions[0, [1, -2]].tolist()
    assert (first, last) == ((9 / 64, 15 / 64) if rule == "group" else (2 / 64, 62 / 64))


@pytest.mark.parametrize("rule", ["expected", "group"])
def test_d16_least_first_is_most_first_backwards(rule):
    """PnPXAI sorts both stably, so the same tied pixels go first in both; a constant map then prefers some of them."""
    for maps in (torch.zeros(3, 4, 4), THREE_LEVELS[:, :4, :4].expand(3, -1, -1)):
        found = faithfulness(wavy, images(), maps, protocol=protocol(ties=rule, second="lerf"))
        assert_close(
            found.insertion.scores,
            faithfulness(wavy, images(), maps, protocol=protocol(ties=rule)).insertion.scores.flip(1),
            atol=1e-6,
            rtol=0,
        )
    constant = torch.zeros(3, 4, 4)
    ours = faithfulness(wavy, images(), constant, protocol=protocol(ties=rule, second="lerf"))
    theirs = faithfulness(wavy, images(), constant, protocol=protocol(ties="index"))
    assert_close(ours.srg, torch.zeros(3), atol=1e-6, rtol=0)
    assert float(theirs.srg.abs().max()) > 1e-3


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_d17_images_are_read_wherever_and_however_they_lie(device):
    """RISE writes through NumPy's view of a copy: on a GPU nothing changes. It knows 224 px and 1000 classes only."""
    x, maps = images(1), torch.rand(1, 4, 4)
    expected = faithfulness(wavy, x, maps, protocol=protocol()).deletion_auc
    wide = torch.zeros(1, 8, 8, 6).permute(0, 3, 1, 2)  # no memory of their own, in another order
    wide[:, ::2] = x
    score = lambda states, rows: wavy(states.cpu().contiguous(), rows.cpu()).to(device)
    given = wide[:, ::2].to(device)
    before = given.clone()
    found = faithfulness(score, given, maps.to(device), protocol=protocol())
    assert found.deletion_auc.device.type == device
    assert_close(found.deletion_auc.cpu(), expected, atol=1e-6, rtol=0)
    assert torch.equal(given, before)


def test_d18_removed_sets_are_nested_and_the_same_every_time():
    """ROAD's own program breaks ties by noise without a seed, drawn anew at each percentage."""
    states = []

    def score(given, rows):
        states.append(given.clone())
        return wavy(given, rows)

    x = images(1) * 0.5 + 0.5
    one, two = (faithfulness(score, x, torch.zeros(1, 4, 4), protocol=protocol(orders=2)) for _ in range(2))
    assert torch.equal(one.deletion.scores, two.deletion.scores)
    kept = [(torch.cat(states)[:, 0] > 0).flatten(1).int()][0].unique(dim=0)
    by_size = sorted(kept.tolist(), key=sum)
    sizes = [sum(row) // 4 for row in by_size]
    assert sizes == sorted([0, 16, *range(1, 16), *range(1, 16)])  # two orders, one the other backwards: two chains
    chains = [[by_size[0]], [by_size[0]]]
    for row in by_size[1:-1]:
        grown = [
            chain
            for chain in chains
            if all(a <= b for a, b in zip(chain[-1], row, strict=True)) and sum(row) > sum(chain[-1])
        ]
        assert grown, "a removed cell came back"
        grown[0].append(row)


def test_d19_columns_are_not_rows():
    """Score-CAM's energy and another program's swap x and y: an object in the far right of a wide image tells."""
    there = region((4, 12), 0, 9, 2, 12)
    assert energy_pointing_game(there.float(), there).energy.item() == 1
    assert pointing_game(there.float(), there, tolerance=0.0).worst.item() == 1
    assert top_cell_precision(there.float(), there, cells=6).item() == 1
    assert overlaps(there.float(), [torch.tensor([[9.0, 0.0, 12.0, 2.0]])], (4, 12))[0, 50].item() == 1


def test_d20_insertion_starts_at_its_baseline():
    """A benchmark's insertion curve begins with the score of the whole image."""
    x, rows = images(), torch.arange(3)
    found = faithfulness(wavy, x, torch.rand(3, 4, 4), protocol=protocol(insertion_baseline="image_mean"))
    empty = x.mean((2, 3), keepdim=True).expand_as(x)
    assert_close(found.insertion.scores[:, [0, -1]], torch.stack([wavy(empty, rows), wavy(x, rows)], dim=1))


def test_d21_flags_can_be_left_off():
    """Chefer's options are of `type=bool`, for which the word "False" is true. Ours take no word, and are off.

    Eager flags such as `--keys` print and end.
    """
    group: Any = typer.main.get_command(app)
    seen = 0
    for command in group.commands.values():
        hints = get_type_hints(command.callback)
        options = [one for one in command.params if one.required]
        needed = [word for one in options for word in ([one.opts[0], "x"] if one.opts[0][0] == "-" else ["x"])]
        for option in (one for one in command.params if hints.get(one.name) is bool and not one.is_eager):
            off, on = (command.make_context("x", [*needed, *more]).params for more in ([], option.opts[:1]))
            assert (off[option.name], on[option.name]) == (False, True)
            with pytest.raises(Exception, match="does not take a value"):
                command.make_context("x", [*needed, f"{option.opts[0]}=False"])
            seen += 1
    assert seen >= 3


def test_d22_one_value_has_one_colour_in_all_images():
    """Captum's figures scale each image by its own 98 % of mass."""
    maps = torch.tensor([0.2, 1.0, 0.2, 0.4]).view(2, 1, 2).repeat_interleave(3, 1).repeat_interleave(3, 2)
    maps[:, 1, 1] = 0.2
    maps[:, 0, 5] = torch.tensor([1.0, 0.4])
    one, other = (middle(part[:, : part.shape[1] // 2]) for part in parts(panel(grey(2), {"map": maps}))[2:4])
    assert one.tolist() == other.tolist()


def test_d23_enlargement_is_part_of_the_protocol():
    """Captum enlarges in blocks where CAM libraries do so bilinearly: one map, other ranks. Here the hash tells."""
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    rules = [protocol(unit="pixel", enlargement=name) for name in ("nearest", "bilinear")]
    one, other = (faithfulness(wavy, images(), maps, protocol=rule).srg for rule in rules)
    assert float((one - other).abs().max()) > 1e-3
    assert rules[0].hash != rules[1].hash


def test_every_defect_has_its_test():
    numbers = {int(found) for found in re.findall(r"^def test_d(\d+)_", Path(__file__).read_text(), re.MULTILINE)}
    assert numbers == set(range(1, 24))
