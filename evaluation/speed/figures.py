"""A panel of six images by eight methods at 300 dpi, drawn and saved with sidecar and data.

usage: python evaluation/speed/figures.py [--out figures.json]

Smooth images of 224 px; one row of anchors on 14 x 14 cells, four of 7 x 7 cells, three of pixels. Median and range of
5 repeats after one for warming up; drawing and saving are timed together.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ibviz.figures import panel
from ibviz.files import replacing
from ibviz.types import AttentionMap

IMAGES, SIDE, REPEATS, DPI = 6, 224, 5, 300


def example() -> tuple[Tensor, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 28, 28, generator=generator)
    images = (interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).round() / 255
    index, anchors = torch.randint(0, 20, (IMAGES, 14, 14), generator=generator), torch.linspace(0, 1, 20)
    maps: dict[str, Any] = {"Attention": AttentionMap(anchors[index], torch.zeros(index.shape), index, anchors)}
    maps |= {f"CAM {number}": torch.rand(IMAGES, 7, 7, generator=generator) for number in range(1, 5)}
    return images, maps | {
        f"Pixels {number}": torch.randn(IMAGES, SIDE, SIDE, generator=generator) for number in (1, 2, 3)
    }


def seconds(images: Tensor, maps: dict[str, Any], path: Path) -> float:
    begun = time.perf_counter()
    panel(images, maps, captions=["class 0.93"] * IMAGES).save(path, dpi=DPI)
    return time.perf_counter() - begun


def race(suffix: str) -> dict[str, float]:
    images, maps = example()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"panel{suffix}"
        seconds(images, maps, path)
        taken = [seconds(images, maps, path) for _ in range(REPEATS)]
        sizes = {
            kind: file.stat().st_size / 1e6
            for kind, file in (("figure", path), ("data", path.with_name("panel.data.safetensors")))
        }
    spread = {"seconds": median(taken), "least": min(taken), "most": max(taken)}
    return spread | {f"{kind} MB": size for kind, size in sizes.items()}


def main(out: Path | None) -> None:
    versions = {name: version(name) for name in ("matplotlib", "numpy", "pillow", "torch")}
    rows = {suffix: race(suffix) for suffix in (".png", ".pdf")}
    print(f"{'':6s}{'seconds':>9s}{'least':>8s}{'most':>8s}{'figure MB':>11s}{'data MB':>9s}")
    for suffix, row in rows.items():
        numbers = (row[name] for name in ("seconds", "least", "most", "figure MB", "data MB"))
        print("{:6s}{:9.2f}{:8.2f}{:8.2f}{:11.2f}{:9.2f}".format(suffix, *numbers))
    facts = {"versions": versions, "threads": torch.get_num_threads(), "images": IMAGES, "methods": 8, "side": SIDE}
    if out is not None:
        with replacing(out) as beside:
            beside.write_text(json.dumps({**facts, "dpi": DPI, "repeats": REPEATS, "panel": rows}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    main(parser.parse_args().out)
