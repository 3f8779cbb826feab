"""Images of a split that does not fit into memory, decoded batch by batch."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from ibviz.data.image_set import Fault, ImageSet, moments, statistics, value_counts
from ibviz.data.listing import TOLERATED_SHARE, DecodedImage, Indices, Part, check_faults, decode_rows
from ibviz.data.objects import View
from ibviz.errors import InputError

_STATISTICS_IMAGES = 2048  # images from which the statistics of a stream are estimated
_BATCH = 64


class ImageStream:
    """Labels and names of a split whose images are decoded at each `read`; nothing decoded is kept.

    Objects are read only if the view crops to them. Reading one row of a Parquet file reads its whole row group, so
    that shuffled reading is fast only with small row groups or with files.

    `read` may run in any process that holds a copy. It marks corrupt images in `broken`, which lies in shared memory,
    so that `faults` of the training process includes those met by the workers of its DataLoader.
    """

    def __init__(self, part: Part, view: View) -> None:
        """Stream the rows of `part`; the view needs a size."""
        if not isinstance(view.size, int):
            raise InputError("streamed images need image_size under [data]: their sizes are unknown beforehand")
        self.labels = part.listing.labels[part.rows]
        self.class_names = part.listing.class_names
        self.names = tuple(part.listing.names[row] for row in part.rows.tolist())
        self.size = view.size
        self._part, self._view = part, view
        self.broken = torch.zeros(len(part.rows), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        """Number of images, including corrupt ones, which are only found when they are read."""
        return len(self.labels)

    def read(self, indices: Indices) -> tuple[UInt8[Tensor, "k 3 s s"], Indices]:
        """Decode the images at `indices` and return pixels and labels in that order, without the corrupt ones.

        Raises:
            InputError: If more than 1 % of the split has been found corrupt so far, by any process. From a worker of a
                DataLoader it arrives with the worker's traceback in its message.
        """
        unique, places = indices.unique(return_inverse=True)
        pixels = torch.empty(len(unique), 3, self.size, self.size, dtype=torch.uint8)
        intact = torch.zeros(len(unique), dtype=torch.bool)
        part = self._part._replace(rows=self._part.rows[unique])
        for place, result in enumerate(decode_rows(part, self._view, annotated=self._view.crop == "box")):
            if isinstance(result, DecodedImage):
                pixels[place], intact[place] = result.pixels, True
        self.broken[unique[~intact]] = True
        self.check()
        kept = intact[places]
        return pixels[places[kept]], self.labels[indices[kept]]

    def check(self) -> None:
        """Raise `InputError` if more than 1 % of the split has been found corrupt so far."""
        if int(self.broken.sum()) > TOLERATED_SHARE * len(self):
            check_faults(self.faults, len(self))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Corrupt images met so far by any process, in order; they are read again for the reason."""
        part = self._part._replace(rows=self._part.rows[self.broken.nonzero().flatten()])
        return tuple(result for result in decode_rows(part, self._view, annotated=False) if isinstance(result, Fault))


ImageData = ImageSet | ImageStream


def input_statistics(
    images: ImageData, *, seed: int = 0
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of each channel in [0, 1], exact in memory, of at most 2,048 random images of a stream.

    >>> input_statistics(ImageSet(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.tensor([0]), ("a",), ("x",)))[0]
    (0.0, 0.0, 0.0)
    """
    if isinstance(images, ImageSet):
        return statistics(images.images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:_STATISTICS_IMAGES]
    order = order.sort().values  # so that a row group is read once
    batches = (images.read(part)[0] for part in order.split(_BATCH))
    return moments(torch.stack([value_counts(pixels) for pixels in batches]).sum(0))
