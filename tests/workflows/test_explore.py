"""The explorer: edits of cells against formulas, and the widget in a browser, alone and in a real JupyterLab."""

import base64
import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from results import write_results

import ibviz
from ibviz.anchors import CELL_EDITS, CellEdit, Donors, Variant, edited, intervene, summarise_effects
from ibviz.benchmark.store import pack, write_shard
from ibviz.data import digits, to_float
from ibviz.errors import InputError
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.types import AttentionMap
from tests.workflows.jupyter import jupyterlab

pytest.importorskip("anywidget", reason="the widget needs `pip install 'ibviz[notebooks]'`")

COUNT = 12
MINUS = "\N{MINUS SIGN}"
WAIT = 120_000  # milliseconds for a kernel to start, on a busy machine
CELLS = [
    f"import ibviz\nfrom ibviz.data import digits\n"
    f'widget = ibviz.explore(ibviz.load("digits"), digits("test", count={COUNT}, seed=0))\nwidget',
    'print("state", widget.anchors, widget.image, len(widget.shown), widget.effect["text"])',
]


@pytest.fixture(scope="module")
def model():
    return ibviz.load("digits")


@pytest.fixture(scope="module")
def scenes():
    return digits("test", count=COUNT, seed=0)


@pytest.fixture
def widget(model, scenes):
    return ibviz.explore(model, scenes)


@pytest.fixture(scope="module")
def own(model, scenes):
    return model.inspect(to_float(scenes.images)).attention


def donors(own) -> Donors:
    return Donors(own.values().roll(1, 0), own.values().mean(0, keepdim=True))


@pytest.mark.parametrize(
    ("edit", "variant"),
    [
        (CellEdit("mean", (18,)), Variant("erase", 18)),
        (CellEdit("mean", tuple(range(20))), Variant("mean")),
        (CellEdit("swap", tuple(range(20))), Variant("swap")),
        (CellEdit("set", tuple(range(20)), 7), Variant("uniform", 7)),
        (CellEdit("set", (), 7), None),
        (CellEdit("drop", ()), None),
        (CellEdit("keep", tuple(range(20))), None),
    ],
)
def test_edits_of_cells_are_interventions_where_these_exist(own, edit, variant):
    expected = own.values() if variant is None else edited(own, donors(own), variant)
    assert edited(own, donors(own), edit).equal(expected)


def test_keeping_the_anchors_above_one_is_the_intervention_keep(own):
    anchors = own.anchors
    above = tuple(k for k in range(20) if anchors[k] >= anchors[15])
    assert edited(own, donors(own), CellEdit("keep", above)).equal(edited(own, donors(own), Variant("keep", 15)))


def test_edits_cell_by_cell(own):
    """The rule of each edit as a plain loop."""
    values, anchors, others = own.values(), own.anchors, donors(own)
    rules = {
        "drop": lambda n, y, x, lit: anchors.min() if lit else values[n, y, x],
        "keep": lambda n, y, x, lit: values[n, y, x] if lit else anchors.min(),
        "set": lambda n, y, x, lit: anchors[3] if lit else values[n, y, x],
        "mean": lambda n, y, x, lit: values[n].mean() if lit else values[n, y, x],
        "swap": lambda n, y, x, lit: others.other[n, y, x] if lit else values[n, y, x],
    }
    assert rules.keys() == CELL_EDITS.keys()
    for name, rule in rules.items():
        found = edited(own, others, CellEdit(name, (0, 12, 19), 3 if name == "set" else None))
        for n in range(2):
            for y in range(12):
                for x in range(12):
                    expected = rule(n, y, x, int(own.index[n, y, x]) in (0, 12, 19))
                    torch.testing.assert_close(found[n, y, x], expected)


def test_the_effect_is_that_of_the_network_with_other_values(model, scenes, widget):
    widget.anchors = [17, 18, 19]
    line = widget.intervene("drop")
    images, seen = to_float(scenes.images), model.inspect(to_float(scenes.images))
    values = seen.attention.values()
    dropped = values.where(seen.attention.index < 17, seen.attention.anchors.min())
    best = seen.logits.argmax(1, keepdim=True)
    before, after = (
        logits.softmax(1).gather(1, best)[:, 0] for logits in (seen.logits, model.with_gate(images, dropped[None])[0])
    )
    assert line.change.mean == pytest.approx((after - before).mean().item(), abs=1e-6)
    assert widget.effect["changes"] == pytest.approx((after - before).tolist(), abs=1e-6)
    assert widget.effect["before"] == pytest.approx(before.tolist(), abs=1e-6)
    widget.shown = [0, 3, 4]
    few = widget.intervene("drop")
    assert few.change.n == 3
    assert few.change.mean == pytest.approx((after - before)[[0, 3, 4]].mean().item(), abs=1e-6)
    [alone] = summarise_effects(intervene(model, scenes, [CellEdit("drop", (17, 18, 19))]))
    assert alone.change == line.change


