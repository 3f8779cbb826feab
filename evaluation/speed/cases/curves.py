"""Deletion and insertion, 32 steps, beside as many images through the bare network and beside peers.

Images and maps are drawn at random. Each rival is raced by the protocol that is nearest to its own; curves and masked
images are counted where it does less or more.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.speed.networks import MEAN, SIDES, drawn, wrapped
from evaluation.speed.records import Case, Contestant, Row, Run, Settings
from evaluation.speed.timing import raced
from ibviz.benchmark.compiled import Forward
from ibviz.benchmark.throughput import MEMORY_FORMATS, Pace, fastest, in_format
from ibviz.metrics import CurveProtocol, faithfulness, planned_states, scorer
from ibviz.models.loading import WrappedClassifier

STEPS = 32
COUNTS = {"resnet20": 32, "mobilenet_v2": 4, "resnet50": 1}
GRIDS = {"resnet20": 8, "mobilenet_v2": 7, "resnet50": 7}


class Scene(NamedTuple):
    """A network, its images, their maps and classes, and the network's best pace."""

    model: WrappedClassifier
    images: Tensor
    maps: Tensor
    classes: Tensor
    pace: Pace

    @property
    def side(self) -> int:
        return self.images.shape[2]

    @property
    def size(self) -> tuple[int, int]:
        return self.side, self.side

    @property
    def formatted(self) -> Tensor:
        """The images in the memory format of the best pace."""
        return self.images.contiguous(memory_format=MEMORY_FORMATS[self.pace.memory_format])


def scene(network: str, device: torch.device, count: int | None = None, precision: str = "float32") -> Scene:
    model, side, grid = wrapped(network, device), SIDES[network], GRIDS[network]
    count = count or COUNTS[network]
    images, maps = drawn(count, 3, side, side, device=device), drawn(count, grid, grid, device=device)
    with torch.inference_mode():
        classes = torch.cat([model(part).argmax(1) for part in images.split(16)])
    return Scene(model, images, maps, classes.clone(), fastest(model, (side, side), device, precision=precision))


def ours(given: Scene, protocol: CurveProtocol, forward: Forward | None = None) -> Run:
    """Both curves of all images, in the format and batches in which the network is fastest, or by compiled code."""
    images = given.formatted
    paced = protocol.model_copy(update={"batch_size": given.pace.batch_size})
    score = scorer(forward or given.model, given.classes, precision=protocol.precision)

    def run() -> object:
        with in_format(given.model, given.pace.memory_format):
            return faithfulness(score, images, given.maps, protocol=paced)

    return run


def bare(given: Scene, passes: int, precision: str = "float32") -> Run:
    """As many images through the network alone."""
    size = given.pace.batch_size
    batch = drawn(size, *given.images.shape[1:], device=given.images.device)
    batch = batch.contiguous(memory_format=MEMORY_FORMATS[given.pace.memory_format])

    @torch.inference_mode()
    def run() -> None:
        enabled = precision == "bfloat16"
        with in_format(given.model, given.pace.memory_format):
            for begun in range(0, passes, size):
                with torch.autocast(batch.device.type, torch.bfloat16, enabled=enabled):
                    given.model(batch[: passes - begun])

    return run


def in_cells(**changes: object) -> CurveProtocol:
    return CurveProtocol(colour=MEAN, steps=STEPS, ties="index").model_copy(update=changes)


def in_pixels(side: int, **changes: object) -> CurveProtocol:
    """Pixel by pixel, a 32nd of them a step, as TorchCAM does."""
    protocol = CurveProtocol(
        colour=MEAN, unit="pixel", enlargement="bilinear", cuts="stride", steps=-(-side * side // STEPS), ties="index"
    )
    return protocol.model_copy(update=changes)


def against_limit(given: Scene) -> list[Contestant]:
    passes = planned_states(given.maps, given.size, in_cells())
    return [
        Contestant("ibviz", "ours", ours(given, in_cells()), passes),
        Contestant("the bare network", "limit", bare(given, passes), passes),
    ]


def against_torchcam(given: Scene, *, equal: bool) -> list[Contestant]:
    from evaluation.speed.cases.curve_peers import torchcam

    name = "TorchCAM, our batch and format" if equal else "TorchCAM"
    return [
        Contestant("ibviz", "ours", ours(given, in_pixels(given.side))),
        Contestant(name, "rival", torchcam(given, equal=equal)),
    ]


def against_quantus(given: Scene) -> list[Contestant]:
    """Two curves of ours beside one of pixel flipping, with a third of a row of pixels a step."""
    from evaluation.speed.cases.curve_peers import quantus

    points = in_pixels(given.side, enlargement="nearest", steps=given.side // 3)
    return [
        Contestant("ibviz", "ours", ours(given, points), 2),
        Contestant("Quantus, pixel flipping", "rival", quantus(given), 1),
    ]


def against_rise(given: Scene) -> list[Contestant]:
    from evaluation.speed.cases.curve_peers import rise

    return [
        Contestant("ibviz", "ours", ours(given, in_cells())),
        Contestant("RISE's loop as published", "rival", rise(given)),
    ]


def against_road(given: Scene) -> list[Contestant]:
    """Per masked image; pytorch-grad-cam imputes nine shares of each."""
    from evaluation.speed.cases.curve_peers import road

    imputed = in_cells(baseline="road")
    passes = planned_states(given.maps, given.size, imputed)
    return [
        Contestant("ibviz", "ours", ours(given, imputed), passes),
        Contestant("pytorch-grad-cam, ROAD", "rival", road(given), 9 * len(given.images)),
    ]


class Opponent(NamedTuple):
    """A rival, or the limit, of curves."""

    contestants: Callable[[Scene], list[Contestant]]
    unit: str
    package: str = ""  # that must be installed
    images: int | None = None  # fewer, for a slow rival


OPPONENTS = {
    "limit": Opponent(against_limit, "masked image"),
    "torchcam": Opponent(partial(against_torchcam, equal=False), "both curves", "torchcam"),
    "torchcam_equal": Opponent(partial(against_torchcam, equal=True), "both curves", "torchcam"),
    "quantus": Opponent(against_quantus, "curve", "quantus", 8),
    "rise": Opponent(against_rise, "both curves", "", 8),
    "road": Opponent(against_road, "masked image", "pytorch_grad_cam", 8),
}


def compare(network: str, opponent: Opponent, case: Case, settings: Settings) -> list[Row]:
    given = scene(network, settings.device, opponent.images)
    note = f"batch {given.pace.batch_size}, {given.pace.memory_format}"
    contestants = [
        contestant._replace(note=note) if contestant.role == "ours" else contestant
        for contestant in opponent.contestants(given)
    ]
    return raced(case, network, contestants, settings, unit=opponent.unit)


CASES = [
    Case(f"curves/{network}/{name}", partial(compare, network, opponent))
    for network in COUNTS
    for name, opponent in OPPONENTS.items()
    if (not opponent.package or find_spec(opponent.package)) and (network == "resnet20" or opponent.images is None)
]
