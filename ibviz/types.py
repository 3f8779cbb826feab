"""Tensor types shared by all packages; checked in tests, without cost in production."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import AcceleratorError, OutOfMemoryError, Tensor

# Errors of the machine end a run: after the first kind every later call fails, and a resumed run may avoid both.
MACHINE_ERRORS = (AcceleratorError, OutOfMemoryError)

Images = Float[Tensor, "b colours h w"]  # in [0, 1]; the model normalises
Inputs = Float[Tensor, "b *rest"]  # images, or the output of a layer
FeatureMaps = Float[Tensor, "b c gh gw"]  # output of a layer, channels first
Pixels = UInt8[Tensor, "b 3 h w"]  # as stored
Labels = Int[Tensor, " b"]
Scores = Float[Tensor, " b"]
Maps = Float[Tensor, "b gh gw"]  # native grid, signed, unnormalised
Masks = Bool[Tensor, "b h w"]
Boxes = Float[Tensor, "b 4"]  # x0, y0, x1, y1 in pixels of the image as the model sees it
Grid = tuple[int, int]  # rows, columns
Given = Tensor | NDArray[Any]  # arrays that `explain`, `evaluate` and `predict` accept
# Returns one number per masked image; the second argument is the index of the image that each was made from.
Score = Callable[[Images, Int[Tensor, " b"]], Scores]


@dataclass(frozen=True)
class AttentionMap:
    """Deterministic attention of a batch on its native grid; `index` and `anchors` are None for a continuous model."""

    mean: Maps
    deviation: Maps
    index: Int[Tensor, "b gh gw"] | None
    anchors: Float[Tensor, " q"] | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.mean)

    def __getitem__(self, places: slice | Tensor) -> "AttentionMap":
        """Return the attention of some images, given by a slice or by a tensor of indices.

        >>> import torch
        >>> maps = AttentionMap(torch.rand(3, 2, 2), torch.rand(3, 2, 2), None, None)
        >>> len(maps[:2]), len(maps[torch.tensor([2])])
        (2, 1)
        """
        index = None if self.index is None else self.index[places]
        return AttentionMap(self.mean[places], self.deviation[places], index, self.anchors)

    def values(self) -> Maps:
        """Return the anchor value of every cell, or the mean for a continuous model.

        >>> import torch
        >>> mean = torch.tensor([[[0.1, 0.8]]])
        >>> AttentionMap(mean, mean, torch.tensor([[[0, 1]]]), torch.tensor([0.0, 1.0])).values()
        tensor([[[0., 1.]]])
        """
        if self.index is None or self.anchors is None:
            return self.mean
        return self.anchors[self.index]
