"""Time of every attribution method in forward passes of the same batch, beside its peers, in one process.

usage: python evaluation/speed/attribution.py {resnet50|vgg32} [--methods grad_cam rise ...] [--repeats 3] [--json FILE]

Weights are random: they cost what trained ones cost. Every contestant runs once to warm up, then all in turn, `repeats`
times and on until ours has run for a second; the table gives medians and the range. RISE also races the loop over masks
and images as published, written for this script. Peers that are not installed are left out: torchcam, pytorch-grad-cam
(extra `peers`), TorchRay (`pip install torchray`, for non-commercial use, which times RISE). Peers run as their
documents show; maps with many passes take fewer draws than by default, the same for all, and Score-CAM and Ablation-CAM
a layer of few channels.
"""

import argparse
import importlib
import importlib.util
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.methods import explain
from ibviz.attribution.superpixels import superpixels
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig
from ibviz.progress import progress

Run = Callable[[], object]
DRAWS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 16, "tolerance": float("inf")},  # no more of them than the peer takes
    "smooth_grad": {"samples": 8, "sampling": "plain"},
    "var_grad": {"samples": 8},
    "gradient_shap": {"samples": 8, "sampling": "plain"},
    "rise": {"masks": 64, "sampling": "plain"},
    "lime": {"samples": 64, "sampling": "plain", "segments": 30},
    "kernel_shap": {"samples": 64, "sampling": "plain", "segments": 30},
    "feature_ablation": {"segments": 30},
}
TORCHCAM = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMpp",
    "layer_cam": "LayerCAM",
    "xgrad_cam": "XGradCAM",
    "score_cam": "ScoreCAM",
}
GRAD_CAM = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMPlusPlus",
    "layer_cam": "LayerCAM",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM",
    "score_cam": "ScoreCAM",
    "ablation_cam": "AblationCAM",
}
SECONDS, MOST = 1.0, 50  # a fast method runs until it has taken so long in all, or so often
PRODUCTS = ("convolution", "mm", "linear")  # in names of PyTorch's operators
MANY_PASSES = ("score_cam", "ablation_cam")


