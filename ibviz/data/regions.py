"""Objects as torchvision describes them, converted once into the masks that metrics see."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ibviz.errors import InputError
from ibviz.types import Boxes, Grid, Masks

if TYPE_CHECKING:
    from torchvision.tv_tensors import BoundingBoxes, Mask

Objects = Float[Tensor, "_ 4"]  # x0, y0, x1, y1 in pixels
Keep = Sequence[Bool[Tensor, "_"]]


def object_regions(objects: "Sequence[BoundingBoxes | Mask]", *, keep: Keep | None = None) -> Masks:
    """Union of each image's boxes or masks, `torchvision.tv_tensors` of the images as the model sees them.

    `keep` says which objects of each image count, for instance `(labels == target) & ~difficult` for VOC, whose
    difficult objects are left out. An image without an object gets an empty region, which metrics exclude and count.
    A pixel belongs to a box when its centre does. Objects may have any format; images must have one size.

    >>> from torchvision.tv_tensors import BoundingBoxes
    >>> box = BoundingBoxes(torch.tensor([[1, 0, 1, 1]]), format="XYWH", canvas_size=(1, 3))
    >>> object_regions([box])
    tensor([[[False,  True, False]]])
    """
    if not objects:
        raise InputError("expected the objects of at least one image; got none")
    each = [_masks(one) for one in objects]
    sizes = {tuple(masks.shape[1:]) for masks in each}
    if len(sizes) > 1:
        raise InputError(
            f"images of a batch must have one size; got {sorted(sizes)}: resize with transforms.v2, "
            "which moves boxes and masks along"
        )
    kept = each if keep is None else [masks[some] for masks, some in zip(each, keep, strict=True)]
    return torch.stack([masks.any(0) for masks in kept])


def object_boxes(objects: "Sequence[BoundingBoxes]") -> list[Objects]:
    """Each image's boxes as x0, y0, x1, y1 in pixels, whatever their format.

    >>> from torchvision.tv_tensors import BoundingBoxes
    >>> object_boxes([BoundingBoxes(torch.tensor([[1, 0, 1, 1]]), format="XYWH", canvas_size=(1, 3))])
    [tensor([[1., 0., 2., 1.]])]
    """
    from torchvision.transforms.v2.functional import convert_bounding_box_format as convert
    from torchvision.tv_tensors import BoundingBoxFormat

    return [convert(one, new_format=BoundingBoxFormat.XYXY).as_subclass(Tensor).float() for one in objects]


def rasterise(boxes: Boxes, size: Grid) -> Masks:
    """Pixels whose centre lies in each box, on images of `size` rows and columns; none for a box of NaN.

    >>> rasterise(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), (1, 2))
    tensor([[[ True, False]]])
    """
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    inside_x, inside_y = (x >= x0) & (x < x1), (y >= y0) & (y < y1)  # false beside NaN
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
