"""Every attribution method on two images, beside its peers and beside one forward pass of the same images.

Peers run as their documents show. Maps with many passes take fewer draws than by default, the same for all; Score-CAM
and Ablation-CAM take one image and a layer of few channels, since each channel costs a pass.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evaluation.speed.networks import bottleneck, drawn, resnet50, seeded
from evaluation.speed.records import Case, Contestant, Row, Run, Settings
from evaluation.speed.timing import raced
from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.methods import explain

DRAWS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 8, "tolerance": float("inf")},  # no more of them than the peer takes
    "smooth_grad": {"samples": 8, "sampling": "plain"},
    "var_grad": {"samples": 8},
    "gradient_shap": {"samples": 8, "sampling": "plain"},
    "rise": {"masks": 16, "sampling": "plain"},
    "lime": {"samples": 16, "sampling": "plain", "segments": 16},
    "kernel_shap": {"samples": 16, "sampling": "plain", "segments": 16},
    "feature_ablation": {"segments": 16},
}
MANY_PASSES = ("score_cam", "ablation_cam")


class Subject(NamedTuple):
    """A network, a batch for it, and the layers at which maps are read."""

    model: nn.Module
    images: Tensor
    targets: Tensor
    layer: str
    narrow_layer: str  # of few channels, for the methods that take one pass for each

    def layer_for(self, method: str) -> str:
        return self.narrow_layer if method in MANY_PASSES else self.layer

    @property
    def window(self) -> int:
        """The side of an occlusion's window, and its step."""
        return self.images.shape[2] // 4


def subject(network: str, method: str, device: torch.device) -> Subject:
    count = 1 if method in MANY_PASSES else 2
    targets = torch.tensor([1, 2], device=device)[:count]
    if network == "resnet50":
        model = seeded(resnet50, device)
        return Subject(model, drawn(count, 3, 224, 224, device=device), targets, "layer4", "maxpool")
    model = bottleneck(network, device)
    images = drawn(count, 3, 32, 32, device=device)
    return Subject(model, images, targets, "network.encoder.2", "network.stem.0")


def ours(given: Subject, method: str) -> Run:
    options = dict(DRAWS.get(method, {}))
    options |= {"window": given.window, "stride": given.window} if method == "occlusion" else {}
    options |= {"layer": given.layer_for(method)} if "_cam" in method else {}
    return lambda: explain(given.model, given.images, method, targets=given.targets, **options)


def forward(given: Subject) -> Run:
    """One forward pass of the images: the unit in which the cost of a method is told."""

    @torch.no_grad()
    def run() -> object:
        return given.model(given.images)

    return run


def attribution(method: str, network: str, case: Case, settings: Settings) -> list[Row]:
    from evaluation.speed.cases.attribution_peers import peers

    given = subject(network, method, settings.device)
    contestants = [
        Contestant("ibviz", "ours", ours(given, method)),
        Contestant("one forward pass", "limit", forward(given)),
        *(Contestant(name, "rival", run) for name, run in peers(given, method).items()),
    ]
    return raced(case, network, contestants, settings)


CASES = [
    Case(f"attribution/{network}/{name}", partial(attribution, name, network))
    for network in ("vgg32", "resnet50")
    for name, method in METHODS.items()
    if not method.control
    and method.family != "transformer"
    and not (method.family == "attention" and network == "resnet50")
]