def test_the_figure_shows_the_chosen_cells_of_the_images_on_the_screen(widget, own, scenes):
    widget.anchors, widget.image = [19], 4
    drawn = widget.figure()
    assert drawn.account["record"]["images"] == [scenes.names[row] for row in (4, 5, 6, 7, 8, 9)]
    assert drawn.account["record"]["chosen anchors"] == [19]
    assert drawn.tensors["3 maps/chosen cells/index"].bool().equal(own.index[4:10] == 19)
    assert widget.figure([2, 7]).account["record"]["images"] == [scenes.names[2], scenes.names[7]]


def test_images_as_a_tensor_with_boxes_and_labels(model, scenes):
    plain = ibviz.explore(model, to_float(scenes.images), boxes=scenes.boxes, labels=scenes.labels)
    full = ibviz.explore(model, scenes)
    assert plain.data["models"] == full.data["models"]
    assert [one["box"] for one in plain.data["pictures"]] == [one["box"] for one in full.data["pictures"]]


def test_a_path_stands_for_the_images_that_lie_there(model, scenes, tmp_path):
    for number, pixels in enumerate(scenes.images[:3]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    plain = ibviz.explore(model, to_float(scenes.images[:3]))
    for source in (tmp_path, str(tmp_path)):
        widget = ibviz.explore(model, source)
        assert widget.data["models"] == plain.data["models"]
        assert [picture["name"] for picture in widget.data["pictures"]] == ["0.png", "1.png", "2.png"]
    widget.anchors = [19]
    plain.anchors = [19]
    assert widget.intervene("drop").change == plain.intervene("drop").change
    with pytest.raises(InputError, match="no-such"):
        ibviz.explore(model, tmp_path / "no-such")


def test_what_cannot_be_explored_is_said_in_one_line(model, scenes, widget, tmp_path):
    spec = InputConfig(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=tuple("0123456789"))
    continuous = ibviz.models.IBClassifier(ModelConfig(anchors=None), spec).eval()
    wrapped = ibviz.wrap(torch.nn.Flatten(), mean=(0.5,), std=(0.5,), class_names=("a",), size=8)
    for call, says in (
        (lambda: ibviz.explore(model), "nothing to explore without images; give some"),
        (lambda: ibviz.explore(model, to_float(scenes.images)[:0]), "nothing to explore without images"),
        (lambda: ibviz.explore(wrapped, scenes), "has no trained attention; expected a run"),
        (lambda: ibviz.explore(continuous, scenes), "attention is continuous: it has no anchors to pick"),
        (lambda: ibviz.explore(model, scenes, boxes=torch.zeros(3, 4)), "boxes are one per image: expected 12; got 3"),
        (lambda: ibviz.explore(str(tmp_path)), "holds no finished result"),
        (lambda: ibviz.explore(str(tmp_path), scenes), "a result brings its own images"),
        (lambda: widget.intervene("dropp"), "unknown edit of cells 'dropp'.*did you mean 'drop'"),
        (lambda: widget.intervene("set"), "edits of cells name anchors from 0 to 19, and only 'set' one"),
        (lambda: widget.intervene("set", 20), "edits of cells name anchors from 0 to 19"),
        (lambda: widget.intervene("drop"), "no cell of the 12 images shown is at a chosen anchor.*; chosen: none"),
        (lambda: setattr(widget, "image", COUNT), "image is a number from 0 to 11; got 12"),
        (lambda: setattr(widget, "shown", [12]), "an image is a number from 0 to 11; got 12"),
        (lambda: setattr(widget, "shown", []), "at least one image is shown; got none"),
        (lambda: setattr(widget, "anchors", [20]), "an anchor is a number from 0 to 19; got 20"),
    ):
        with pytest.raises(InputError, match=says) as refusal:
            call()
        assert "\n" not in str(refusal.value)


def test_a_result_is_explored_without_its_network(tmp_path):
    folder = write_results(tmp_path / "results", images=6, models=("one", "two"), pictures=4)
    anchors, generator = torch.tensor([0.1, 0.9, 0.4]), torch.Generator().manual_seed(0)
    index = {name: torch.randint(0, 3, (6, 4, 4), generator=generator) for name in ("one", "two")}
    for name, own in index.items():
        shard = pack(AttentionMap(anchors[own], torch.zeros(6, 4, 4), own, anchors))
        write_shard(folder, shard, start=0, of={"model": name, "method": "Attention"})
        cam = pack(torch.rand(6, 8, 8, generator=generator))
        write_shard(folder, cam, start=0, of={"model": name, "method": "Grad-CAM"})
    for widget in (ibviz.explore(str(folder)), ibviz.explore(ibviz.benchmark.read_results(folder))):
        assert list(widget.data["models"]) == ["one", "two"]
        assert [[one["method"] for one in model["maps"]] for model in widget.data["models"].values()] == [
            ["Attention"]
        ] * 2
        cells = base64.b64decode(widget.data["models"]["two"]["maps"][0]["cells"])
        assert [*cells] == index["two"][:4].flatten().tolist()
        widget.model, widget.anchors = "two", [1]
        lit = widget.figure([0, 3]).tensors["3 maps/chosen cells/index"].bool()
        assert lit.equal(index["two"][[0, 3]] == 1)
        with pytest.raises(InputError, match=r"interventions need the network; explore it: ibviz.explore\(model, im"):
            widget.intervene("drop")
    bare = write_results(tmp_path / "bare", images=6, pictures=4)
    with pytest.raises(InputError, match="keeps no attention with anchors"):
        ibviz.explore(bare)
    with pytest.raises(InputError, match="keeps no pictures, which are explored; run the suite with pictures"):
        ibviz.explore(write_results(tmp_path / "none", images=6, pictures=0))


ALONE = """<!doctype html><html lang="en"><title>widget</title>
<body style="background: GROUND"><main><div id="el"></div></main>
<script type="application/json" id="state">STATE</script>
<script type="module">
const state = JSON.parse(document.getElementById("state").textContent);
window.kernel = {
  state, heard: {},
  get: (name) => state[name], set: (name, value) => { state[name] = value; }, save_changes: () => {},
  on: (name, act) => { kernel.heard[name] = act; }, off: () => {},
  told: (name, value) => { state[name] = value; kernel.heard[`change:${name}`](); },
};
const module = await import(URL.createObjectURL(new Blob([MODULE], { type: "text/javascript" })));
module.default.render({ model: kernel, el: document.getElementById("el") });
</script></body></html>"""


def open_alone(browser, widget, path: Path, ground: str = "white", **options: Any) -> Any:
    """Open a page in which the widget stands without a notebook."""
    names = ("data", "anchors", "image", "shown", "model", "method", "opacity", "asked", "effect")
    state = json.dumps({name: getattr(widget, name) for name in names}).replace("<", "\\u003c")
    module = json.dumps(widget._esm).replace("<", "\\u003c")
    path.write_text(ALONE.replace("STATE", state).replace("MODULE", module).replace("GROUND", ground))
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(20_000)
    page.said = []
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("console", lambda message: page.said.append(message.text))
    page.goto(path.as_uri())
    page.locator(".stage").wait_for()
    settle(page)
    return page


def settle(page: Any) -> None:
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 60))))"
    )


