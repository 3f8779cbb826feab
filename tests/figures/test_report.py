"""The report in a real browser: what it shows is what it was given, and it does what it says."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ibviz.errors import InputError
from ibviz.figures.drawing import LUMINANCE_WEIGHTS, TONES
from ibviz.figures.report import (
    Band,
    Effect,
    Picture,
    Prediction,
    Report,
    ReportComparison,
    ReportModel,
    TableLine,
    html,
    save_report,
)
from ibviz.figures.report.maps import pack_maps
from ibviz.figures.scale import anchor_scale, attention_scale, map_scale
from ibviz.statistics import Estimate
from ibviz.types import AttentionMap

COUNT, SIDE, GRID = 200, 48, 12
ANCHORS = [0.9, 0.0, 0.35, 0.35, 1.3]  # unsorted, doubled, outside [0, 1]
EVIL = "<script>alert(1)</script>"
NAMES = [
    EVIL,
    "</script><img src=x onerror=alert(2)>",
    "\"quotes\" & 'more'",
    "עברית‎ .png",
    "🦊 \u2028 fox",
    "{{ 7 * 7 }}",
]
METHODS = ["Attention", "Attention, mean", "Grad-CAM", "RISE", "Integrated gradients", "SmoothGrad", "IBA", EVIL]
CONTROLS = ["uniform", "centre"]
HEADINGS = ["SRG ↑", "Deletion ↓", "Pointing ↑"]
MISSING = 7  # the image of which Grad-CAM has no map


def draw(count: int) -> Report:
    """Images by 8 methods, with every kind of map."""
    generator = np.random.default_rng(0)
    pictures = [
        Picture(
            NAMES[i] if i < len(NAMES) else f"{i:03}.png",
            generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8),
            EVIL if i == 0 else "cat",
            None if i < 3 else (8.0, 8.0, 32.0, 40.0),
        )
        for i in range(count)
    ]
    predictions = [Prediction(EVIL if i == 1 else "cat", float(generator.uniform()), i % 4 != 1) for i in range(count)]
    lines = [
        TableLine(
            name,
            name in CONTROLS,
            {heading: spread(generator) for heading in HEADINGS},
            None if name in CONTROLS else rank,
            "not told apart from the next" if rank == 2 else "",
        )
        for rank, name in enumerate(METHODS + CONTROLS, 1)
    ]
    lines[3] = lines[3]._replace(
        estimates={**lines[3].estimates, "Pointing ↑": Estimate(np.nan, np.nan, np.nan, 0, COUNT)}
    )
    x = np.linspace(0, 1, 17)
    shares = zip(lines, np.linspace(0.3, 1, len(lines)), strict=True)
    bands = {one.method: Band(x, x * share, x * share - 0.05, x * share + 0.05) for one, share in shares}
    values = {one.method: {h: generator.uniform(size=count).tolist() for h in HEADINGS} for one in lines}
    return Report(
        title=f"Report of {EVIL}",
        lead="8 methods & 2 controls, judged on 200 images.",
        pictures=pictures,
        models={EVIL: ReportModel(predictions, maps(count), {"Attention": effects()})},
        comparisons=[
            ReportComparison(
                EVIL,
                "common",
                {"hash": "abc-1", "name": EVIL},
                lines,
                {"deletion": bands, "insertion": bands},
                values,
                [EVIL],
            )
        ],
        circumstances={"command": EVIL, "versions": {"torch": "2"}},
        failures=[EVIL],
        left_out=[EVIL],
    )


def spread(generator: np.random.Generator) -> Estimate:
    mean, half = float(generator.normal()), float(generator.uniform(0, 0.3))
    return Estimate(mean, mean - half, mean + half, COUNT, 0)


def effects() -> Effect:
    return Effect("change of probability", [Estimate(0.1 * k, 0.1 * k - 0.05, 0.1 * k + 0.05, 9, 0) for k in range(5)])


def maps(count: int) -> dict[str, Any]:
    """Index of the doubled anchor included; anchor 4 is found in the first image only."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 4, (count, GRID, GRID), generator=generator)
    index[0, :2, :3] = 4
    table = torch.tensor(ANCHORS)
    mean = torch.rand(count, GRID, GRID, generator=generator)
    fine = torch.randn(count, SIDE, SIDE, generator=generator)
    coarse = torch.rand(count, 5, 5, generator=generator)
    coarse[MISSING] = torch.nan
    return {
        "Attention": AttentionMap(table[index], mean, index, table),
        "Attention, mean": AttentionMap(mean, mean, None, None),
        "Grad-CAM": coarse,
        "RISE": mean - 0.5,
        "Integrated gradients": fine,
        "SmoothGrad": fine.abs(),
        "IBA": mean,
        EVIL: mean,
    }


