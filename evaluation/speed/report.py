"""Time to build a report, its size, and the time until a browser has drawn it.

usage: python evaluation/speed/report.py [--images 200] [--methods 8] [--side 224] [--repeats 5] [--json FILE]

Photographs and maps are drawn at random, which is the worst case for their size: a photograph of noise is packed badly.
One method has anchors, a quarter has a value for each pixel, the rest has 14 x 14 cells. Opening counts from the
navigation until all pictures of the anchor explorer are painted, in Debian's Chromium without a GPU, each time in a
fresh context; medians and ranges of `repeats`.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Browser, sync_playwright

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
PAINTED = "[...document.querySelectorAll('#explorer canvas')].filter((one) => one.width !== 300).length >= {}"
CELLS, ANCHORS = 14, 20


def draw(images: int, methods: int, side: int) -> Report:
    generator = np.random.default_rng(0)
    pictures = [
        Picture(f"{i:05}.jpg", smooth(generator, side), "cat", (side / 4, side / 4, side / 2, side / 2))
        for i in range(images)
    ]
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


def opened(browser: Browser, path: Path, images: int) -> float:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    begun = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_function(PAINTED.format(min(24, images)))
    seconds = time.perf_counter() - begun
    context.close()
    return seconds


def measure(options: argparse.Namespace) -> dict[str, Any]:
    report = draw(options.images, options.methods, options.side)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        path, built = Path(folder) / "report.html", []
        for _ in range(options.repeats):
            begun = time.perf_counter()
            save_report(report, path)
            built.append(time.perf_counter() - begun)
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opening = [opened(browser, path, options.images) for _ in range(options.repeats)]
        browser_version = browser.version
        browser.close()
        megabytes = path.stat().st_size / 1e6
    return {
        "images": options.images,
        "methods": options.methods,
        "side": options.side,
        "repeats": options.repeats,
        "megabytes": megabytes,
        "build_seconds": built,
        "open_seconds": opening,
        "chromium": browser_version,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ibviz", "numpy")},
        "machine": platform.processor() or platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"images": 200, "methods": 8, "side": 224, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options)
    print(f"{options.images} images of {options.side} px, {options.methods} methods: {found['megabytes']:.1f} MB")
    for name in ("build_seconds", "open_seconds"):
        times = found[name]
        print(f"{name:14} median {statistics.median(times):.2f}, {min(times):.2f} to {max(times):.2f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