class Race(NamedTuple):
    """A network, a batch for it, and the layers at which maps are read."""

    model: nn.Module
    images: Tensor
    targets: Tensor
    layer: str
    narrow_layer: str  # of few channels, for the methods that take one pass for each

    def layer_for(self, method: str) -> str:
        return self.narrow_layer if method in MANY_PASSES else self.layer

    def occlusion(self) -> dict[str, int]:
        return {"window": self.images.shape[2] // 4, "stride": self.images.shape[2] // 4}


def resnet50() -> Race:
    from torchvision.models import resnet50 as build

    return Race(build().eval(), torch.rand(2, 3, 224, 224), torch.tensor([1, 2]), "layer4", "maxpool")


def vgg32() -> Race:
    spec = InputConfig(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=tuple("0123456789"))
    model = IBClassifier(ModelConfig(backbone="vgg32"), spec).eval()
    targets = torch.arange(2)
    return Race(model, torch.rand(2, 3, 32, 32), targets, "network.encoder.2", "network.stem.0")


def ours(race: Race, method: str) -> Run:
    options = dict(DRAWS.get(method, {}))
    options |= race.occlusion() if method == "occlusion" else {}
    options |= {"layer": race.layer_for(method)} if "_cam" in method else {}
    return lambda: explain(race.model, race.images, method, targets=race.targets, **options)


def peers(race: Race, method: str) -> dict[str, Run]:
    found = {}
    if method in TORCHCAM and importlib.util.find_spec("torchcam"):
        found["torchcam"] = torchcam(race, method)
    if method in GRAD_CAM and importlib.util.find_spec("pytorch_grad_cam"):
        found["pytorch-grad-cam"] = grad_cam(race, method)
    if method == "rise" and importlib.util.find_spec("torchray"):
        found["torchray"] = torchray(race)
    if method == "rise":
        found["loop"] = partial(rise_loop, race)
    if (run := captum(race, method)) is not None:
        found["captum"] = run
    return found


def torchcam(race: Race, method: str) -> Run:
    peer = importlib.import_module("torchcam.methods")

    def run() -> object:
        shape = tuple(race.images.shape[1:])
        with getattr(peer, TORCHCAM[method])(race.model, race.layer_for(method), input_shape=shape) as cam:
            return cam(race.targets.tolist(), race.model(race.images.clone().requires_grad_()), normalized=False)

    return run


def grad_cam(race: Race, method: str) -> Run:
    peer = importlib.import_module("pytorch_grad_cam")
    target_class = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget

    def run() -> object:
        targets: Any = [target_class(target) for target in race.targets.tolist()]
        layer = race.model.get_submodule(race.layer_for(method))
        with redirect_stderr(StringIO()), getattr(peer, GRAD_CAM[method])(model=race.model, target_layers=[layer]) as c:
            return c(input_tensor=race.images, targets=targets)

    return run


@torch.no_grad()
def rise_loop(race: Race) -> list[Tensor]:
    """One mask after the other enlarged and shifted, then image after image in passes of 100 (Petsiuk 2018)."""
    count, side = DRAWS["rise"]["masks"], race.images.shape[2]
    cell, masks = -(-side // 7), torch.empty(count, 1, side, side)
    for mask in masks:
        down, right = torch.randint(cell, (2,)).tolist()
        cells = (torch.rand(1, 1, 7, 7) < 0.5).float()
        large = nn.functional.interpolate(cells, size=(8 * cell, 8 * cell), mode="bilinear")
        mask.copy_(large[0, :, down : down + side, right : right + side])
    maps = []
    for image in race.images.split(1):
        scores = torch.cat([race.model(part * image).softmax(1) for part in masks.split(100)])
        maps.append(scores.T @ masks.flatten(1) / count / 0.5)
    return [each[target] for each, target in zip(maps, race.targets, strict=True)]


def torchray(race: Race) -> Run:
    rise_class = importlib.import_module("torchray.attribution.rise").rise_class
    model = nn.Sequential(race.model, nn.Softmax(1))
    return lambda: rise_class(model, race.images, target=race.targets, num_masks=DRAWS["rise"]["masks"])


def captum(race: Race, method: str) -> Run | None:
    """Captum called directly, all images at once where it takes them, with its own defaults for its passes."""
    import captum.attr as peer

    model, inputs, target = race.model, race.images.clone().requires_grad_(), race.targets
    draws, side = DRAWS.get(method, {}), race.occlusion()["window"]

    def noisy(kind: str) -> object:
        tunnel = peer.NoiseTunnel(peer.Saliency(model))
        return tunnel.attribute(inputs, nt_type=kind, nt_samples=draws["samples"], stdevs=0.15, target=target)

    def regressed(explainer: Any) -> object:
        pieces = superpixels(race.images, draws["segments"])[:, None, None]
        return [
            explainer.attribute(image, target=k, feature_mask=piece, n_samples=draws["samples"])
            for image, k, piece in zip(race.images.split(1), target.split(1), pieces, strict=True)
        ]

    runs: dict[str, Run] = {
        "grad_cam": lambda: peer.LayerGradCam(model, model.get_submodule(race.layer)).attribute(inputs, target),
        "guided_grad_cam": lambda: peer.GuidedGradCam(model, model.get_submodule(race.layer)).attribute(inputs, target),
        "saliency": lambda: peer.Saliency(model).attribute(inputs, target),
        "input_x_gradient": lambda: peer.InputXGradient(model).attribute(inputs, target),
        "integrated_gradients": lambda: peer.IntegratedGradients(model).attribute(
            inputs, target=target, n_steps=draws["steps"]
        ),
        "smooth_grad": lambda: noisy("smoothgrad"),
        "var_grad": lambda: noisy("vargrad"),
        "gradient_shap": lambda: peer.GradientShap(model).attribute(
            inputs, torch.zeros_like(inputs[:1]), n_samples=draws["samples"], stdevs=0.1, target=target
        ),
        "deep_lift": lambda: peer.DeepLift(model).attribute(inputs, target=target),
        "guided_backprop": lambda: peer.GuidedBackprop(model).attribute(inputs, target),
        "lrp": lambda: peer.LRP(model).attribute(inputs, target),
        "occlusion": lambda: peer.Occlusion(model).attribute(inputs, (3, side, side), (3, side, side), target=target),
        "feature_ablation": lambda: peer.FeatureAblation(model).attribute(
            inputs, target=target, feature_mask=superpixels(race.images, draws["segments"])[:, None]
        ),
        "lime": lambda: regressed(peer.Lime(model)),
        "kernel_shap": lambda: regressed(peer.KernelShap(model)),
    }
    return runs.get(method)


def passes(race: Race) -> dict[str, Run]:
    """What everything is measured by: a forward pass, and one with the gradient of the pixels."""

    @torch.no_grad()
    def forward() -> object:
        return race.model(race.images)

    def both() -> object:
        inputs = race.images.clone().requires_grad_()
        return torch.autograd.grad(race.model(inputs).gather(1, race.targets[:, None]).sum(), [inputs])

    return {"forward": forward, "forward+backward": both}


def timed(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """Seconds of every run, all in turn; one that cannot run on this network is left out."""
    times: dict[str, list[float]] = {}
    for name, run in runs.items():
        try:
            run()
            times[name] = []
        except Exception as error:
            print(f"  {name} cannot run: {str(error)[:150]}", file=sys.stderr)
    watched = times.get("ibviz", times["forward"])
    while len(watched) < repeats or (sum(watched) < SECONDS and len(watched) < MOST):
        for name, seconds in times.items():
            start = time.perf_counter()
            runs[name]()
            seconds.append(time.perf_counter() - start)
    return times


def share_of_products(run: Run) -> float:
    """Share of a run's own processor time that convolutions and matrix products take: the network itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    events = seen.key_averages()
    taken = sum(event.self_cpu_time_total for event in events if any(name in event.key for name in PRODUCTS))
    return round(taken / sum(event.self_cpu_time_total for event in events), 3)


def product_rate(side: int = 2048, repeats: int = 5) -> float:
    """Billions of multiplications and additions a second in one product of large matrices: what the machine can do."""
    left, right, times = torch.rand(side, side), torch.rand(side, side), []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.matmul(left, right)
        times.append(time.perf_counter() - start)
    return round(2 * side**3 / min(times) / 1e9)


def row(method: str, times: dict[str, list[float]]) -> dict[str, Any]:
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    unit = middle["forward"]
    return {
        "method": method,
        "seconds": times,
        "forward_passes": {name: round(seconds / unit, 2) for name, seconds in middle.items()},
        "forward_backward": round(middle["forward+backward"] / unit, 2),
        "peer_over_ours": {
            name: round(seconds / middle["ibviz"], 2)
            for name, seconds in middle.items()
            if name not in ("ibviz", "forward", "forward+backward") and "ibviz" in middle
        },
    }


def line(one: dict[str, Any]) -> str:
    cost = one["forward_passes"].get("ibviz", "-")
    spread = one["seconds"].get("ibviz")
    bounds = f"{min(spread):.3f} to {max(spread):.3f} s" if spread else "does not support this network"
    others = ", ".join(f"{name} x{ratio}" for name, ratio in one["peer_over_ours"].items()) or "-"
    share = f"{one['products']:.0%}" if spread else "-"
    return f"{one['method']:22} {cost:>8}  (f+b {one['forward_backward']})  {share:>4}  {bounds:24}  {others}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["resnet50", "vgg32"])
    known = [name for name, method in METHODS.items() if not method.control]
    parser.add_argument("--methods", nargs="+", default=known, choices=known, metavar="METHOD")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # peers announce their hooks
    torch.manual_seed(0)
    race = {"resnet50": resnet50, "vgg32": vgg32}[arguments.network]()
    rows = []
    print(
        "method, cost in forward passes, share in convolutions and products, range of seconds, time of peers over ours"
    )
    for method in progress(arguments.methods, "methods"):
        runs = {**passes(race), "ibviz": ours(race, method), **peers(race, method)}
        times = timed(runs, arguments.repeats)
        rows.append(row(method, times) | ({"products": share_of_products(runs["ibviz"])} if "ibviz" in times else {}))
        print(line(rows[-1]), flush=True)
    if arguments.json:
        facts = {
            "network": arguments.network,
            "images": list(race.images.shape),
            "repeats": arguments.repeats,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "product_gflops": product_rate(),
            "machine": platform.processor() or platform.machine(),
        }
        arguments.json.write_text(json.dumps({"circumstances": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