@pytest.fixture(scope="module")
def report() -> Report:
    return draw(COUNT)


@pytest.fixture(scope="module")
def path(report, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    begun = time.perf_counter()
    save_report(report, path)
    assert time.perf_counter() - begun < 30
    return path


@pytest.fixture(scope="module")
def small() -> Report:
    return draw(12)


@pytest.fixture
def small_page(browser, small, tmp_path) -> Iterator[Any]:
    save_report(small, tmp_path / "small.html")
    page = Watched(browser, tmp_path / "small.html", viewport={"width": 1280, "height": 900}).page
    yield page
    page.context.close()


class Watched:
    """A page, and what it should not do."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_context(**options).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.set_default_timeout(10_000)
        self.page.goto(path.as_uri())
        self.page.wait_for_function(PAINTED)


PAINTED = (
    "document.querySelectorAll('#explorer canvas').length && "
    "[...document.querySelectorAll('#explorer canvas')].every((one) => one.width !== 300)"
)


@pytest.fixture(scope="module")
def watched(browser, path) -> Watched:
    return Watched(browser, path, viewport={"width": 1280, "height": 900})


@pytest.fixture
def page(watched) -> Iterator[Any]:
    yield watched.page
    if watched.page.evaluate("document.getElementById('drill').open"):
        watched.page.keyboard.press("Escape")


def pixels(page: Any, selector: str, place: int = 0) -> np.ndarray:
    """Colours `(rows, columns, 3)` of a canvas, one for each pixel of the photograph."""
    found = whole(page, selector, place)
    block = len(found) // SIDE
    return found.reshape(SIDE, block, SIDE, block, 3)[:, block // 2, :, block // 2]


def whole(page: Any, selector: str, place: int = 0) -> np.ndarray:
    """Colours of all pixels of a canvas."""
    code = """([selector, place]) => {
        const canvas = document.querySelectorAll(selector)[place];
        return canvas.toDataURL("image/png").split(",")[1];
    }"""
    file = BytesIO(base64.b64decode(page.evaluate(code, [selector, place])))
    return np.asarray(Image.open(file).convert("RGB")).astype(np.int64)


def open_picture(page: Any, number: int) -> None:
    page.locator(f"#thumbnails [data-picture='{number}']").click()
    settle(page)


def settle(page: Any) -> None:
    """Until what was asked for is painted: two frames after the last promise."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))"
    )


def toned(picture: np.ndarray) -> np.ndarray:
    """Grey of a photograph between the two tones, by the formula."""
    return 255 * TONES[0] + (TONES[1] - TONES[0]) * (picture.astype(float) @ np.array(LUMINANCE_WEIGHTS))


def test_it_opens_quickly_and_is_small(browser, path):
    """In processor time, which does not depend on what else the machine does; the race `report/open` waits."""
    assert path.stat().st_size < 20e6
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(path.as_uri())
    page.wait_for_function(PAINTED)
    spent = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    page.context.close()
    assert 0 < spent["ProcessTime"] < 2


