"""A batch of images as one network sees it: what explaining and judging share, in memory and in a suite."""

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
    """A batch of images as one network sees it, and what is known of them."""

    images: Images
    targets: Targets
    correct: Bool[Tensor, " b"] | None = None  # whether the network predicts the label, if that is known
    labels: Labels | None = None  # -1 if unknown
    regions: Masks | None = None  # pixels of the labelled object, none if unknown
    clusters: tuple[str, ...] | None = None  # name of what each image shares with others, such as a patient
    probabilities: Tensor | None = None  # `(b, classes)`, of the network
    others: OtherImages | None = None  # for the control "other image"; None: chosen among these images
    start: int = 0  # number of the first image in the data set, unreadable ones counted
    data: str = ""  # hash of images and targets

    @property
    def size(self) -> Grid:
        """Rows and columns of pixels."""
        return self.images.shape[2], self.images.shape[3]

    def at(self, places: Labels) -> "Batch":
        """Return some of the images with what they are judged by."""
        classes, against = self.targets
        targets = Targets(classes[places], None if against is None else against[places])
        correct, labels, regions = (
            None if known is None else known[places] for known in (self.correct, self.labels, self.regions)
        )
        clusters = None if self.clusters is None else tuple(self.clusters[place] for place in places.tolist())
        return Batch(self.images[places], targets, correct, labels, regions, clusters)
