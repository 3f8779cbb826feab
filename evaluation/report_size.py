"""Seconds, memory and bytes of the page of `ibviz report` for many photographs with maps as fine as their pixels.

usage: python -m evaluation.report_size [--images 2000]

The photographs are noise of 28 x 28, enlarged to 224 x 224 pixels. One network has an attention of 14 x 14 cells with
anchors, three maps of 14 x 14 cells and three of 224 x 224. Reading a result and drawing its figures is not part of it.
"""

import argparse
import platform
import resource
import time
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image

from ibviz.figures.report import Picture, Prediction, Report, ReportComparison, ReportModel, TableLine, html
from ibviz.types import AttentionMap

SIDE, COARSE, CELLS, FINE = 224, 28, 14, ("IG", "Saliency", "Occlusion")


def noisy_report(count: int) -> Report:
    """Return a report of `count` photographs; the eight that differ take turns."""
    generator, draws = np.random.default_rng(0), torch.Generator().manual_seed(0)
    noise = [Image.fromarray(generator.integers(0, 256, (COARSE, COARSE, 3), np.uint8)) for _ in range(8)]
    pixels = [np.asarray(own.resize((SIDE, SIDE))) for own in noise]
    pictures = [Picture(f"{number}.jpg", pixels[number % 8], "cat") for number in range(count)]
    anchors, coarse = torch.linspace(0, 1, 20), torch.rand(count, CELLS, CELLS, generator=draws)
    index = torch.randint(0, 20, coarse.shape, generator=draws)
    fine = torch.randn(count, SIDE, SIDE, generator=draws)
    maps = {"Attention": AttentionMap(anchors[index], coarse, index, anchors)}
    maps |= {f"Map {number}": coarse for number in range(3)} | dict.fromkeys(FINE, fine)
    lines = [TableLine(name, False, {}) for name in maps]
    values = {name: {"SRG ↑": generator.uniform(size=count)} for name in maps}
    model = ReportModel([Prediction("cat", 0.5, True)] * count, maps)
    return Report("t", "l", pictures, {"net": model}, [ReportComparison("net", "default", {}, lines, {}, values)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    count = parser.parse_args().images
    report = noisy_report(count)
    begun, used = time.monotonic(), time.process_time()
    size = len(html(report).encode())
    used, took = time.process_time() - used, time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{count} images: {used:.1f} s of a core, {took:.1f} s in all, {size / 1e6:.1f} MB, peak {peak:.1f} GB")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("ibviz", "torch", "numpy", "pillow"))
    print(f"Python {platform.python_version()}, {libraries}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
