"""How fast deletion and insertion are beside the bare network and beside peers.

    python evaluation/speed/curves.py --out evaluation/results/speed [--networks resnet20] [--limit 16]

Peers that are not installed are left out. Times are medians over interleaved repeats in one process.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from resnet20 import ResNet20
from torch import Tensor, nn

from ibviz.benchmark.throughput import MEMORY_FORMATS, Pace, fastest, in_format
from ibviz.files import replacing
from ibviz.metrics import CurveProtocol, faithfulness, planned_states, scorer
from ibviz.models.loading import WrappedClassifier, wrap

STEPS = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Case(NamedTuple):
    """A network, the side of its images, how many of them, and the grid of their maps."""

    build: Callable[[], nn.Module]
    side: int
    images: int
    grid: int
    goals: dict[str, float]


def resnet20() -> nn.Module:
    network, shared = ResNet20(), os.environ.get("IBVIZ_SHARED")
    if shared:
        from safetensors.torch import load_file

        network.load_state_dict(load_file(Path(shared, "data/cifar10_resnets/resnet20.safetensors")), strict=False)
    return network


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import get_model

        return get_model(name, weights=None)

    return build


BARE, TORCHCAM, EQUAL, QUANTUS, RISE, ROAD = (
    "the bare network",
    "TorchCAM, its defaults",
    "TorchCAM, our batch and format",
    "Quantus, pixel flipping",
    "RISE, image by image",
    "pytorch-grad-cam, ROAD",
)
CASES = {
    "resnet20": Case(resnet20, 32, 256, 8, {BARE: 0.9, TORCHCAM: 2.5, EQUAL: 1.2, QUANTUS: 3, RISE: 5, ROAD: 10}),
    "mobilenet_v2": Case(of_torchvision("mobilenet_v2"), 224, 16, 7, {BARE: 0.9, TORCHCAM: 3, EQUAL: 1.2}),
    "resnet50": Case(of_torchvision("resnet50"), 224, 16, 7, {BARE: 0.9, EQUAL: 1.2}),
}


class Scene(NamedTuple):
    """What is timed: a network, its images, their maps and classes, and the network's best pace."""

    model: WrappedClassifier
    images: Tensor
    maps: Tensor
    classes: Tensor
    pace: Pace


def scene(case: Case, count: int, device: torch.device) -> Scene:
    torch.manual_seed(0)
    names = [str(number) for number in range(1000)]
    model = wrap(case.build(), mean=MEAN, std=STD, class_names=names, size=case.side).to(device)
    images = torch.rand(count, 3, case.side, case.side, device=device)
    maps = torch.rand(count, case.grid, case.grid, device=device)
    with torch.inference_mode():
        classes = torch.cat([model(part).argmax(1) for part in images.split(16)])
    return Scene(model, images, maps, classes.clone(), fastest(model, (case.side, case.side), device))


Timed = Callable[[], object]


