"""A split that does not fit into memory, decoded batch by batch; and what both kinds of split have in common."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from ibviz.data.image_set import Fault, ImageSet, moments, statistics, value_counts
from ibviz.data.listing import TOLERATED, Indices, Part, Row, look, tolerate
from ibviz.data.objects import View
from ibviz.errors import InputError

SEEN = 2048  # images that tell the statistics of a stream
BATCH = 64


class ImageStream:
    """Labels and names of a split, whose images are decoded anew at each `read`; nothing decoded is kept.

    Objects are looked at only where the view crops to them. A row group of a Parquet file is read whole for one of its
    rows: shuffled reading wants small groups, or files.

    `read` runs in any process that holds a copy: corrupt images are marked in `broken`, which lies in memory that all
    copies share, so `faults` of the training process also knows what the workers of its DataLoader met.
    """

    def __init__(self, part: Part, view: View) -> None:
        """Stream the rows of `part`; the view needs a size."""
        if not isinstance(view.size, int):
            raise InputError("streamed images need image_size under [data]: nobody knows their sizes beforehand")
        self.labels = part.listing.labels[part.rows]
        self.class_names = part.listing.class_names
        self.names = tuple(part.listing.names[row] for row in part.rows.tolist())
        self.size = view.size
        self._part, self._view = part, view
        self.broken = torch.zeros(len(part.rows), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        """Number of images, the corrupt ones included: nobody has looked at all of them yet."""
        return len(self.labels)

    def read(self, indices: Indices) -> tuple[UInt8[Tensor, "k 3 s s"], Indices]:
        """Pixels and labels of the images at `indices`, in that order, the corrupt ones left out.

        More than 1 % of corrupt images met so far, by any process, is an `InputError`. In a worker of a DataLoader it
        arrives with the worker's traceback in its text.
        """
        unique, places = indices.unique(return_inverse=True)
        pixels = torch.empty(len(unique), 3, self.size, self.size, dtype=torch.uint8)
        intact = torch.zeros(len(unique), dtype=torch.bool)
        part = self._part._replace(rows=self._part.rows[unique])
        for place, found in enumerate(look(part, self._view, annotated=self._view.crop == "box")):
            if isinstance(found, Row):
                pixels[place], intact[place] = found.pixels, True
        self.broken[unique[~intact]] = True
        self.check()
        kept = intact[places]
        return pixels[places[kept]], self.labels[indices[kept]]

    def check(self) -> None:
        """Raise the error of a split of which more than 1 % is corrupt, as far as it was read."""
        if int(self.broken.sum()) > TOLERATED * len(self):
            tolerate(self.faults, len(self))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Corrupt images met so far by any process, in order; they are opened once more to say why."""
        part = self._part._replace(rows=self._part.rows[self.broken.nonzero().flatten()])
        return tuple(found for found in look(part, self._view, annotated=False) if isinstance(found, Fault))


Images = ImageSet | ImageStream


def input_statistics(images: Images, *, seed: int = 0) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of each channel in [0, 1] space: exact, or of at most 2,048 images of a stream chosen by seed.

    >>> input_statistics(ImageSet(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.tensor([0]), ("a",), ("x",)))[0]
    (0.0, 0.0, 0.0)
    """
    if isinstance(images, ImageSet):
        return statistics(images.images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:SEEN]
    batches = (images.read(part)[0] for part in order.sort().values.split(BATCH))  # sorted: a row group is read once
    return moments(torch.stack([value_counts(pixels) for pixels in batches]).sum(0))
