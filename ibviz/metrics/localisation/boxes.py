"""Localisation by thresholding a map: MaxBoxAcc, its second version and PxAP (Choe 2020)."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ibviz.errors import InputError
from ibviz.metrics.grid import Enlargement, check_one_each, enlarged, min_max_scaled
from ibviz.types import Grid, Maps, Masks

Contours = Literal["largest", "all"]  # box of the largest contour (version 1), best box of all contours (version 2)
ObjectBoxes = Float[Tensor, "_ 4"]  # boxes of one image: x0, y0, x1, y1, half-open pixel edges
Overlaps = Float[Tensor, "b thresholds"]  # intersection over union; a row of NaN for an image without a box

THRESHOLD_COUNT = 101  # thresholds 0, 0.01, ..., 1
DELTAS = (0.3, 0.5, 0.7)  # of version 2; version 1 has 0.5 alone
_ROUNDING = 1e-4  # of a step between thresholds: a value meant to equal a threshold reaches it


class BoxAccuracy(NamedTuple):
    """Fraction of images whose box overlaps by at least delta, averaged over deltas; NaN if undefined."""

    accuracy: float  # at the thresholds chosen on the other split; NaN without one
    oracle: float  # at the thresholds that are best on the judged images themselves; not to be reported alone
    n: int  # images with a box
    excluded: int  # images without a box


def overlaps(
    maps: Maps,
    boxes: Sequence[ObjectBoxes],
    size: Grid,
    *,
    contours: Contours = "all",
    enlargement: Enlargement = "bilinear",
) -> Overlaps:
    """Best intersection over union of an image's boxes with those of its thresholded map, per threshold.

    Each map is enlarged, scaled to [0, 1] and cut at thresholds 0, 0.01, ..., 1; pixels at or above the threshold are
    foreground, so that all of a constant map is. Their outer contours are found by OpenCV on the CPU.

    Args:
        maps: One map per image.
        boxes: Boxes of each image as x0, y0, x1, y1, half-open pixel edges, clipped to the image.
        size: Height and width of the images in pixels.
        contours: "all" contours (version 2), or only the "largest" (version 1).
        enlargement: Interpolation from the map to pixels.

    Returns:
        One row of 101 values in [0, 1] per image, NaN for an image without a box.

    >>> box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    >>> overlaps(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), [box], (2, 4), enlargement="nearest")[:, [0, 50]]
    tensor([[0.5000, 1.0000]])
    """
    check_one_each(maps, boxes, "the boxes")
    values = min_max_scaled(enlarged(maps, size, enlargement)).cpu()
    pairs = zip(values, boxes, strict=True)
    rows = [_overlaps(image_values, _clipped(image_boxes.cpu(), size), contours) for image_values, image_boxes in pairs]
    return torch.stack(rows).to(maps.device)


def box_hits(ious: Overlaps, deltas: Sequence[float] = DELTAS) -> Int[Tensor, "deltas thresholds"]:
    """Count the images whose overlap is at least delta, per delta and threshold; images without a box never count.

    >>> box_hits(torch.tensor([[0.2, 0.6], [0.1, 0.3]]), (0.3, 0.5))
    tensor([[0, 2],
            [0, 1]])
    """
    return torch.stack([(ious >= delta).sum(0) for delta in deltas])  # NaN compares false


def max_box_acc(
    ious: Overlaps, chosen_on: Float[Tensor, "_ thresholds"] | None = None, *, deltas: Sequence[float] = DELTAS
) -> BoxAccuracy:
    """Compute MaxBoxAcc: the accuracy per delta at the threshold that is best on the images of `chosen_on`.

    Version 1 takes `overlaps(contours="largest")` and `deltas=(0.5,)`; version 2 takes the defaults. `chosen_on` must
    be overlaps of other images than the judged ones, at least one of them with a box. The first of equally good
    thresholds is taken.

    >>> max_box_acc(torch.tensor([[0.2, 0.6]]), torch.tensor([[0.7, 0.1]]), deltas=(0.5,))
    BoxAccuracy(accuracy=0.0, oracle=1.0, n=1, excluded=0)
    """
    n = int((~ious[:, 0].isnan()).sum())
    if chosen_on is not None and bool(chosen_on.isnan().all()):
        raise InputError(f"none of the {len(chosen_on)} images to choose thresholds on has a box; give others")
    others = None if chosen_on is None else box_hits(chosen_on, deltas)
    return box_accuracy(box_hits(ious, deltas), others, n=n, excluded=len(ious) - n)


def box_accuracy(
    hits: Int[Tensor, "deltas thresholds"],
    others: Int[Tensor, "deltas thresholds"] | None = None,
    *,
    n: int,
    excluded: int = 0,
) -> BoxAccuracy:
    """Compute `max_box_acc` from counts, which can be summed over batches and processes.

    Args:
        hits: `box_hits` of the judged images.
        others: `box_hits` of the images on which thresholds are chosen.
        n: Number of judged images with a box.
        excluded: Number of judged images without a box.

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
    """Count the pixels at or above each threshold inside and outside the region, over all images with a region.

    Counts of batches can be summed; `pxap` computes the average precision from them.

    >>> pixel_counts(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[True, False]]]))[:, [0, 100]]
    tensor([[1, 1],
            [1, 0]])
    """
    check_one_each(maps, regions, "the regions")
    values = min_max_scaled(enlarged(maps, (regions.shape[1], regions.shape[2]), enlargement))
    kept = regions.flatten(1).any(1)
    steps = (values[kept] * (THRESHOLD_COUNT - 1) + _ROUNDING).long()  # index of the last threshold a pixel reaches
    return torch.stack([_at_least(steps[regions[kept]]), _at_least(steps[~regions[kept]])])


