"""Deletion and insertion with the network in bfloat16 beside float32, and the change of their areas.

The limit of the gain is a bare product of two matrices of 2,048 x 2,048 in both precisions. Photographs are used if
they are at hand, otherwise random images; without published weights the areas are those of a random network.
"""

from functools import partial

import torch
from torch import Tensor

from evaluation.speed.cases.curves import Scene, bare, in_cells, ours, scene
from evaluation.speed.networks import drawn, shared
from evaluation.speed.records import Case, Contestant, Row, Settings
from evaluation.speed.timing import raced
from ibviz.metrics import Faithfulness, planned_states

PRODUCT = 2048
STEPS = 16
COUNTS = {"resnet50": 1, "mobilenet_v2": 4}
AREAS = {"deletion": "deletion_auc", "insertion": "insertion_auc", "SRG": "srg"}


def photographs(count: int, side: int) -> Tensor | None:
    """The centres of the first photographs of the shared folder, if there is one."""
    folder = shared("photos/images")
    if folder is None:
        return None
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.functional import center_crop, resize

    paths = sorted(folder.glob("*.jpg"))[:count]
    pictures = [decode_image(str(path), ImageReadMode.RGB) for path in paths]
    return (
        torch.stack([center_crop(resize(picture, [side], antialias=True), [side, side]) for picture in pictures]) / 255
    )


def with_photographs(given: Scene) -> Scene:
    pictures = photographs(len(given.images), given.side)
    if pictures is None:
        return given
    images = pictures.to(given.images)
    with torch.inference_mode():
        return given._replace(images=images, classes=given.model(images).argmax(1).clone())


def compare(network: str, case: Case, settings: Settings) -> list[Row]:
    """Time both precisions, each at its own best batch and format, and say how far the mean areas moved."""
    plain, low = in_cells(steps=STEPS), in_cells(steps=STEPS, precision="bfloat16")
    scenes = {
        precision: with_photographs(scene(network, settings.device, COUNTS[network], precision))
        for precision in ("float32", "bfloat16")
    }
    passes = planned_states(scenes["float32"].maps, scenes["float32"].size, plain)
    runs = {"float32": ours(scenes["float32"], plain), "bfloat16": ours(scenes["bfloat16"], low)}
    contestants = [
        Contestant("bfloat16", "ours", runs["bfloat16"], passes, moved(runs["float32"](), runs["bfloat16"]())),
        Contestant("float32", "rival", runs["float32"], passes),
        Contestant("bare network, float32", "limit", bare(scenes["float32"], passes), passes),
        Contestant("bare network, bfloat16", "limit", bare(scenes["bfloat16"], passes, "bfloat16"), passes),
    ]
    return raced(case, network, contestants, settings, unit="masked image")


def moved(before: object, after: object) -> str:
    """Return how far the mean of each area moves, and the furthest that one image's moves."""
    assert isinstance(before, Faithfulness)
    assert isinstance(after, Faithfulness)
    changes = {name: getattr(after, area) - getattr(before, area) for name, area in AREAS.items()}
    told = [f"{name} {change.mean():+.4f} (most {change.abs().max():.4f})" for name, change in changes.items()]
    return f"areas move by {', '.join(told)}; {len(before.srg)} images"


def product(case: Case, settings: Settings) -> list[Row]:
    left, right = (drawn(PRODUCT, PRODUCT, device=settings.device) for _ in range(2))
    low = left.bfloat16(), right.bfloat16()
    billions = 2 * PRODUCT**3 / 1e9
    contestants = [
        Contestant("bfloat16", "ours", lambda: low[0] @ low[1], billions),
        Contestant("float32", "rival", lambda: left @ right, billions),
    ]
    return raced(case, "", contestants, settings, unit="billion operations")


CASES = [
    Case("precision/product", product),
    *(Case(f"precision/{network}", partial(compare, network)) for network in COUNTS),
]