def test_every_column_sorts_both_ways_and_says_so(page, report):
    columns = page.locator(".results thead button").all_inner_texts()
    assert columns == ["Method", "Rank", *HEADINGS, "In words"]
    for heading in HEADINGS:
        means = {line.method: line.estimates[heading].mean for line in report.comparisons[0].lines}
        known = sorted((name for name in means if np.isfinite(means[name])), key=lambda name: means[name])
        unknown = [name for name in means if not np.isfinite(means[name])]
        first, second = ("ascending", known), ("descending", known[::-1])
        for direction, expected in (first, second) if heading.endswith("↓") else (second, first):
            page.get_by_role("button", name=heading, exact=True).click()
            assert page.locator("th[aria-sort]").get_attribute("aria-sort") == direction
            assert page.locator(".results tbody th bdi").all_inner_texts() == expected + unknown
    page.get_by_role("button", name="Rank").press("Enter")
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert page.locator(".results tbody th bdi").all_inner_texts() == METHODS + CONTROLS
    assert page.locator(".results tbody .tag").count() == len(CONTROLS)
    page.locator(".results thead button").first.click()
    names = page.locator(".results tbody th bdi").all_inner_texts()
    assert [name for name in names if name[0].isalpha()] == sorted(METHODS[:-1] + CONTROLS, key=str.lower)


def test_numbers_and_intervals_are_those_given(page, report):
    for line in report.comparisons[0].lines:
        row = page.locator(".results tbody tr").filter(
            has=page.locator("bdi", has_text=re.compile(f"^{re.escape(line.method)}$"))
        )
        for place, heading in enumerate(HEADINGS):
            one, cell = line.estimates[heading], row.locator("td.number").nth(place + 1).inner_text()
            numbers = [float(text.replace("\u2212", "-")) for text in re.findall("[\u2212]?[0-9.]+", cell)]
            expected = [one.mean, one.low, one.high] if np.isfinite(one.mean) else []
            assert numbers == pytest.approx(expected, abs=6e-4)


def test_a_click_opens_the_image_and_the_keyboard_moves_and_closes(page, report):
    open_picture(page, 2)  # has no box
    assert page.locator("#drill-name").inner_text() == NAMES[2]
    np.testing.assert_array_equal(pixels(page, "#drill figure > canvas"), report.pictures[2].pixels)
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert page.locator("#drill-name").inner_text() == NAMES[1]
    np.testing.assert_array_equal(pixels(page, "#drill figure > canvas"), report.pictures[1].pixels)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    settle(page)
    shown = whole(page, "#drill figure > canvas")
    block = len(shown) // SIDE
    boxed = np.abs(shown - report.pictures[3].pixels.repeat(block, 0).repeat(block, 1)).max(2) > 0
    rows, columns = (np.array([where.min(), where.max() + 1]) / block for where in np.nonzero(boxed))
    assert (*columns, *rows) == pytest.approx((8, 32, 8, 40), abs=0.5)
    assert not boxed[9 * block : 39 * block, 9 * block : 31 * block].any()
    page.keyboard.press("Escape")
    assert not page.locator("#drill").is_visible()
    assert page.evaluate("document.activeElement.dataset.picture") == "3"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator("#drill-name").text_content() == NAMES[4]
    scores = page.locator("#drill .tile").first.locator("dd").all_inner_texts()
    expected = [report.comparisons[0].values["Attention"][heading][4] for heading in HEADINGS]
    assert [float(text) for text in scores] == pytest.approx(expected, abs=6e-4)


