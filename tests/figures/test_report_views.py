"""The report in a browser: filters, two images side by side, own scales, addresses, and thousands of images."""

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from PIL import Image

from ibviz.figures.report import Picture, Prediction, Report, ReportComparison, ReportModel, TableLine, save_report
from ibviz.figures.report.page import breakable
from ibviz.figures.scale import map_scale
from ibviz.types import AttentionMap
from tests.figures.test_report import (
    ANCHORS,
    EVIL,
    HEADINGS,
    Watched,
    draw,
    open_picture,
    pixels,
    settle,
)

COUNT, FAINT = 40, 9  # images; the one whose map is a tenth as strong
STATED = 60e6  # bytes of a page of 2,000 photographs and one model, as the README says
LONG = {"protocol.default.insertion_baseline": "mean_colour", "protocol.enlargementofthegrid": "nearest"}


@pytest.fixture(scope="module")
def report() -> Report:
    """Two protocols; classes of three names."""
    plain = draw(COUNT)
    [first], [(name, subject)] = plain.comparisons, plain.models.items()
    fine = subject.maps["SmoothGrad"]
    assert isinstance(fine, torch.Tensor)
    fine = fine.clone()
    fine[FAINT] /= 10
    second = first._replace(
        protocol="rise",
        card=LONG,
        values={
            method: {key: [1 - one for one in own] for key, own in given.items()}
            for method, given in first.values.items()
        },
    )
    return plain._replace(
        pictures=[one._replace(label=("ant", "bee", "cow")[number % 3]) for number, one in enumerate(plain.pictures)],
        models={name: subject._replace(maps={**subject.maps, "SmoothGrad": fine})},
        comparisons=[first, second],
        circumstances=LONG,
    )


