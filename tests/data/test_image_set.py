import numpy as np
import torch
from PIL import Image

from ibviz.data.image_set import IMAGES_AT_ONCE, ImageSet, regions, select, statistics
from ibviz.data.objects import annotate


def test_statistics_equal_numpy_in_float64_over_several_chunks():
    pixels = torch.randint(0, 256, (IMAGES_AT_ONCE + 7, 3, 4, 5), dtype=torch.uint8)
    pixels = pixels // torch.tensor([1, 2, 5]).view(3, 1, 1)
    pixels = pixels.to(torch.uint8)
    mean, deviation = statistics(pixels)
    oracle = pixels.numpy().astype(np.float64) / 255
    assert mean == tuple(oracle.mean((0, 2, 3)).round(4).tolist())
    assert deviation == tuple(oracle.std((0, 2, 3)).round(4).tolist())


def test_a_constant_channel_has_deviation_zero():
    assert statistics(torch.full((2, 3, 4, 5), 51, dtype=torch.uint8)) == ((0.2, 0.2, 0.2), (0.0, 0.0, 0.0))


def test_select_moves_every_field_alike():
    masks = torch.eye(3, dtype=torch.bool).view(3, 1, 3)
    boxes = torch.arange(12.0).view(3, 4)
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 1, 3)
    chosen = select(
        ImageSet(images, torch.tensor([5, 6, 7]), ("a",), ("x", "y", "z"), masks, boxes, clusters=("p", "p", "q")),
        torch.tensor([2, 0]),
    )
    assert chosen.clusters == ("q", "p")
    assert chosen.names == ("z", "x")
    assert chosen.labels.tolist() == [7, 5]
    assert chosen.images[:, 0, 0, 0].tolist() == [2, 0]
    assert chosen.boxes is not None
    assert chosen.boxes[:, 0].tolist() == [8, 0]
    assert chosen.masks is not None
    assert chosen.masks[:, 0].int().tolist() == [[0, 0, 1], [1, 0, 0]]


def box_pixel_by_pixel(box: list[float], height: int, width: int) -> torch.Tensor:
    x0, y0, x1, y1 = box
    return torch.tensor([[x0 <= c + 0.5 < x1 and y0 <= r + 0.5 < y1 for c in range(width)] for r in range(height)])


def test_regions_of_boxes_equal_a_slow_loop_and_are_empty_without_a_box():
    boxes = [[0.4, 1.0, 3.5, 3.0], [0.6, 0.0, 5.0, 4.0], [float("nan")] * 4]
    boxed = ImageSet(
        torch.zeros(3, 3, 4, 5, dtype=torch.uint8), torch.zeros(3).long(), ("a",), ("",) * 3, None, torch.tensor(boxes)
    )
    found = regions(boxed)
    assert found is not None
    for row, box in enumerate(boxes):
        assert found[row].equal(box_pixel_by_pixel(box, 4, 5))


def test_regions_prefer_masks_and_are_none_without_either():
    bare = ImageSet(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.tensor([0]), ("a",), ("x",))
    masks = torch.tensor([[[True, False], [False, False]]])
    assert regions(bare) is None
    assert regions(bare._replace(masks=masks, boxes=torch.tensor([[0.0, 0.0, 2.0, 2.0]]))) is masks


def test_regions_are_the_union_of_the_objects_of_the_class_without_the_difficult_ones():
    """One box of the class alone is what it was without knowing the others; an unknown class has no object."""
    boxes = [(0.4, 1.0, 3.5, 3.0), (3.0, 0.0, 5.0, 2.0), (0.0, 3.0, 2.0, 4.0), (4.0, 3.0, 5.0, 4.0)]
    masks = torch.rand(4, 4, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    image, white, hard = Image.new("RGB", (5, 4)), torch.zeros(4, 3, 4, 5).byte(), [False, False, False, True]
    several = annotate(image, boxes, [7, 7, 2, 7], difficult=hard, masks=masks)
    few = annotate(image, boxes[:1], [7], masks=masks[:1])
    largest = torch.tensor([boxes[0], boxes[0], [float("nan")] * 4, [float("nan")] * 4])
    objects, labels = (several, few, None, several), torch.tensor([7, 7, 7, -1])
    boxed = ImageSet(white, labels, ("a",), ("",) * 4, None, largest, objects)
    one, other = (box_pixel_by_pixel(list(box), 4, 5) for box in boxes[:2])
    nothing = torch.zeros_like(one)
    found, alone = regions(boxed), regions(boxed._replace(objects=None))
    assert found is not None
    assert alone is not None
    assert found.equal(torch.stack([one | other, one, nothing, nothing]))
    assert found[1:].equal(alone[1:])
    masked = regions(boxed._replace(masks=torch.zeros(4, 4, 5, dtype=torch.bool)))
    assert masked is not None
    assert masked.equal(torch.stack([masks[0] | masks[1], masks[0], nothing, nothing]))
