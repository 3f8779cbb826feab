"""Detectors and segmenters of torchvision with random weights: what a box or a region is scored, and its maps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.segmentation import FCN
from torchvision.models.segmentation.fcn import FCNHead

from ibviz.attribution.methods import explain, predict
from ibviz.attribution.perturbation import shifted_masks
from ibviz.errors import InputError
from ibviz.metrics import scorer
from ibviz.models import box_scores, region_logits
from ibviz.models.loading import WrappedClassifier, wrap

close = torch.testing.assert_close
IMAGES = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(1))


def detector() -> nn.Module:
    torch.manual_seed(0)
    backbone: Any = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    backbone.out_channels = 8
    anchors = AnchorGenerator(((12,),), ((1.0,),))
    network = FasterRCNN(backbone, 4, min_size=32, max_size=40, rpn_anchor_generator=anchors, box_detections_per_img=20)
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.weight.mul_(100)  # pyright: ignore
    return network.eval()


def wrapped(network: nn.Module, output: Any) -> WrappedClassifier:
    return wrap(
        network, mean=(0.0,) * 3, std=(1.0,) * 3, class_names=["one", "two"], size=(32, 40), head="none", output=output
    )


def by_loop(found: dict[str, Tensor], boxes: Tensor, classes: list[int], least: float) -> list[float]:
    """Score of the box matched to each given one, a box at a time."""
    scores = []
    for (x0, y0, x1, y1), wanted in zip(boxes.tolist(), classes, strict=True):
        best, score = 0.0, 0.0
        for (a0, b0, a1, b1), label, value in zip(
            *(found[key].tolist() for key in ("boxes", "labels", "scores")), strict=True
        ):
            shared = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
            overlap = shared / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - shared)
            if label == wanted and overlap > best:
                best, score = overlap, value
        scores.append(score if best >= least else 0.0)
    return scores


@pytest.fixture(scope="module")
def detected() -> tuple[nn.Module, Tensor, list[int]]:
    """A detector, two boxes that it finds in the image, a little moved, and their classes."""
    network = detector()
    with torch.no_grad():
        [found] = network([IMAGES[0]])
    apart = [0, next(place for place, label in enumerate(found["labels"]) if label != found["labels"][0])]
    return network, found["boxes"][apart] + 0.5, found["labels"][apart].tolist()


@pytest.mark.parametrize("least", [0.1, 0.5, 0.99])
def test_a_box_is_scored_as_the_detection_matched_to_it(detected, least):
    network, boxes, classes = detected
    shifted = torch.cat([boxes + 3, boxes])
    states = torch.cat([IMAGES, IMAGES.flip(3), IMAGES * 0.5])
    model = wrapped(network, box_scores(shifted, classes * 2, overlap=least))
    with torch.no_grad():
        expected = [by_loop(network([state])[0], shifted, classes * 2, least) for state in states]
    close(predict(model, states), torch.tensor(expected))
    if least == 0.5:
        assert (predict(model, IMAGES)[0, 2:] > 0.05).all()


def test_a_box_has_the_gradient_of_its_own_score(detected):
    network, boxes, classes = detected
    model = wrapped(network, box_scores(boxes, classes))
    for box, wanted in enumerate(classes):
        image = IMAGES.clone().requires_grad_()
        [found] = network(image)
        score = next(
            score
            for at, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True)
            if label == wanted and (at - boxes[box]).abs().max() < 0.6
        )
        [gradient] = torch.autograd.grad(score, image)
        close(explain(model, IMAGES, "saliency", targets=box), gradient.abs().amax(1))
        assert gradient.any()


def test_rise_weighs_masks_by_the_score_of_the_box(detected):
    network, boxes, classes = detected
    model = wrapped(network, box_scores(boxes, classes))
    draws = torch.Generator().manual_seed(0)
    cells = (torch.rand(12, 7, 7, generator=draws) < 0.5).float()
    masks = shifted_masks(cells, (torch.rand(12, 2, generator=draws) * torch.tensor([5, 6])).long(), (32, 40))
    found = explain(model, IMAGES, "rise", targets=1, masks=12, sampling="plain")
    with torch.no_grad():
        scores = [by_loop(network([IMAGES[0] * mask])[0], boxes, classes, 0.5)[1] for mask in masks]
    close(found[0], (torch.tensor(scores)[:, None, None] * masks).sum(0) / 6, rtol=1e-4, atol=1e-6)  # pyright: ignore


def test_a_detector_is_judged_by_the_score_of_its_box(detected):
    network, boxes, classes = detected
    model = wrapped(network, box_scores(boxes, classes))
    states = torch.cat([IMAGES * 0.7, IMAGES])
    found = scorer(model, torch.tensor([1]))(states, torch.zeros(2, dtype=torch.long))
    with torch.no_grad():
        close(found, torch.tensor([by_loop(network([state])[0], boxes, classes, 0.5)[1] for state in states]))


def test_an_image_without_detections_scores_0_and_what_is_no_detector_is_refused(detected):
    network, boxes, classes = detected
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    close(box_scores(boxes, classes, overlap=0.0)([empty]), torch.zeros(1, 2))
    with pytest.raises(InputError, match="needs what detectors of torchvision give"):
        predict(wrapped(nn.Sequential(nn.Flatten(), nn.Linear(3840, 2)), box_scores(boxes, classes)), IMAGES)
    for wrong, labels in ((boxes, [1]), (boxes[:, :3], classes), (boxes[:0], [])):
        with pytest.raises(InputError, match="a class for each"):
            box_scores(wrong, labels)
    with pytest.raises(InputError, match="without an area"):
        box_scores(boxes[:, [2, 3, 0, 1]], classes)
    absent = wrapped(network, box_scores(torch.tensor([[0.0, 0, 1, 1]]), [1]))
    with pytest.raises(InputError, match="does not depend on the images"):
        explain(absent, IMAGES, "saliency", targets=0)


def segmenter() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU())

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = body

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": self.inner(images)}

    return FCN(Body(), FCNHead(16, 3)).eval()


REGIONS = torch.zeros(2, 32, 40, dtype=torch.bool)
REGIONS[0, 4:20, 3:11] = True
REGIONS[1, :, 30:] = True


def test_a_region_is_its_mean_logit_with_its_gradient():
    network = segmenter()
    model = wrapped(network, region_logits(REGIONS, [2, 0]))
    image = IMAGES.clone().requires_grad_()
    logits = network(image)["out"]
    expected = torch.stack([logits[0, 2, 4:20, 3:11].mean(), logits[0, 0, :, 30:].mean()])
    close(predict(model, IMAGES)[0], expected.detach())
    [gradient] = torch.autograd.grad(expected[1], image)
    close(explain(model, IMAGES, "input_x_gradient", targets=1), (gradient * IMAGES).sum(1))
    cam = explain(model, IMAGES, "grad_cam", targets=0, layer="network.backbone.inner.0")
    assert cam.shape == (1, 8, 10)  # pyright: ignore
    relevance = explain(model, IMAGES, "lrp", targets=0)
    assert relevance.isfinite().all()  # pyright: ignore


def test_coarse_logits_are_enlarged_and_what_does_not_fit_is_refused():
    coarse = torch.rand(2, 3, 8, 10)
    fine = nn.functional.interpolate(coarse, (32, 40), mode="bilinear")
    expected = torch.stack([fine[:, 1][:, region].mean(1) for region in REGIONS], 1)
    close(region_logits(REGIONS, [1, 1], output=None)(coarse), expected)
    close(region_logits(REGIONS, [1, 1], output="logits")({"logits": coarse}), expected)
    for output in ({"out": torch.rand(1, 2, 8, 10)}, {"out": torch.rand(1, 3)}, {"out": 3}):
        with pytest.raises(InputError, match=r"region_logits needs logits .* classes \[2, 0\]"):
            region_logits(REGIONS, [2, 0])(output)
    with pytest.raises(InputError, match="output='out' is no part"):
        region_logits(REGIONS, [2, 0])({"logits": coarse})
    with pytest.raises(InputError, match="an empty one"):
        region_logits(torch.zeros(1, 4, 4, dtype=torch.bool), [0])
    for masks, classes in ((REGIONS, [0]), (REGIONS[0], [0]), (REGIONS[:0], [])):
        with pytest.raises(InputError, match="a class for each"):
            region_logits(masks, classes)