@pytest.fixture(scope="module")
def path(report, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    save_report(report, path)
    return path


@pytest.fixture
def watched(browser, path) -> Iterator[Watched]:
    watched = Watched(browser, path, viewport={"width": 1280, "height": 900})
    yield watched
    assert watched.said == []
    assert [
        url for url in watched.asked if not url.startswith("data:") and url.partition("#")[0] != path.as_uri()
    ] == []
    watched.page.context.close()


@pytest.fixture
def page(watched) -> Any:
    return watched.page


def shown(page: Any) -> list[int]:
    code = "[...document.querySelectorAll('#thumbnails button')].map((one) => Number(one.dataset.picture))"
    return page.evaluate(code)


def scores(page: Any, place: int = 0) -> list[float]:
    return [float(text) for text in page.locator("#drill .tile").nth(place).locator("dd").all_inner_texts()]


def test_the_dialog_names_model_and_protocol_and_its_numbers_follow_the_choice(page, report):
    first, second = report.comparisons
    open_picture(page, 4)
    choice = page.get_by_label("Model and protocol")
    assert choice.locator("option:checked").inner_text() == f"{EVIL}, common"
    assert scores(page) == pytest.approx([first.values["Attention"][one][4] for one in HEADINGS], abs=6e-4)
    choice.select_option(label=f"{EVIL}, rise")
    settle(page)
    assert scores(page) == pytest.approx([second.values["Attention"][one][4] for one in HEADINGS], abs=6e-4)
    page.keyboard.press("Escape")
    assert page.locator("#comparison option:checked").inner_text() == f"{EVIL}, rise"
    page.locator("#comparison").select_option("0")
    open_picture(page, 4)
    assert scores(page) == pytest.approx([first.values["Attention"][one][4] for one in HEADINGS], abs=6e-4)


def test_a_page_of_one_comparison_names_it_in_the_dialog(browser, report, tmp_path):
    save_report(report._replace(comparisons=report.comparisons[:1]), tmp_path / "one.html")
    page = Watched(browser, tmp_path / "one.html").page
    open_picture(page, 4)
    assert page.locator("#drill .subject").inner_text() == f"{EVIL}, common"
    page.context.close()


def test_a_scale_of_each_image_stretches_its_map_about_zero(page, report):
    open_picture(page, FAINT)
    page.locator("#opacity").fill("1")
    values = report.models[EVIL].maps["SmoothGrad"].double().numpy()
    scale = map_scale(values, robust=True)
    steps = np.rint((values[FAINT] / scale.limits[1]).clip(0, 1) * 255)
    for stretched in (False, True):
        page.get_by_label("Scale of each image").set_checked(stretched)
        settle(page)
        seen = np.rint(steps * 255 / steps.max()) if stretched else steps
        expected = 255 * scale.colours(scale.norm(seen / 255 * scale.limits[1]))[..., :3]
        assert np.abs(pixels(page, "#drill [data-method='SmoothGrad']") - expected).max() <= 2
    tile = page.locator("#drill .tile", has=page.locator("[data-method='SmoothGrad']"))
    assert "stretched to this image" in tile.locator("small").inner_text()
    top = float(tile.locator(".ticks span").last.inner_text())
    assert top == pytest.approx(values[FAINT].max(), rel=0.06)
    attention = page.locator("#drill .tile", has=page.locator("[data-method='Attention']"))
    assert "stretched" not in attention.locator("small").inner_text()


def test_images_are_filtered_by_class_and_by_a_range_of_values(page, report):
    page.get_by_label("Class").select_option("bee")
    assert shown(page) == [number for number in range(COUNT) if number % 3 == 1]
    page.get_by_label("wrong").check()
    assert shown(page) == [number for number in range(COUNT) if number % 3 == 1 and number % 4 == 1]
    page.get_by_label("all", exact=True).check()
    page.get_by_label("Class").select_option("")
    page.get_by_label("Values of").select_option(
        json.dumps(["IBA", "Deletion ↓"], ensure_ascii=False, separators=(",", ":"))
    )
    assert shown(page) == list(range(COUNT))
    values = np.array(report.comparisons[0].values["IBA"]["Deletion ↓"])
    bins = np.minimum(((values - values.min()) / np.ptp(values) * 24).astype(int), 23)
    page.get_by_label("lowest value shown").fill("6")
    page.get_by_label("highest value shown").fill("18")

    assert shown(page) == [number for number in range(COUNT) if 6 <= bins[number] < 18]
    box = page.locator("#histogram").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 3.5 / 24, box["y"] + 9)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 9.5 / 24, box["y"] + 9)
    page.mouse.up()
    assert shown(page) == [number for number in range(COUNT) if 3 <= bins[number] < 10]
    assert page.locator("#histogram .within").count() == 7
    page.get_by_label("Values of").select_option("")
    assert shown(page) == list(range(COUNT))


def test_two_images_stand_side_by_side(page, report):
    open_picture(page, 5)
    page.get_by_role("button", name="Keep this image beside").click()
    settle(page)
    assert page.locator("#drill .drill-body").count() == 2
    assert page.locator("#drill h3").all_inner_texts() == [report.pictures[number].name for number in (5, 6)]
    page.keyboard.press("ArrowRight")
    settle(page)
    assert page.locator("#drill h3").all_inner_texts() == [report.pictures[number].name for number in (5, 7)]
    per_side = len(report.models[EVIL].maps)
    given = report.comparisons[0].values["Attention"]
    assert scores(page, 0) == pytest.approx([given[one][5] for one in HEADINGS], abs=6e-4)
    assert scores(page, per_side) == pytest.approx([given[one][7] for one in HEADINGS], abs=6e-4)
    page.get_by_role("button", name="Keep this image beside").click()
    settle(page)
    assert page.locator("#drill .drill-body").count() == 1


def test_an_address_opens_what_it_names_and_follows_what_is_shown(browser, path, report):
    page = Watched(browser, path).page
    page.goto(f"{path.as_uri()}#image=12&beside=3&method=Grad-CAM&method=IBA&protocol=rise")
    settle(page)
    assert page.locator("#drill h3").all_inner_texts() == [report.pictures[number].name for number in (3, 12)]
    assert page.locator("#drill figcaption bdi").all_inner_texts() == ["Grad-CAM", "IBA"] * 2
    assert page.locator("#comparison option:checked").inner_text() == f"{EVIL}, rise"
    page.keyboard.press("ArrowRight")
    page.get_by_role("checkbox", name="IBA").uncheck()
    settle(page)
    said = parse_qs(page.evaluate("location.hash.slice(1)"))
    assert said == {"image": ["13"], "beside": ["3"], "model": [EVIL], "protocol": ["rise"], "method": ["Grad-CAM"]}
    page.keyboard.press("Escape")
    settle(page)
    assert page.evaluate("location.hash") == ""
    page.goto(f"{path.as_uri()}#image=99")
    settle(page)
    assert not page.locator("#drill").is_visible()
    assert page.locator("#images-count").inner_text().startswith("This page has no image 99, which its address names")
    page.context.close()


