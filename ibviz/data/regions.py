"""Conversion of torchvision's boxes and masks into the regions and boxes that metrics take."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ibviz.errors import InputError
from ibviz.types import Boxes, Grid, Masks

if TYPE_CHECKING:
    from torchvision.tv_tensors import BoundingBoxes, Mask

_Boxes = Float[Tensor, "_ 4"]  # x0, y0, x1, y1 in pixels
Keep = Sequence[Bool[Tensor, "_"]]


def object_regions(objects: "Sequence[BoundingBoxes | Mask]", *, keep: Keep | None = None) -> Masks:
    """Return the union of each image's boxes or masks, given as `torchvision.tv_tensors` of the model's input.

    `keep` selects the objects of each image, for example `(labels == target) & ~difficult` on VOC. An image without
    objects gets an empty region, which metrics exclude and count. A pixel belongs to a box if its centre does. Boxes
    may have any format; all images must have one size.

    >>> from torchvision.tv_tensors import BoundingBoxes
    >>> box = BoundingBoxes(torch.tensor([[1, 0, 1, 1]]), format="XYWH", canvas_size=(1, 3))
    >>> object_regions([box])
    tensor([[[False,  True, False]]])
    """
    if not objects:
        raise InputError("expected the objects of at least one image; got none")
    masks_of_images = [_masks(image_objects) for image_objects in objects]
    sizes = {tuple(masks.shape[1:]) for masks in masks_of_images}
    if len(sizes) > 1:
        raise InputError(
            f"images of a batch must have one size; got {sorted(sizes)}: resize with transforms.v2, "
            "which moves boxes and masks along"
        )
    if keep is not None:
        masks_of_images = [masks[kept] for masks, kept in zip(masks_of_images, keep, strict=True)]
    return torch.stack([masks.any(0) for masks in masks_of_images])


def object_boxes(objects: "Sequence[BoundingBoxes]") -> list[_Boxes]:
    """Convert each image's boxes from any format to x0, y0, x1, y1 in pixels.

    >>> from torchvision.tv_tensors import BoundingBoxes
    >>> object_boxes([BoundingBoxes(torch.tensor([[1, 0, 1, 1]]), format="XYWH", canvas_size=(1, 3))])
    [tensor([[1., 0., 2., 1.]])]
    """
    from torchvision.transforms.v2.functional import convert_bounding_box_format as convert
    from torchvision.tv_tensors import BoundingBoxFormat

    return [convert(boxes, new_format=BoundingBoxFormat.XYXY).as_subclass(Tensor).float() for boxes in objects]


def rasterise(boxes: Boxes, size: Grid) -> Masks:
    """Return the pixels whose centre lies in each box, on images of `size` rows and columns; none for a box of NaN.

    >>> rasterise(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), (1, 2))
    tensor([[[ True, False]]])
    """
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    inside_x, inside_y = (x >= x0) & (x < x1), (y >= y0) & (y < y1)  # NaN compares false
    return inside_y[:, :, None] & inside_x[:, None, :]


def _masks(objects: "BoundingBoxes | Mask") -> Bool[Tensor, "objects h w"]:
    from torchvision.tv_tensors import BoundingBoxes, Mask

    if isinstance(objects, BoundingBoxes):
        [boxes] = object_boxes([objects])
        size: Grid = objects.canvas_size
        return rasterise(boxes, size)
    if isinstance(objects, Mask):
        return objects.as_subclass(Tensor).bool().view(-1, *objects.shape[-2:])
    raise InputError(
        f"expected torchvision.tv_tensors BoundingBoxes or Mask, which say what their numbers mean; "
        f"got {type(objects).__name__}"
    )