def lit(page: Any, selector: str, place: int = 0) -> np.ndarray:
    """The cells of a canvas that are coloured at all; photographs are grey there."""
    code = 'canvas => canvas.toDataURL("image/png").split(",")[1]'
    file = BytesIO(base64.b64decode(page.locator(selector).nth(place).evaluate(code)))
    shown = np.asarray(Image.open(file).convert("RGB")).astype(int)
    coloured = np.ptp(shown, axis=2) > 20
    block = len(shown) // 12
    cells = coloured.reshape(12, block, 12, block)
    assert (cells.all((1, 3)) == cells.any((1, 3))).all()  # a cell is lit as a whole
    return cells.all((1, 3))


def test_a_class_is_chosen_and_the_state_follows(browser, widget, own, scenes, tmp_path):
    page = open_alone(browser, widget, tmp_path / "page.html", viewport={"width": 1280, "height": 1000})
    page.get_by_label("Class").select_option("3")
    settle(page)
    wanted = [row for row in range(COUNT) if scenes.labels[row] == 3]
    assert page.evaluate("kernel.state.shown") == wanted
    assert page.evaluate("kernel.state.image") == wanted[0]
    assert page.locator(".regions button").count() == len(wanted)
    assert f"in {len(wanted)} images" in page.locator(".summary").first.inner_text()
    page.get_by_label("Class").select_option("")
    page.evaluate("kernel.told('anchors', [19])")
    page.evaluate("kernel.told('image', 5)")
    settle(page)
    assert page.locator("[data-anchor][aria-pressed=true]").count() == 1
    assert page.locator("[aria-current=true]").get_attribute("data-picture") == "5"
    page.get_by_label("Box of the object").uncheck()
    settle(page)
    page.evaluate("kernel.told('shown', [2, 5, 7])")
    settle(page)
    assert page.locator(".regions button").count() == 3
    assert "in 3 images" in page.locator(".summary").first.inner_text()
    page.get_by_label("Class").select_option("3")
    page.get_by_label("Class").select_option("")
    page.evaluate("kernel.told('image', 5)")
    for anchors in ([19], [0], [12, 18]):
        page.evaluate("(anchors) => kernel.told('anchors', anchors)", anchors)
        settle(page)
        expected = torch.isin(own.index, torch.tensor(anchors)).numpy()
        np.testing.assert_array_equal(lit(page, ".stage"), expected[5])
        for number in range(COUNT):
            np.testing.assert_array_equal(lit(page, ".regions canvas", number), expected[number])
    assert page.said == []
    page.context.close()


