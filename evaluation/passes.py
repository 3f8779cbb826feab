"""The error of sampling methods against the number of passes, paired beside plain draws, on photographs.

usage: python -m evaluation.passes DATA [--out evaluation/results/passes] [--photographs 8] [--side 128]

DATA holds `imagenet_model/{mobilenet_v2,squeezenet1_1}.safetensors` and `photos/annotations.json` with `photos/images`.
The first photographs with an object of an ImageNet class are explained, for the class that the network predicts. Each
map is held to two long runs of the paired estimator with other seeds; the error is the norm of the difference of maps
minus their mean, over the norm of the true map (see `compared`). `passes.json` gets the rows of each finished job, so
that the same command goes on where it was stopped; at the end it writes `errors.png` and `table.md`.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import v2

from evaluation.passes_page import draw, tables
from ibviz.attribution.control_variate import mask_features, masked_estimate
from ibviz.attribution.gradients import gradient_shap, smooth_grad
from ibviz.attribution.methods import predict
from ibviz.attribution.perturbation import draw_masks, mask_maps, mask_scores
from ibviz.attribution.sampling import COPIES, Sampling, recorded_errors, units_in
from ibviz.attribution.superpixels import kernel_shap, lime
from ibviz.benchmark.evaluation import versions
from ibviz.files import replacing
from ibviz.models.hooks import evaluating
from ibviz.models.loading import WrappedClassifier, wrap
from ibviz.progress import progress
from ibviz.types import Images, Labels, Maps

SEEDS = (0, 1, 2)
LONG_SEEDS = (1000, 1001)  # of the two long runs
GRID = (7, 7)
MASKS: dict[Sampling, tuple[int, ...]] = {
    "plain": (32, 64, 128, 200, 256, 512, 1024, 2048, 4096),
    "paired": (32, 64, 128, 200, 256, 512),
}
LONG_MASKS = 2048  # of each long run


class Case(NamedTuple):
    """A method that is called once for each number of draws."""

    explain: Callable[..., Maps]
    default: int  # draws by default, here and of Captum's method
    half: int
    long: int  # draws of each long run


CASES = {
    "KernelSHAP": Case(kernel_shap, 500, 250, 750),
    "LIME": Case(lime, 500, 250, 750),
    "SmoothGrad": Case(smooth_grad, 50, 26, 200),
    "GradientSHAP": Case(gradient_shap, 50, 26, 200),
}
Row = dict[str, Any]


class Padded(nn.Module):
    """A convolution of stride 2, padded as TensorFlow does: below and on the right."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        convolution.padding = (0, 0)

    def forward(self, features: Tensor) -> Tensor:
        return self.convolution(nn.functional.pad(features, (0, 1, 0, 1)))


def mobilenet(data: Path, side: int) -> WrappedClassifier:
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(load_file(data / "imagenet_model" / "mobilenet_v2.safetensors"))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            network.set_submodule(name, Padded(module))
    return _wrapped(network, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), side)


def squeezenet(data: Path, side: int) -> WrappedClassifier:
    network = torchvision.models.squeezenet1_1()
    network.load_state_dict(load_file(data / "imagenet_model" / "squeezenet1_1.safetensors"))
    return _wrapped(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), side)


def _wrapped(network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], side: int) -> WrappedClassifier:
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return wrap(network, mean=mean, std=std, class_names=[str(number) for number in range(1000)], size=side)


NETWORKS = {"MobileNetV2": mobilenet, "SqueezeNet 1.1": squeezenet}


def photographs(data: Path, count: int, side: int) -> tuple[list[str], Images]:
    """Return the first photographs with an object of an ImageNet class, their middle square at `side` pixels."""
    records = json.loads((data / "photos" / "annotations.json").read_text())["images"]
    names = [record["file"] for record in records if any(known["imagenet"] for known in record["objects"])][:count]
    fit = v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    return names, torch.stack([fit(Image.open(data / "photos" / "images" / name).convert("RGB")) for name in names])


