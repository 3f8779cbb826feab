"""IBA for a batch at once against the published loop over images (Schulz 2020).

The loop repeats each image for its ten draws of noise, and runs and differentiates the whole network in each of the
steps.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.speed.networks import bottleneck, drawn, resnet50, seeded
from evaluation.speed.records import Case, Contestant, Row, Settings
from evaluation.speed.timing import raced
from ibviz.attribution.information import FeatureStatistics, feature_statistics, iba, information, noise_share

STEPS, DRAWS, CLASSES = 5, 10, 10
LAYERS = {"wrn10_2": ("network.stem", 32, 8), "resnet50": ("layer2", 224, 1)}  # with the side and number of images


def one_by_one(model: nn.Module, images: Tensor, targets: Tensor, layer: str, known: FeatureStatistics) -> Tensor:
    pairs = zip(images.split(1), targets, strict=True)
    return torch.cat([_map_of(model, image, target, layer, known) for image, target in pairs])


def _map_of(model: nn.Module, image: Tensor, target: Tensor, layer: str, known: FeatureStatistics) -> Tensor:
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
        return information(features[:1], noise_share(alpha), known).sum(1) / math.log(2)


def compare(network: str, case: Case, settings: Settings) -> list[Row]:
    layer, side, count = LAYERS[network]
    device = settings.device
    model = seeded(resnet50, device) if network == "resnet50" else bottleneck(network, device)
    images, targets = drawn(count, 3, side, side, device=device), torch.arange(count, device=device) % CLASSES
    with torch.no_grad():
        known = feature_statistics(model, images, layer=layer)
    contestants = [
        Contestant(
            "ibviz", "ours", lambda: iba(model, images, targets, layer=layer, statistics=known, steps=STEPS), count
        ),
        Contestant("IBA as published", "rival", lambda: one_by_one(model, images, targets, layer, known), count),
        Contestant("one forward pass", "limit", torch.no_grad()(lambda: model(images)), count),
    ]
    return raced(case, network, contestants, settings, unit="image")


CASES = [Case(f"information/{network}", partial(compare, network)) for network in LAYERS]
