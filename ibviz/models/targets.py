"""Targets for detectors and segmenters: functions of their output, for `ibviz.wrap`.

Pass them as `output`, with `head="none"`. Each returns one row of numbers per image, one per given box or region. The
rest of ibviz treats them as logits: `targets=0` explains and judges the first box. Boxes and regions belong to a single
photograph, in pixels of the images that the wrapped network gets; wrap the network again for another photograph.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.errors import InputError
from ibviz.models.loading import Output, select_output
from ibviz.types import Boxes

Target = Callable[[Any], Float[Tensor, "b k"]]


def box_scores(boxes: Tensor, classes: Sequence[int], *, overlap: float = 0.5) -> Target:
    """Return a function that gives a torchvision detector's scores of the detections that match given boxes, in [0, 1].

    A given box is matched to the detection of its class with the largest intersection over union. The score is 0 if
    that is below `overlap`, or if nothing of the class was detected. Detectors drop boxes with low scores (torchvision:
    `box_score_thresh=0.05`); with a lower threshold, scores become 0 later.

    Args:
        boxes: `(k, 4)`, as x0, y0, x1, y1 in pixels.
        classes: One class per box.
        overlap: Smallest intersection over union of a match.

    Raises:
        InputError: There is not one class per box, or a box has no area.

    >>> output = [{"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.9])}]
    >>> box_scores(torch.tensor([[0.0, 0, 4, 5], [6, 6, 9, 9]]), [2, 2])(output)
    tensor([[0.9000, 0.0000]])
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) != len(classes) or not len(boxes):
        raise InputError(
            f"expected boxes (k, 4) as x0, y0, x1, y1 and a class for each; got {tuple(boxes.shape)} and "
            f"{len(classes)} classes"
        )
    if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
        raise InputError("expected boxes as x0, y0, x1, y1 with x1 above x0 and y1 above y0; got one without an area")

    def target(output: Any) -> Tensor:
        if not isinstance(output, list | tuple) or not all(_is_detection(image) for image in output):
            raise InputError(
                "box_scores needs what detectors of torchvision give, a list with boxes, labels and "
                f"scores for each image; got {type(output).__name__}"
            )
        return torch.stack([_matched_scores(image, boxes, classes, overlap) for image in output])

    return target


def region_logits(masks: Tensor, classes: Sequence[int], *, output: Output | None = "out") -> Target:
    """Return a function that gives the mean logits of a segmenter over given regions, each for its class.

    Logits `(b, classes, rows, columns)` of another size than the regions are resized bilinearly.

    Args:
        masks: `(k, h, w)`, True inside a region.
        classes: One class per region.
        output: Part of the output that holds the logits: "out" for torchvision, "logits" for `transformers`, None for
            the whole output.

    Raises:
        InputError: A region is empty, or there is not one class per region.

    >>> halves = torch.tensor([[[True, False]], [[False, True]]])
    >>> region_logits(halves, [0, 0])({"out": torch.tensor([[[[1.0, 3.0]]]])})
    tensor([[1., 3.]])
    """
    if masks.ndim != 3 or masks.dtype != torch.bool or len(masks) != len(classes) or not len(masks):
        raise InputError(
            f"expected masks (k, h, w) of True and False and a class for each; got {masks.dtype} "
            f"{tuple(masks.shape)} and {len(classes)} classes"
        )
    if not bool(masks.flatten(1).any(1).all()):
        raise InputError("expected masks with at least one pixel inside each; got an empty one")

    def target(result: Any) -> Tensor:
        logits = result if output is None else select_output(result, output)
        if (
            not isinstance(logits, Tensor)
            or logits.ndim != 4
            or not 0 <= min(classes) <= max(classes) < logits.shape[1]
        ):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"region_logits needs logits (b, classes, rows, columns) with the classes {list(classes)}; got {got}"
            )
        if logits.shape[2:] != masks.shape[1:]:
            logits = nn.functional.interpolate(logits, masks.shape[1:], mode="bilinear")
        inside = masks.to(logits)
        return (logits[:, list(classes)] * inside).sum((2, 3)) / inside.sum((1, 2))

    return target


def _is_detection(image: object) -> bool:
    return isinstance(image, Mapping) and {"boxes", "labels", "scores"} <= set(image)


def _matched_scores(detections: Mapping[str, Tensor], boxes: Boxes, classes: Sequence[int], overlap: float) -> Tensor:
    from torchvision.ops import box_iou

    scores, overlaps = detections["scores"], torch.zeros(len(boxes), 0)
    if len(scores):
        of_class = torch.as_tensor(classes, device=scores.device)[:, None] == detections["labels"]
        overlaps = box_iou(boxes.to(detections["boxes"]), detections["boxes"].detach()).where(of_class, -1)
    if not bool((overlaps >= overlap).any()):
        return scores.new_zeros(
            len(boxes)
        )  # without a gradient, so that a map of zeros is not taken for an explanation
    best = overlaps.max(1)
    return torch.where(best.values >= overlap, scores[best.indices], 0)