WORDS = """() => [...document.querySelectorAll("table.facts th")].flatMap((th) => {
    const walker = document.createTreeWalker(th, NodeFilter.SHOW_TEXT);
    const broken = [];
    while (walker.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(walker.currentNode);
        if (new Set([...range.getClientRects()].map((one) => one.top)).size > 1) broken.push(walker.currentNode.data);
    }
    return broken;
})"""


def test_keys_break_between_words_only_on_a_phone(browser, path):
    page = Watched(browser, path, viewport={"width": 390, "height": 844}).page
    page.locator("#comparison").select_option("1")
    page.locator("#protocol summary").click()
    assert page.locator("table.facts th:visible").count() == 2 * len(LONG)
    assert page.evaluate(WORDS) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("table.facts th:visible").first.inner_text() == next(iter(LONG))
    page.context.close()


def test_a_key_is_escaped_before_it_may_break():
    assert breakable("a.<b>_c") == "a.<wbr>&lt;b&gt;_<wbr>c"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_filters_and_two_images(browser, path, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = Watched(browser, path, viewport={"width": width, "height": 900}, color_scheme=scheme).page
    page.get_by_label("Values of").select_option(index=1)
    for opened in (False, True):
        if opened:
            open_picture(page, 3)
            page.get_by_role("button", name="Keep this image beside").click()
            settle(page)
            assert page.evaluate("document.getElementById('drill').scrollWidth") <= width
        found = axe.run(page).response
        assert found["passes"]
        grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
        assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in grave] == []
    page.context.close()


def test_two_thousand_photographs_open_within_the_stated_size_and_are_decoded_in_view_only(browser, tmp_path):
    """Noise is what JPEG packs worst."""
    count, generator = 2000, np.random.default_rng(0)
    noise = [generator.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(8)]
    pictures = [Picture(f"{number}.jpg", noise[number % 8], "cat") for number in range(count)]
    index = torch.randint(0, 5, (count, 14, 14), generator=torch.Generator().manual_seed(0))
    table = torch.tensor(ANCHORS)
    fine = torch.rand(count, 14, 14)
    maps = {"Attention": AttentionMap(table[index], fine, index, table)} | {f"Map {row}": fine for row in range(5)}
    lines = [TableLine(name, False, {}) for name in maps]
    values = {name: {"SRG ↑": generator.uniform(size=count)} for name in maps}
    comparison = ReportComparison("net", "default", {}, lines, {}, values)
    model = ReportModel([Prediction("cat", 0.5, True)] * count, maps)
    save_report(Report("t", "l", pictures, {"net": model}, [comparison]), tmp_path / "large.html")
    assert (tmp_path / "large.html").stat().st_size < STATED
    page = Watched(browser, tmp_path / "large.html", viewport={"width": 1280, "height": 900}).page
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.locator("#thumbnails").scroll_into_view_if_needed()
    page.locator("#thumbnails button:first-child img[src]").wait_for()
    spent = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < spent["ProcessTime"] < 12
    loaded = "document.querySelectorAll('#thumbnails img[src]').length"
    assert page.locator("#thumbnails button").count() == count
    assert 0 < page.evaluate(loaded) < count / 4
    page.evaluate("document.getElementById('thumbnails').scrollTop = 1e9")
    page.locator("#thumbnails button:last-child img[src]").wait_for()
    assert page.evaluate(loaded) < count / 2
    packed = page.evaluate("document.querySelector('#thumbnails button:last-child img').src")
    assert max(Image.open(BytesIO(base64.b64decode(packed.partition(",")[2]))).size) in (112, 160, 224)
    page.context.close()
