"""Objects and pixels cut out of a map by a threshold: MaxBoxAcc, its second version and PxAP (Choe 2020)."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ibviz.errors import InputError
from ibviz.metrics.grid import Enlargement, enlarged, one_each, unit
from ibviz.types import Grid, Maps, Masks

Contours = Literal["largest", "all"]  # the box of the largest contour (v1), or the best of all contours' boxes (v2)
Objects = Float[Tensor, "_ 4"]  # boxes of one image: x0, y0, x1, y1, half-open pixel edges
Overlaps = Float[Tensor, "b thresholds"]  # a row of NaN for an image without a box

THRESHOLDS = 101  # 0, 0.01, ..., 1
DELTAS = (0.3, 0.5, 0.7)  # of version 2; version 1 asks for 0.5


class BoxAccuracy(NamedTuple):
    """Share of images whose box overlaps enough, a mean over `deltas`; NaN where it is not defined."""

    accuracy: float  # at the thresholds chosen on the other split; NaN without one
    oracle: float  # at the thresholds that are best on the judged images themselves: never to be reported alone
    n: int
    excluded: int  # images without a box


def overlaps(
    maps: Maps,
    boxes: Sequence[Objects],
    size: Grid,
    *,
    contours: Contours = "all",
    enlargement: Enlargement = "bilinear",
) -> Overlaps:
    """Intersection over union of each image's nearest box with that of the map cut at thresholds 0, 0.01, ..., 1.

    Maps are enlarged to `size` and scaled to [0, 1] each; pixels at or above a threshold are taken, so that a constant
    map takes the image. Contours are OpenCV's outer ones, found on the host. `boxes` holds those of each image as x0,
    y0, x1, y1, half-open pixel edges; they are clipped to the image. The row of an image without a box is NaN.

    >>> box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    >>> overlaps(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), [box], (2, 4), enlargement="nearest")[:, [0, 50]]
    tensor([[0.5000, 1.0000]])
    """
    one_each(maps, boxes, "the boxes")
    values = unit(enlarged(maps, size, enlargement)).cpu()
    rows = [_overlaps(one, _clipped(some.cpu(), size), contours) for one, some in zip(values, boxes, strict=True)]
    return torch.stack(rows).to(maps.device)


def box_hits(found: Overlaps, deltas: Sequence[float] = DELTAS) -> Int[Tensor, "deltas thresholds"]:
    """Images whose overlap is at least each of `deltas`, at each threshold; images without a box are left out.

    >>> box_hits(torch.tensor([[0.2, 0.6], [0.1, 0.3]]), (0.3, 0.5))
    tensor([[0, 2],
            [0, 1]])
    """
    return torch.stack([(found >= delta).sum(0) for delta in deltas])  # false beside NaN


def max_box_acc(
    found: Overlaps, chosen_on: Float[Tensor, "_ thresholds"] | None = None, *, deltas: Sequence[float] = DELTAS
) -> BoxAccuracy:
    """MaxBoxAcc: at each delta, the accuracy at the threshold that is best on the images of `chosen_on`.

    Version 1 takes `overlaps(contours="largest")` and `deltas=(0.5,)`, version 2 the defaults. `chosen_on` must hold
    other images than those judged, one with a box at least; the first of equally good thresholds is taken.

    >>> max_box_acc(torch.tensor([[0.2, 0.6]]), torch.tensor([[0.7, 0.1]]), deltas=(0.5,))
    BoxAccuracy(accuracy=0.0, oracle=1.0, n=1, excluded=0)
    """
    n = int((~found[:, 0].isnan()).sum())
    if chosen_on is not None and bool(chosen_on.isnan().all()):
        raise InputError(f"none of the {len(chosen_on)} images to choose thresholds on has a box; give others")
    others = None if chosen_on is None else box_hits(chosen_on, deltas)
    return box_accuracy(box_hits(found, deltas), others, n=n, excluded=len(found) - n)


def box_accuracy(
    hits: Int[Tensor, "deltas thresholds"],
    others: Int[Tensor, "deltas thresholds"] | None = None,
    *,
    n: int,
    excluded: int = 0,
) -> BoxAccuracy:
    """`max_box_acc` from counts, which can be summed over batches and processes.

    >>> box_accuracy(torch.tensor([[1, 3]]), n=4)
    BoxAccuracy(accuracy=nan, oracle=0.75, n=4, excluded=0)
    """
    if n == 0:
        return BoxAccuracy(math.nan, math.nan, 0, excluded)
    oracle = float(hits.amax(1).double().mean()) / n
    if others is None:
        return BoxAccuracy(math.nan, oracle, n, excluded)
    chosen = hits.gather(1, others.argmax(1, keepdim=True))
    return BoxAccuracy(float(chosen.double().mean()) / n, oracle, n, excluded)


def pixel_counts(maps: Maps, regions: Masks, *, enlargement: Enlargement = "bilinear") -> Int[Tensor, "2 thresholds"]:
    """Pixels at or above each threshold that lie on the region, and those that do not, over all images with a region.

    Counts of batches add up; `pxap` makes the average precision of them.

    >>> pixel_counts(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[True, False]]]))[:, [0, 100]]
    tensor([[1, 1],
            [1, 0]])
    """
    one_each(maps, regions, "the regions")
    values = unit(enlarged(maps, (regions.shape[1], regions.shape[2]), enlargement))
    kept = regions.flatten(1).any(1)
    steps = (values[kept] * (THRESHOLDS - 1) + ROUNDING).long()  # how many thresholds after 0 a pixel reaches
    return torch.stack([_at_least(steps[regions[kept]]), _at_least(steps[~regions[kept]])])


def pxap(counts: Int[Tensor, "2 thresholds"]) -> float:
    """Pixel average precision: precision at each threshold, weighted by the recall it adds; NaN without a region.

    >>> pxap(torch.tensor([[2, 1], [2, 0]]))
    0.75
    """
    inside, outside = counts.double()
    taken = inside + outside
    precision = torch.where(taken > 0, inside / taken, 0)
    added = inside - torch.cat([inside[1:], inside.new_zeros(1)])
    return float((precision * added).sum() / inside[0])


ROUNDING = 1e-4  # of a step: a value meant to equal a threshold reaches it


def _at_least(steps: Int[Tensor, " pixels"]) -> Int[Tensor, " thresholds"]:
    return steps.bincount(minlength=THRESHOLDS).flip(0).cumsum(0).flip(0)


def _clipped(boxes: Objects, size: Grid) -> Objects:
    """Objects within the image; those of NaN or without area in it are left out."""
    limit = torch.tensor([size[1], size[0]] * 2)
    boxes = boxes.float().clamp(torch.zeros(4), limit)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def _overlaps(values: Float[Tensor, "h w"], boxes: Objects, contours: Contours) -> Float[Tensor, " thresholds"]:
    if not len(boxes):
        return torch.full((THRESHOLDS,), math.nan)
    steps = (values * (THRESHOLDS - 1) + ROUNDING).long()
    found: list[float] = []
    present = set(steps.unique().tolist())
    for threshold in range(THRESHOLDS):
        if threshold and threshold - 1 not in present:  # the same pixels as one threshold before
            found.append(found[-1])
        else:
            found.append(_best(_contour_boxes((steps >= threshold).numpy(), contours), boxes))
    return torch.tensor(found)


def _contour_boxes(taken: Bool[np.ndarray, "h w"], contours: Contours) -> Objects:
    import cv2

    found, _ = cv2.findContours(taken.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if contours == "largest":
        found = [max(found, key=cv2.contourArea)]
    x, y, width, height = torch.tensor([cv2.boundingRect(one) for one in found]).float().unbind(1)
    return torch.stack([x, y, x + width, y + height], dim=1)


def _best(found: Objects, boxes: Objects) -> float:
    from torchvision.ops import box_iou

    return float(box_iou(found, boxes).max())