def pxap(counts: Int[Tensor, "2 thresholds"]) -> float:
    """Pixel average precision: precision per threshold, weighted by the recall it adds; NaN without a region.

    >>> pxap(torch.tensor([[2, 1], [2, 0]]))
    0.75
    """
    inside, outside = counts.double()
    taken = inside + outside
    precision = torch.where(taken > 0, inside / taken, 0)
    added = inside - torch.cat([inside[1:], inside.new_zeros(1)])
    return float((precision * added).sum() / inside[0])


def _at_least(steps: Int[Tensor, " pixels"]) -> Int[Tensor, " thresholds"]:
    return steps.bincount(minlength=THRESHOLD_COUNT).flip(0).cumsum(0).flip(0)


def _clipped(boxes: ObjectBoxes, size: Grid) -> ObjectBoxes:
    """Clip boxes to the image; leave out those of NaN or without area in it."""
    limit = torch.tensor([size[1], size[0]] * 2)
    boxes = boxes.float().clamp(torch.zeros(4), limit)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def _overlaps(values: Float[Tensor, "h w"], boxes: ObjectBoxes, contours: Contours) -> Float[Tensor, " thresholds"]:
    if not len(boxes):
        return torch.full((THRESHOLD_COUNT,), math.nan)
    steps = (values * (THRESHOLD_COUNT - 1) + _ROUNDING).long()
    ious: list[float] = []
    present = set(steps.unique().tolist())
    for threshold in range(THRESHOLD_COUNT):
        if threshold and threshold - 1 not in present:  # the same pixels as at the threshold before
            ious.append(ious[-1])
        else:
            ious.append(_best_iou(_contour_boxes((steps >= threshold).numpy(), contours), boxes))
    return torch.tensor(ious)


def _contour_boxes(foreground: Bool[np.ndarray, "h w"], contours: Contours) -> ObjectBoxes:
    import cv2

    outlines, _ = cv2.findContours(foreground.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if contours == "largest":
        outlines = [max(outlines, key=cv2.contourArea)]
    x, y, width, height = torch.tensor([cv2.boundingRect(outline) for outline in outlines]).float().unbind(1)
    return torch.stack([x, y, x + width, y + height], dim=1)


def _best_iou(contour_boxes: ObjectBoxes, boxes: ObjectBoxes) -> float:
    from torchvision.ops import box_iou

    return float(box_iou(contour_boxes, boxes).max())