def test_images_are_filtered_and_ordered(page, report):
    def shown() -> list[int]:
        return [
            int(one)
            for one in page.evaluate(
                "[...document.querySelectorAll('#thumbnails button')].map((one) => one.dataset.picture)"
            )
        ]

    said = report.models[EVIL].predictions
    page.get_by_label("wrong").check()
    assert shown() == [i for i in range(COUNT) if not said[i].correct]
    assert page.locator("#images-count").inner_text() == "50 of 200 images"
    page.get_by_label("correct").check()
    page.get_by_label("Order").select_option("sure")
    assert shown() == sorted((i for i in range(COUNT) if said[i].correct), key=lambda i: said[i].probability)
    page.get_by_label("all", exact=True).check()
    page.get_by_label("Order").select_option(json.dumps(["IBA", "SRG ↑"], ensure_ascii=False, separators=(",", ":")))
    scores = report.comparisons[0].values["IBA"]["SRG ↑"]
    assert shown() == sorted(range(COUNT), key=lambda i: scores[i])
    page.get_by_label("Order").select_option("set")


@pytest.mark.parametrize("opacity", [0.0, 0.35, 1.0])
def test_opacity_is_the_share_of_the_map_in_the_colours_of_the_figures(page, report, opacity):
    open_picture(page, 0)
    page.evaluate(
        "(value) => { const slider = document.getElementById('opacity'); slider.value = value; "
        "slider.dispatchEvent(new Event('input')); }",
        opacity,
    )
    settle(page)
    given, photo = report.models[EVIL].maps, toned(report.pictures[0].pixels)[..., None]
    index = given["Attention"].index[0].numpy().repeat(4, 0).repeat(4, 1)
    scale = anchor_scale(np.array(ANCHORS))
    colour = 255 * scale.colours(scale.norm(np.array(ANCHORS)))[:, :3][index]
    expected = (1 - opacity) * photo + opacity * colour
    assert np.abs(pixels(page, "#drill [data-method='Attention']") - expected).max() <= 1
    for method in ("Integrated gradients", "SmoothGrad"):
        scale = map_scale(given[method].double().numpy(), robust=True)
        values = given[method][0].double().numpy().clip(*scale.limits)
        expected = (1 - opacity) * photo + opacity * 255 * scale.colours(scale.norm(values))[..., :3]
        assert np.abs(pixels(page, f"#drill [data-method='{method}']") - expected).max() <= 4  # steps of 8 bit


def test_a_continuous_map_is_enlarged_before_it_is_coloured(page, report):
    open_picture(page, 2)
    page.evaluate(
        "() => { const slider = document.getElementById('opacity'); slider.value = 1; "
        "slider.dispatchEvent(new Event('input')); }"
    )
    settle(page)
    shown = whole(page, "#drill [data-method='Attention, mean']")
    mean = report.models[EVIL].maps["Attention, mean"].mean.double()
    scale = attention_scale(mean.numpy())
    values = torch.nn.functional.interpolate(mean[None, 2:3], size=shown.shape[:2], mode="bilinear")[0, 0].numpy()
    expected = 255 * scale.colours(scale.norm(values))[..., :3]
    assert np.abs(shown - expected).max() <= 6  # 8 bits, and between them


def test_methods_are_switched_off_and_on_and_a_missing_map_is_said_to_be_missing(page):
    open_picture(page, MISSING)
    assert page.locator("#drill .tile").count() == len(METHODS)
    assert page.locator("#drill .tile", has_text="Grad-CAM").locator(".absent").count() == 1
    page.get_by_role("checkbox", name="RISE").uncheck()
    assert page.locator("#drill .tile figcaption bdi").all_inner_texts() == [m for m in METHODS if m != "RISE"]
    page.get_by_role("checkbox", name="RISE").check()
    assert page.locator("#drill .tile").count() == len(METHODS)


def lit(page: Any, number: int) -> np.ndarray:
    """Which pixels of a picture in the explorer are coloured; photographs are grey there."""
    shown = pixels(page, "#explorer .regions canvas", number)
    return np.ptp(shown, axis=2) > 20


def choose(page: Any, *anchors: int) -> None:
    page.get_by_role("button", name="None").click()
    for anchor in anchors:
        page.locator(f"[data-anchor='{anchor}']").click()
    settle(page)


