"""A batch of images as one network sees it, for explaining and judging, in memory and in a suite."""

from typing import NamedTuple

from jaxtyping import Bool
from torch import Tensor

from ibviz.metrics.score import Targets
from ibviz.types import Grid, Images, Labels, Masks


class OtherImages(NamedTuple):
    """Another image for each image of a batch; any pixels if it cannot be read."""

    images: Images
    present: Bool[Tensor, " b"]


class Batch(NamedTuple):
    """A batch of images as one network sees it, with targets, labels and annotations."""

    images: Images
    targets: Targets
    correct: Bool[Tensor, " b"] | None = None  # True if the network predicts the label; None if unknown
    labels: Labels | None = None  # -1 if unknown
    regions: Masks | None = None  # pixels of the labelled object; empty if unknown
    clusters: tuple[str, ...] | None = None  # the cluster of each image, such as its patient
    probabilities: Tensor | None = None  # of the network, `(b, classes)`
    others: OtherImages | None = None  # for the control "other image"; None: images of this batch
    start: int = 0  # index of the first image in the data set, where unreadable images count too
    data: str = ""  # hash of images and targets

    @property
    def size(self) -> Grid:
        """Rows and columns of pixels."""
        return self.images.shape[2], self.images.shape[3]

    def at(self, places: Labels) -> "Batch":
        """Return a part of the batch, without probabilities and other images."""
        classes, against = self.targets
        targets = Targets(classes[places], None if against is None else against[places])
        correct, labels, regions = (
            None if known is None else known[places] for known in (self.correct, self.labels, self.regions)
        )
        clusters = None if self.clusters is None else tuple(self.clusters[place] for place in places.tolist())
        return Batch(self.images[places], targets, correct, labels, regions, clusters)