def rise_rows(model: nn.Module, image: Images, target: Labels) -> Iterator[Row]:
    """RISE at every number of masks from one run per seed, of which smaller numbers are the beginning.

    The largest plain numbers come from single runs: one of 4096 masks, its halves, and its quarters.
    """
    long = [_rise(model, image, target, "paired", LONG_MASKS, seed)(0, LONG_MASKS)[0] for seed in LONG_SEEDS]
    for seed in SEEDS:
        run = _rise(model, image, target, "paired", max(MASKS["paired"]), seed)
        for count in MASKS["paired"]:
            yield _row("RISE", "paired", count, seed) | compared(run(0, count), long)
    most = max(MASKS["plain"])
    run = _rise(model, image, target, "plain", most, 0)
    for count in MASKS["plain"]:
        for seed in range(min(4, most // count)):
            start = seed * most // min(4, most // count)
            yield _row("RISE", "plain", count, seed) | compared(run(start, start + count), long)


def _rise(
    model: nn.Module, image: Images, target: Labels, sampling: Sampling, masks: int, seed: int
) -> Callable[[int, int], tuple[Tensor, float]]:
    """Score all masks, and return a function that gives the map from those between two numbers, and its error."""
    units, copies = units_in(masks, sampling), COPIES[sampling]
    draws = draw_masks(units, GRID, (image.shape[2], image.shape[3]), seed)
    scores = mask_scores(model, image, target, draws, torch.arange(units), copies, 64)

    def maps(start: int, stop: int) -> tuple[Tensor, float]:
        some = slice(start // copies, stop // copies)
        part = draws._replace(cells=draws.cells[some], shifts=draws.shifts[some])
        found = masked_estimate(mask_features(part.cells, part.shifts, part.laws), scores[:, some], part.laws)
        return mask_maps(image, part, found, 64)[0], found.errors.item()

    return maps


def case_rows(name: str, model: nn.Module, image: Images, target: Labels) -> Iterator[Row]:
    """Run a method with half and all of its draws, paired, and with all of them, plain, beside a long run."""
    case = CASES[name]

    def run(sampling: Sampling, samples: int, seed: int) -> tuple[Tensor, float]:
        with recorded_errors() as errors:
            maps = case.explain(model, image, target, samples=samples, sampling=sampling, seed=seed)
        return maps[0], errors[0]

    long = [run("paired", case.long, seed)[0] for seed in LONG_SEEDS]
    plans: list[tuple[Sampling, int]] = [("plain", case.default), ("paired", case.half), ("paired", case.default)]
    for sampling, samples in plans:
        for seed in SEEDS:
            yield _row(name, sampling, samples, seed) | compared(run(sampling, samples, seed), long)


def _row(method: str, sampling: Sampling, passes: int, seed: int) -> Row:
    return {"method": method, "sampling": sampling, "passes": passes, "seed": seed}


def compared(run: tuple[Tensor, float], long: list[Tensor]) -> Row:
    """Return the squared error of a map relative to the true one, and the error that the map itself states.

    With two independent long runs A and B, <m - A, m - B> has the squared error of m as its expectation, whatever A and
    B are off by, and <A, B> the squared size of the true map. A single value can be below 0; their mean is used.
    """
    centred = [(maps - maps.mean()).double() for maps in (run[0], *long)]
    first, second = centred[0] - centred[1], centred[0] - centred[2]
    return {
        "squared": float((first * second).sum() / (centred[1] * centred[2]).sum()),
        "stated": run[1] if math.isfinite(run[1]) else None,
    }


def main(data: Path, out: Path, count: int, side: int) -> None:
    torch.set_num_threads(1)
    names, images = photographs(data, count, side)
    path = out / "passes.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"jobs": {}, "seconds": 0.0}
    record |= {
        "command": f"python -m evaluation.passes DATA --photographs {count} --side {side}",
        "versions": versions(),
        "device": f"CPU, {torch.get_num_threads()} thread",
        "side": side,
        "photographs": names,
    }
    networks = {label: build(data, side) for label, build in NETWORKS.items()}
    jobs = [(name, label, method) for name in names for method in ("RISE", *CASES) for label in NETWORKS]
    left = [job for job in jobs if " | ".join(job) not in record["jobs"]]
    for name, label, method in progress(left, "photographs x methods x networks", total=len(left)):
        begun, image = time.perf_counter(), images[[names.index(name)]]
        model = networks[label]
        probabilities = predict(model, image)
        with evaluating(model):
            target = probabilities.argmax(1)
            rows = rise_rows(model, image, target) if method == "RISE" else case_rows(method, model, image, target)
            found = list(rows)
        facts = {"photograph": name, "network": label, "probability": float(probabilities.max())}
        record["jobs"][f"{name} | {label} | {method}"] = facts | {"rows": found}
        record["seconds"] += round(time.perf_counter() - begun, 1)
        with replacing(path) as beside:
            beside.write_text(json.dumps(record, indent=1) + "\n")
    draw(record).save(out / "errors.png", dpi=200, data=False)
    with replacing(out / "table.md") as beside:
        beside.write_text("\n\n".join(tables(record)) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("evaluation/results/passes"))
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--side", type=int, default=128)
    given = parser.parse_args()
    main(given.data, given.out, given.photographs, given.side)
