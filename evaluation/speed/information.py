"""IBA for a batch at once against the published loop over images, side by side in one process.

usage: python evaluation/speed/information.py OUT.json [images] [repeats]      prints a table, writes JSON

The loop is Schulz et al.'s as published: each image repeated for its ten draws of noise, the whole network run and
differentiated each of ten steps. Weights are random, which takes the same time.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

from ibviz.attribution.information import FeatureStatistics, feature_statistics, iba, information, noise_share
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig

STEPS, DRAWS, CLASSES = 10, 10, 10


def one_by_one(model: nn.Module, images: Tensor, targets: Tensor, layer: str, known: FeatureStatistics) -> Tensor:
    return torch.cat([_one(model, *pair, layer, known) for pair in zip(images.split(1), targets, strict=True)])


def _one(model: nn.Module, image: Tensor, target: Tensor, layer: str, known: FeatureStatistics) -> Tensor:
    rows, targets = image.expand(DRAWS, -1, -1, -1), target.expand(DRAWS)
    alpha: Tensor | None = None
    features = cost = torch.zeros(())

    def inject(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        nonlocal alpha, features, cost
        features = output.detach()
        if alpha is None:
            alpha = torch.full_like(features[:1], 5.0).requires_grad_()
            return output
        share = noise_share(alpha.expand_as(features))
        cost = information(features, share, known)
        noise = known.mean + known.deviation * torch.randn_like(features)
        return known.active * ((1 - share) * features + share * noise)

    handle = model.get_submodule(layer).register_forward_hook(inject)
    model(image)
    assert alpha is not None
    optimizer = torch.optim.Adam([alpha], lr=1.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (F.cross_entropy(model(rows), targets) + 10 * cost.mean()).backward()
        optimizer.step()
    handle.remove()
    model.zero_grad()
    with torch.no_grad():
        return information(features[:1], noise_share(alpha), known).sum(1) / 0.6931471805599453


def measure(name: str, model: nn.Module, layer: str, size: int, repeats: int, count: int) -> dict[str, object]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.eval().to(device)
    images, targets = torch.rand(count, 3, size, size, device=device), torch.arange(count, device=device) % CLASSES
    with torch.no_grad():
        known = feature_statistics(model, images, layer=layer)
    contestants = {
        "forward": lambda: model(images),
        "ibviz": lambda: iba(model, images, targets, layer=layer, statistics=known),
        "loop": lambda: one_by_one(model, images, targets, layer, known),
    }
    seconds: dict[str, list[float]] = {key: [] for key in contestants}
    for repeat in range(repeats + 1):
        for key, run in contestants.items():
            begun = time.perf_counter()
            run().sum().item()
            if repeat:  # the first warms up
                seconds[key].append(time.perf_counter() - begun)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    print(
        f"{name:32} {middle['ibviz'] / middle['forward']:8.1f} {middle['loop'] / middle['forward']:8.1f} "
        f"{middle['loop'] / middle['ibviz']:8.2f}x"
    )
    return {"network": name, "layer": layer, "images": count, "seconds": seconds}


def main(out: str, count: str = "4", repeats: str = "3") -> None:
    spec = InputConfig(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=tuple("0123456789"))
    small = IBClassifier(ModelConfig(backbone="wrn10_2"), spec)
    print(f"{'in forward passes of the batch':32} {'ibviz':>8} {'loop':>8} {'faster':>9}")
    rows = [
        measure("WRN-10-2, 32 px", small, "network.stem", 32, int(repeats), 4 * int(count)),
        measure("ResNet-50, 224 px, layer2", resnet50(), "layer2", 224, int(repeats), int(count)),
    ]
    facts = {"torch": torch.__version__, "machine": platform.processor(), "threads": torch.get_num_threads()}
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    Path(out).write_text(json.dumps({"rows": rows} | facts, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
