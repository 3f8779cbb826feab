"""What the runner and its store cost beside the metrics, and whether memory grows with the number of images, on a CPU.

usage: python evaluation/speed/runner.py [--out runner.json] [--images 1000 50000] [--judged 128]

Overhead: the default suite on embedded images by a network of random weights; all seconds that are spent neither in
data, the network's answers, maps nor metrics, as a share of those in metrics. Memory: three cheap methods
and the controls on synthetic images of 16 pixels that are drawn as they are read, a process for each number of images.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet  # noqa: F401 - what a run imports late, however few images it has
import torch
from torch import nn

from ibviz.benchmark.config import MethodConfig, ProtocolConfig, SuiteConfig
from ibviz.benchmark.runner import loop, maps
from ibviz.data.image_set import ImageSet
from ibviz.data.sources import Chosen
from ibviz.files import replacing
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.models.loading import wrap

SIDE, CLASSES, BATCH = 16, 4, 250
# Maps, metrics, the network's answers, and the drawing of the data.
WORK = ((maps, "_computed"), (loop, "judge"), (loop, "batch_for"), (loop, "choose_images"))


def timed(module: Any, name: str, spent: dict[str, float]) -> None:
    """Add up the seconds of a function in `spent`."""
    plain: Callable[..., Any] = getattr(module, name)

    def clocked(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return plain(*args, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun

    setattr(module, name, clocked)


def overhead(count: int) -> dict[str, float]:
    torch.manual_seed(0)
    spec = InputConfig(size=48, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=tuple("0123456789"))
    model = IBClassifier(ModelConfig(), spec).eval()
    suite = SuiteConfig(images=count, protocols=(ProtocolConfig(batch_size=64),))
    spent: dict[str, float] = {}
    for module, name in WORK:
        timed(module, name, spent)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        loop.run_suite(suite, {"digits": model}, Path(folder))
        whole = time.perf_counter() - begun
        facts = json.loads((Path(folder) / "circumstances.json").read_text())
        stored = size_of(Path(folder) / "maps")
    rest = whole - sum(spent.values())
    return {
        "images": count,
        "seconds": whole,
        "metrics": spent["judge"],
        "maps": spent["_computed"],
        "answers": spent["view"],
        "runner and store": rest,
        "share of metrics": rest / spent["judge"],
        "passes a second": facts["forward_passes"] / spent["judge"],
        "store bytes an image": stored / count,
    }


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.*"))


def synthetic(count: int) -> Chosen:
    """Noise, drawn for each image when it is read."""

    def read(start: int, stop: int) -> ImageSet:
        generator = torch.Generator().manual_seed(start)
        pixels = torch.randint(0, 256, (stop - start, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([2.0, 2.0, 10.0, 10.0]).expand(stop - start, -1)
        names = tuple(f"{number}" for number in range(start, stop))
        return ImageSet(pixels, torch.arange(start, stop) % CLASSES, tuple("abcd"), names, boxes=boxes)

    return Chosen(torch.arange(count) % CLASSES, tuple("abcd"), tuple(f"{one}" for one in range(count)), read)


def remember(count: int, results: Any) -> None:
    """Peak memory of a run, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, CLASSES))
    model = wrap(network, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=list("abcd"), size=SIDE)
    cheap = tuple(MethodConfig(method=name) for name in ("saliency", "input_x_gradient", "guided_backprop"))
    suite = SuiteConfig(
        images=None,
        batch=BATCH,
        methods=cheap,
        native=False,
        protocols=(ProtocolConfig(grid=(4, 4), steps=2, orders=2, batch_size=256),),
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        loop.run_on_images(suite, {"tiny": model}, synthetic(count), Path(folder))
        seconds = time.perf_counter() - begun
        stored = size_of(Path(folder) / "maps")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put({"images": count, "peak MiB": peak, "seconds": seconds, "store bytes an image": stored / count})


def memory(counts: list[int]) -> list[dict[str, float]]:
    context, found = multiprocessing.get_context("spawn"), []
    for count in counts:
        results = context.Queue()
        process = context.Process(target=remember, args=(count, results))
        process.start()
        found.append(results.get())
        process.join()
        print_row(found[-1])
    return found


def print_row(row: dict[str, float]) -> None:
    print("  ".join(f"{name}: {value:,.4g}" for name, value in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=int, nargs="*", default=[1000, 50_000])
    parser.add_argument("--judged", type=int, default=128)
    asked = parser.parse_args()
    found: dict[str, Any] = {"memory": memory(asked.images)}
    if asked.judged:
        found["overhead"] = overhead(asked.judged)
        print_row(found["overhead"])
    found["circumstances"] = {
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("ibviz", "torch", "pyarrow")},
    }
    if asked.out:
        with replacing(asked.out) as beside:
            beside.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