@pytest.mark.parametrize("chosen", [(4,), (2,), (0, 3), (), (0, 1, 2, 3, 4)])
def test_the_explorer_lights_exactly_the_cells_whose_anchor_is_chosen(page, report, chosen):
    choose(page, *chosen)
    index = report.models[EVIL].maps["Attention"].index.numpy()
    for number in (0, 5, 23):
        expected = np.isin(index[number], chosen).repeat(4, 0).repeat(4, 1)
        np.testing.assert_array_equal(lit(page, number), expected)
    cells, summary = (
        int(np.isin(index, chosen).sum()),
        page.locator("#explorer .summary").inner_text().replace("\xa0", " "),
    )
    assert (
        f"{len(chosen)} of 5 anchors: {cells:,} of {index.size:,} cells ({100 * cells / index.size:.1f} %)" in summary
    )
    if chosen:
        effect = sum(0.1 * k * (index == k).sum() for k in chosen) / cells
        assert f"effect {effect:.3f}" in summary
        inside = np.isin(index[3:], chosen)[:, 2:10, 2:8].sum() / max(1, np.isin(index[3:], chosen).sum())
        assert (f"{100 * inside:.1f} % of them on the object" in summary) == bool(np.isin(index[3:], chosen).any())


def test_anchors_are_chosen_by_range(page):
    def pressed() -> list[int]:
        found = page.evaluate(
            "[...document.querySelectorAll('[data-anchor][aria-pressed=true]')].map((one) => one.dataset.anchor)"
        )
        return sorted(map(int, found))

    choose(page, 1)  # 0.0, the lowest
    page.locator("[data-anchor='3']").click(modifiers=["Shift"])  # 0.35, third by value, after its double
    assert pressed() == [1, 2, 3]
    page.get_by_label("lowest anchor").fill("3")
    assert pressed() == [0]  # the other end was pushed along
    page.get_by_label("highest anchor").fill("4")
    assert pressed() == [0, 4]
    page.locator("[data-anchor='4']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert pressed() == [4]
    page.get_by_role("button", name="All").click()
    assert pressed() == [0, 1, 2, 3, 4]


def test_each_anchor_has_its_count_and_effect(page, report):
    index = report.models[EVIL].maps["Attention"].index.numpy()
    for k in range(len(ANCHORS)):
        row = page.locator(f"[data-anchor='{k}']")
        assert row.locator(".cells").inner_text() == f"{(index == k).sum():,}"
        assert row.locator(".effect").inner_text().startswith(f"{0.1 * k:.3f}")


def test_the_next_images_of_the_explorer_open_from_there(page):
    page.get_by_role("button", name="Next", exact=True).click()
    page.locator("#explorer .regions button").first.click()
    settle(page)
    assert page.locator("#drill-name").inner_text() == "024.png"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.closest('.regions') !== null")
    page.get_by_role("button", name="Previous", exact=True).click()


def test_a_method_leaves_the_curves_and_comes_back(page):
    def drawn() -> list[str]:
        return page.evaluate(
            "[...document.querySelectorAll('[data-side=deletion] [data-method]')].map((one) => one.dataset.method)"
        )

    assert sorted(drawn()) == sorted(METHODS + CONTROLS)
    chip = page.locator("#curves-methods button", has_text="IBA")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert "IBA" not in drawn()
    chip.click()
    assert "IBA" in drawn()


def test_curves_rise_as_their_numbers_do(page):
    rises = []
    for method in METHODS:
        curve = page.locator("[data-side=insertion] [data-method]").filter(has_text=method).first.get_attribute("d")
        heights = np.array([float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", curve)])
        np.testing.assert_allclose(np.diff(heights), np.diff(heights).mean(), atol=0.11)  # straight
        rises.append(heights[0] - heights[-1])
    shares = np.linspace(0.3, 1, len(METHODS + CONTROLS))[: len(METHODS)]
    np.testing.assert_allclose(np.array(rises) / rises[0], shares / shares[0], atol=0.01)


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_names_are_text_whatever_they_hold(page, number):
    open_picture(page, number)
    assert page.locator("#drill-name").text_content() == NAMES[number]


def test_no_name_became_markup(watched):
    page = watched.page
    assert page.locator("script").count() == 2
    assert page.locator("img[src='x']").count() == 0
    assert page.locator("h1").text_content() == f"Report of {EVIL}"
    assert page.locator("#missing li").all_inner_texts() == [f"Failed: {EVIL}", f"Left out: {EVIL}"]
    assert EVIL in page.locator("#results .note").all_inner_texts()
    assert EVIL in page.locator("#curves-methods bdi").all_inner_texts()


def test_axe_finds_nothing_serious_on_the_page_and_in_the_dialog_by_day_and_by_night(small_page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()

    def serious(*rules: str) -> list[str]:
        found = axe.run(small_page, options={"runOnly": list(rules)} if rules else None).response
        assert found["passes"]
        grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
        return [f"{one['id']}: {one['nodes'][0]['html']}" for one in grave]

    assert serious() == []
    open_picture(small_page, 3)
    assert serious() == []
    small_page.emulate_media(color_scheme="dark")
    assert serious("color-contrast") == []  # nothing else changes with the colours
    small_page.keyboard.press("Escape")
    assert serious("color-contrast") == []


def test_a_phone_shows_it_without_sideways_scrolling_and_the_button_turns_the_page_dark(small_page):
    small_page.set_viewport_size({"width": 320, "height": 640})
    assert small_page.evaluate("document.documentElement.scrollWidth") == 320
    ground = "getComputedStyle(document.body).backgroundColor"
    before = small_page.evaluate(ground)
    small_page.get_by_role("button", name="Dark page").click()
    assert small_page.evaluate(ground) != before
    open_picture(small_page, 3)
    assert small_page.evaluate("document.getElementById('drill').scrollWidth") <= 320


def test_a_section_that_is_not_there_has_no_link(browser, few, small, tmp_path):
    [(name, subject)] = small.models.items()
    bare = subject._replace(maps={"RISE": subject.maps["RISE"]}, effects={})
    [comparison] = small.comparisons
    save_report(few(models={name: bare}, comparisons=[comparison._replace(curves={})]), tmp_path / "bare.html")
    page = browser.new_page()
    page.goto((tmp_path / "bare.html").as_uri())
    page.wait_for_selector("#thumbnails button")
    links = [one for one in page.locator("nav a").all() if one.is_visible()]
    assert [one.get_attribute("href") for one in links] == ["#results", "#images", "#protocol", "#missing"]
    assert all(page.locator(str(one.get_attribute("href"))).is_visible() for one in links)
    page.context.close()


def test_a_dark_page_is_printed_dark_on_light_and_no_wider_than_the_paper(browser, few, small, tmp_path):
    [one] = small.comparisons
    headings = [f"A metric {number} ↑" for number in range(11)]
    generator = np.random.default_rng(0)
    lines = [line._replace(estimates={heading: spread(generator) for heading in headings}) for line in one.lines]
    words = "worse than centre by 0.123 [0.012, 0.234], p < 0.001"
    lines[0] = lines[0]._replace(words=words)
    save_report(few(comparisons=[one._replace(lines=lines)]), tmp_path / "wide.html")
    page = Watched(browser, tmp_path / "wide.html", viewport={"width": 1032, "height": 700}).page  # 297 - 24 mm
    page.get_by_role("button", name="Dark page").click()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 29, 33)"
    assert page.evaluate("document.querySelector('.results').scrollWidth") <= 1032
    assert not page.locator(".whisker").first.is_visible()
    page.context.close()


def test_curves_say_what_they_are_of_and_show_no_more_bands_than_can_be_seen(small_page):
    plot = small_page.locator("[data-side=deletion]")
    assert plot.locator(".score").text_content() == "probability"
    assert plot.locator(".band").count() == len(METHODS)  # 8 of 10 lines
    small_page.locator("#curves-methods button", has_text="uniform").click()
    small_page.locator("#curves-methods button", has_text="IBA").click()
    assert plot.locator(".band").count() == len(METHODS + CONTROLS) - 2


def test_nothing_was_loaded_and_nothing_went_wrong(watched, path):
    assert [url for url in watched.asked if not url.startswith("data:")] == [path.as_uri()]
    assert watched.said == []


def test_the_policy_forbids_to_load_anything(small):
    text = html(small)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.fixture
def few(small) -> Callable[..., Report]:
    """The report with other parts."""
    return lambda **parts: small._replace(**parts)


def test_what_does_not_belong_together_is_refused(few, small):
    [(name, subject)] = small.models.items()
    with pytest.raises(InputError, match="unknown model"):
        html(few(models={"other": subject}))
    with pytest.raises(InputError, match="predictions of 11 pictures; the report shows 12"):
        html(few(models={name: subject._replace(predictions=subject.predictions[1:])}))
    with pytest.raises(InputError, match="pictures of one size, at least one"):
        html(few(pictures=[], models={name: subject._replace(predictions=[])}))
    with pytest.raises(InputError, match=r"effects of 'RISE', which has no anchors; with anchors: Attention"):
        html(few(models={name: subject._replace(effects={"RISE": effects()})}))
    with pytest.raises(InputError, match=r"'Attention' has 5 anchors, but effects of 1"):
        html(few(models={name: subject._replace(effects={"Attention": Effect("", effects().estimates[:1])})}))
    with pytest.raises(InputError, match="nothing to report"):
        html(few(comparisons=[]))


def test_fine_maps_and_large_photographs_are_made_smaller_and_said_to_be():
    generator = torch.Generator().manual_seed(0)
    photo = np.full((500, 600, 3), 128, np.uint8)
    fine = torch.rand(1, 500, 600, generator=generator)
    subject = ReportModel([Prediction("cat", 0.5)], {"IG": fine})
    comparison = ReportComparison("m", "p", {}, [TableLine("IG", False, {})], {}, {})
    text = html(Report("t", "l", [Picture("a", photo)], {"m": subject}, [comparison]))
    assert "JPEG copies for display, made smaller to 448 pixels" in text
    found = re.search(r'id="data">(.*?)</script>', text)
    assert found is not None
    packed = json.loads(found[1])["models"]["m"]["maps"][0]
    assert packed["grid"] == [50, 60]
    assert packed["note"].startswith("500\u00d7600 cells, max of 10\u00d710; scale: zero to greatest, limit at 99.5 %")
    greatest = np.array(
        [
            [fine[0, row : row + 10, column : column + 10].max() for column in range(0, 600, 10)]
            for row in range(0, 500, 10)
        ]
    )
    cells = np.frombuffer(base64.b64decode(packed["cells"]), np.uint8).reshape(50, 60)
    expected = (greatest / np.percentile(greatest, 99.5) * 255).clip(0, 255)
    assert np.abs(cells - expected).max() <= 0.5001
    assert not packed["smooth"]


def test_a_coarse_map_that_is_finer_than_the_page_can_hold_is_shown_as_means_and_noise_about_zero_stays_visible():
    fine, count = torch.rand(1, 28, 28).expand(16000, -1, -1), 16000
    signed = torch.randn(1, 56, 56, generator=torch.Generator().manual_seed(0)).expand(16000, -1, -1)
    subject = ReportModel([Prediction("cat", 0.5)] * count, {"CAM": fine, "IG": signed})
    cam, gradients = pack_maps("m", subject, (56, 56))
    assert cam["note"].endswith("shown as means over 14\u00d714 cells")
    steps = np.frombuffer(base64.b64decode(gradients["cells"]), np.uint8)[: 14 * 14].astype(int)
    assert np.median(np.abs(steps - 127.5)) > 60  # means of 16 values would lie within 20
