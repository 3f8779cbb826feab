"""Time to build a report of 200 images by 8 methods, its size, and the time until a browser has drawn it.

Photographs and maps are drawn at random, which is the worst case for their size: a photograph of noise is packed badly.
One method has anchors, a quarter has a value for each pixel, the rest has 14 x 14 cells. Opening counts from the
navigation until all pictures of the anchor explorer are painted, in Chromium without a GPU, each time in a fresh
context.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from evaluation.speed.records import Case, Contestant, Row, Settings
from evaluation.speed.timing import raced
from ibviz.figures.panel_rows import RowMaps
from ibviz.figures.report import (
    Band,
    Picture,
    Prediction,
    Report,
    ReportComparison,
    ReportModel,
    TableLine,
    save_report,
)
from ibviz.statistics import Estimate
from ibviz.types import AttentionMap

IMAGES, METHODS, SIDE = 200, 8, 224
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAINTED = "[...document.querySelectorAll('#explorer canvas')].filter((one) => one.width !== 300).length >= 24"
CELLS, ANCHORS = 14, 20


def draw(images: int, methods: int = METHODS, side: int = SIDE) -> Report:
    generator = np.random.default_rng(0)
    box = (side / 4, side / 4, side / 2, side / 2)
    pictures = [Picture(f"{place:05}.jpg", smooth(generator, side), "cat", box) for place in range(images)]
    maps = draw_maps(images, methods, side)
    lines = [TableLine(name, False, {"SRG": Estimate(0.5, 0.4, 0.6, images, 0)}, 1) for name in maps]
    fractions = np.linspace(0, 1, 33)
    bands = {name: Band(fractions, fractions, fractions - 0.1, fractions + 0.1) for name in maps}
    values = {name: {"SRG": generator.uniform(size=images)} for name in maps}
    comparison = ReportComparison("model", "protocol", {}, lines, {"deletion": bands, "insertion": bands}, values)
    subject = ReportModel([Prediction("cat", 0.9, True)] * images, maps)
    return Report("Speed", "Random numbers.", pictures, {"model": subject}, [comparison])


def smooth(generator: np.random.Generator, side: int) -> np.ndarray:
    """Noise on half the resolution, which JPEG packs about as well as a photograph rich in detail."""
    half = generator.integers(0, 256, ((side + 1) // 2, (side + 1) // 2, 3), np.uint8)
    return half.repeat(2, 0).repeat(2, 1)[:side, :side]


def draw_maps(images: int, methods: int, side: int) -> dict[str, RowMaps]:
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, ANCHORS, (images, CELLS, CELLS), generator=generator)
    anchors = torch.linspace(0, 1, ANCHORS)
    maps: dict[str, RowMaps] = {"Attention": AttentionMap(anchors[index], anchors[index], index, anchors)}
    for number in range(1, methods):
        grid = side if number % 4 == 3 else CELLS
        maps[f"Method {number}"] = torch.randn(images, grid, grid, generator=generator)
    return maps


def build(case: Case, settings: Settings) -> list[Row]:
    report = draw(IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        save_report(report, path)
        note = f"{path.stat().st_size / 1e6:.1f} MB"
        contestant = Contestant("ibviz", "ours", lambda: save_report(report, path), IMAGES, note)
        return raced(case, "", [contestant], settings, unit="image")


def open_in_browser(case: Case, settings: Settings) -> list[Row]:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        path = Path(folder) / "report.html"
        save_report(draw(IMAGES), path)
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def opened() -> None:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(path.as_uri())
            page.wait_for_function(PAINTED)
            context.close()

        note = f"Chromium {browser.version}"
        rows = raced(case, "", [Contestant("ibviz", "ours", opened, IMAGES, note)], settings, unit="image")
        browser.close()
    return rows


CASES = [Case("report/build", build), Case("report/open", open_in_browser)]