def seconds(run: Timed) -> float:
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(runs: dict[str, Timed], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, taken in turns so that a busy minute hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(seconds(run))
    return found


def ours(one: Scene, protocol: CurveProtocol) -> Timed:
    """Both curves of all images, in the format the network is held in."""
    images = one.images.contiguous(memory_format=MEMORY_FORMATS[one.pace.memory_format])
    paced = protocol.model_copy(update={"batch_size": one.pace.batch_size})

    def run() -> None:
        with in_format(one.model, one.pace.memory_format):
            faithfulness(scorer(one.model, one.classes), images, one.maps, protocol=paced)

    return run


def bare(one: Scene, passes: int) -> Timed:
    """As many images through the network alone."""
    size, name = one.pace.batch_size, one.pace.memory_format
    batch = torch.rand(size, *one.images.shape[1:], device=one.images.device)
    batch = batch.contiguous(memory_format=MEMORY_FORMATS[name])

    @torch.inference_mode()
    def run() -> None:
        for begun in range(0, passes, size):
            one.model(batch[: passes - begun])

    def held() -> None:
        with in_format(one.model, name):
            run()

    return held


class Extractor:
    """Hands TorchCAM the maps that are there already."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> Any:
        return nullcontext()


def torchcam(one: Scene, *, equal: bool) -> Timed:
    """TorchCAM's metric at 32 steps, in contiguous batches of 32 or as we run the network."""
    from torchcam.metrics import DeletionInsertionMetric  # pyright: ignore

    name, size = (one.pace.memory_format, one.pace.batch_size) if equal else ("contiguous", 32)
    images = one.model.normalize(one.images).contiguous(memory_format=MEMORY_FORMATS[name])
    network = one.model.network

    def run() -> None:
        metric = DeletionInsertionMetric(
            Extractor(network, one.maps), lambda logits: logits.softmax(1), steps=STEPS, batch_size=size
        )
        with in_format(network, name):
            metric.update(images, one.classes.tolist())

    return run


def quantus(one: Scene) -> Timed:
    """Deletion alone, of one curve with a third of a row of features a step."""
    from quantus import PixelFlipping  # pyright: ignore

    side = one.images.shape[2]
    metric = PixelFlipping(features_in_step=side, disable_warnings=True)
    values = nn.functional.interpolate(one.maps.unsqueeze(1), side).cpu().numpy()

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric(one.model, one.images.cpu().numpy(), one.classes.cpu().numpy(), values, batch_size=64)

    return run


def rise(one: Scene) -> Timed:
    """Both curves as the paper's code runs them: one image at a time, one state a forward pass."""

    @torch.inference_mode()
    def run() -> None:
        side = one.images.shape[2]
        values = nn.functional.interpolate(one.maps.unsqueeze(1), side).flatten(1).cpu().numpy()
        blank = torch.tensor(MEAN, device=one.images.device).view(1, 3, 1, 1)
        for image, value, target in zip(one.images.split(1), values, one.classes.tolist(), strict=True):
            order, empty = np.flip(np.argsort(value)).copy(), blank.expand_as(image)
            for start, finish in ((image, empty), (empty, image)):
                state = start.clone()
                for step in range(STEPS + 1):
                    one.model(state).softmax(1)[0, target].cpu()
                    wanted = order[len(order) // STEPS * step : len(order) // STEPS * (step + 1)]
                    state.flatten(2)[..., wanted] = finish.flatten(2)[..., wanted]

    return run


def road(one: Scene) -> Timed:
    """Nine shares of each image imputed, most relevant first."""
    from pytorch_grad_cam.metrics.road import ROADMostRelevantFirstAverage  # pyright: ignore

    metric = ROADMostRelevantFirstAverage()
    side = one.images.shape[2]
    values = nn.functional.interpolate(one.maps.unsqueeze(1), side).squeeze(1).cpu().numpy()
    targets = [lambda output, target=target: output[target] for target in one.classes.tolist()]

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric(one.images, values, targets, one.model)

    return run


def first(one: Scene, count: int) -> Scene:
    return one._replace(images=one.images[:count], maps=one.maps[:count], classes=one.classes[:count])


class Contest(NamedTuple):
    """Ours and a rival's work, and for what share of it each is to be counted."""

    ours: Timed
    theirs: Timed
    our_share: float  # units of work done, such as curves or masked images
    their_share: float


def contests(one: Scene, side: int) -> dict[str, Contest]:
    colour, whole = MEAN, len(one.images)
    cells = CurveProtocol(colour=colour, steps=STEPS, ties="index")
    pixels = CurveProtocol(
        colour=colour, unit="pixel", enlargement="bilinear", cuts="stride", steps=-(-side * side // STEPS), ties="index"
    )
    few = first(one, max(1, whole // 16))
    passes = planned_states(one.maps, (side, side), cells)
    found = {BARE: Contest(ours(one, cells), bare(one, passes), 1, 1)}
    if find_spec("torchcam"):
        found[TORCHCAM] = Contest(ours(one, pixels), torchcam(one, equal=False), 1, 1)
        found[EQUAL] = Contest(ours(one, pixels), torchcam(one, equal=True), 1, 1)
    if side > 32:
        return found
    if find_spec("quantus"):
        points = pixels.model_copy(update={"enlargement": "nearest", "steps": side // 3})
        found[QUANTUS] = Contest(ours(few, points), quantus(few), 2, 1)  # curves
    found[RISE] = Contest(ours(few, cells), rise(few), 1, 1)
    if find_spec("pytorch_grad_cam"):
        imputed = cells.model_copy(update={"baseline": "road"})
        states = planned_states(few.maps, (side, side), imputed)
        found[ROAD] = Contest(ours(few, imputed), road(few), states, 9 * len(few.images))  # masked images
    return found


def race(name: str, case: Case, count: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    one = scene(case, count, device)
    print(f"{name}, {case.side} px, {count} images; batch {one.pace.batch_size}, {one.pace.memory_format}", flush=True)
    rows = []
    for rival, contest in contests(one, case.side).items():
        times = interleaved({"ours": contest.ours, "theirs": contest.theirs}, repeats)
        each = {"ours": contest.our_share, "theirs": contest.their_share}
        here, there = (median(times[who]) / each[who] for who in ("ours", "theirs"))
        goal = case.goals.get(rival)
        facts = {"network": name, "images": count, "rival": rival, "pace": one.pace._asdict()}
        rows.append(facts | {"ratio": there / here, "goal": goal, "seconds": times, "shares": each})
        print(f"  {rival:32} {there / here:7.2f} x" + (f"  (goal {goal})" if goal else ""), flush=True)
    return rows


def linear(device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Seconds a masked image, at one and two times the images and the steps; equal if cost is linear."""
    rows = []
    for count, steps in ((64, 16), (128, 16), (64, 32), (128, 32)):
        one = scene(CASES["resnet20"], count, device)
        protocol = CurveProtocol(colour=MEAN, steps=steps, ties="index")
        passes = planned_states(one.maps, (32, 32), protocol)
        spent = median(seconds(ours(one, protocol)) for _ in range(repeats))
        each = 1000 * spent / passes
        rows.append({"images": count, "steps": steps, "passes": passes, "milliseconds": each})
        print(f"  {count:4} images, {steps} steps: {passes:6,} passes, {each:.3f} ms each", flush=True)
    return rows


def peak(count: int) -> float:
    """Peak memory in MB beyond the images themselves, in a process of its own with a network of one layer."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 10, 8, stride=8).eval()
    images, maps = torch.rand(count, 3, 32, 32), torch.rand(count, 8, 8)
    protocol = CurveProtocol(colour=MEAN, steps=STEPS, batch_size=64)
    score = scorer(lambda batch: layer(batch).mean((2, 3)), torch.zeros(count, dtype=torch.long))
    faithfulness(score, images, maps, protocol=protocol)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - images.numel() * 4 / 2**20


def memory() -> dict[str, float]:
    def child(count: int) -> float:
        command = [sys.executable, __file__, "--peak", str(count)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    small, large = child(500), child(5000)
    print(f"peak beyond the images: {small:.0f} MB with 500, {large:.0f} MB with 5,000 ({large / small - 1:+.1%})")
    return {"500": small, "5000": large}


def circumstances(device: torch.device) -> dict[str, Any]:
    versions = {}
    for name in ("ibviz", "torch", "torchvision", "torchcam", "quantus", "grad-cam"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"command": " ".join(sys.argv), "device": place, "machine": platform.machine(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("evaluation/results/speed"))
    parser.add_argument("--networks", default=",".join(CASES))
    parser.add_argument("--limit", type=int, help="images at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.peak:
        print(peak(flags.peak))
        return
    device = torch.device(flags.device)
    report: dict[str, Any] = {"circumstances": circumstances(device), "races": []}
    for name in flags.networks.split(","):
        count = min(CASES[name].images, flags.limit or CASES[name].images)
        report["races"] += race(name, CASES[name], count, flags.repeats, device)
    report["linear"], report["memory"] = linear(device, flags.repeats), memory()
    with replacing(flags.out / "curves.json") as beside:
        beside.write_text(json.dumps(report, indent=1) + "\n")
    print(flags.out / "curves.json")


if __name__ == "__main__":
    main()