def test_anchors_that_were_set_before_the_widget_is_shown_are_lit_and_no_others(browser, model, scenes, own, tmp_path):
    for anchors in ([19], [17, 18, 19], []):
        widget = ibviz.explore(model, scenes._replace(boxes=None))  # a box would cross cells that are lit
        widget.anchors = anchors
        page = open_alone(browser, widget, tmp_path / "page.html", viewport={"width": 1280, "height": 1000})
        expected = torch.isin(own.index, torch.tensor(anchors)).numpy()
        np.testing.assert_array_equal(lit(page, ".stage"), expected[0])
        pixels = "canvases => canvases.map(canvas => canvas.toDataURL())"
        first = page.locator(".stage, .regions canvas").evaluate_all(pixels)
        for number in range(COUNT):
            np.testing.assert_array_equal(lit(page, ".regions canvas", number), expected[number])
        page.evaluate("kernel.told('anchors', [0])")
        settle(page)
        page.evaluate("(anchors) => kernel.told('anchors', anchors)", anchors)
        settle(page)
        assert page.locator(".stage, .regions canvas").evaluate_all(pixels) == first  # nothing shines through
        page.context.close()


def test_the_keyboard_alone_is_enough(browser, widget, tmp_path):
    page = open_alone(browser, widget, tmp_path / "page.html", viewport={"width": 1280, "height": 1000})
    page.get_by_role("button", name="None").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert page.evaluate("kernel.state.anchors") == [18]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("kernel.state.image") == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("kernel.state.asked") == {"edit": "drop", "anchor": None, "number": 1}
    page.context.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("ground", ["white", "#111"])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_page(browser, widget, tmp_path, width, ground):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = open_alone(browser, widget, tmp_path / "page.html", ground, viewport={"width": width, "height": 900})
    effect = {
        "change": [-0.1, -0.2, 0.3],
        "words": "dropped",
        "images": 12,
        "flips": 0.5,
        "pictures": [],
        "anchors": [],
    }
    page.evaluate("(effect) => kernel.told('effect', effect)", effect)
    said = page.locator(".result").inner_text().replace(MINUS, "-")
    assert "dropped: Δ probability -0.100 [-0.200, 0.300] over 12 images" in said
    found = axe.run(page).response
    assert found["passes"]
    grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in grave] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("document.getElementById('el').style.colorScheme")
    assert dark == ("dark" if ground == "#111" else "light")
    page.context.close()


@pytest.fixture(scope="module")
def notebook(browser, tmp_path_factory) -> Iterator[Any]:
    """The notebook in JupyterLab, its first cell run."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install 'ibviz[notebooks]'")
    with jupyterlab(tmp_path_factory.mktemp("lab"), CELLS) as address:
        page = browser.new_context(viewport={"width": 1280, "height": 1200}).new_page()
        page.set_default_timeout(WAIT)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.keyboard.press("Shift+Enter")
        page.locator(".stage").wait_for()
        settle(page)
        yield page
        page.context.close()


def test_in_jupyterlab_an_anchor_is_clicked_an_intervention_run_and_the_state_read_back(notebook, model, own, widget):
    page = notebook
    page.get_by_role("button", name="None").click()
    page.locator("[data-anchor='19']").click()
    page.get_by_label("Box of the object").uncheck()
    page.locator(".regions button[data-picture='3']").click()
    settle(page)
    for place, number in ((0, 0), (3, 3), (7, 7)):
        np.testing.assert_array_equal(lit(page, ".regions canvas", place), (own.index[number] == 19).numpy())
    np.testing.assert_array_equal(lit(page, ".stage"), (own.index[3] == 19).numpy())
    page.get_by_role("button", name="Apply").click()
    page.locator(".result", has_text="Δ probability").wait_for()
    widget.anchors = [19]
    line = widget.intervene("drop")
    said = page.locator(".result").inner_text().replace(MINUS, "-")
    numbers = [float(text) for text in re.findall(r"-?\d\.\d{3}", said)[:3]]
    assert numbers == pytest.approx([line.change.mean, line.change.low, line.change.high], abs=6e-4)
    page.locator(".jp-Notebook .jp-Cell").nth(1).locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    output = page.locator(".jp-OutputArea-output", has_text="state [")
    output.wait_for()
    assert output.inner_text().strip() == f"state [19] 3 12 {widget.effect['text']}"


def test_jupyterlab_asked_no_other_host(notebook):
    assert [url for url in notebook.asked if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:)", url)] == []
