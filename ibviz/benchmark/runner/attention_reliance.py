"""The reliance of a network on its attention, and the average map, over all images of a run rather than per batch."""

from collections.abc import Iterator

from ibviz.benchmark.class_match import match_classes
from ibviz.benchmark.runner.maps import Network, images_for
from ibviz.data.sources import Chosen
from ibviz.models.classifier import IBClassifier
from ibviz.models.reliance import Reliance, reliance
from ibviz.progress import progress
from ibviz.types import Images, Labels

_IMAGES_AT_ONCE = 32  # with five maps each; independent of the suite's `batch`, which must not change any number


def measure_reliance(network: Network, chosen: Chosen) -> Reliance | None:
    """Return the effect of replacing the attention, over all readable images; None for a network without attention.

    Images are read twice.
    """
    model = network.model
    if not isinstance(model, IBClassifier):
        return None

    def batches() -> Iterator[tuple[Images, Labels]]:
        count = len(chosen.labels)
        starts = range(0, count, _IMAGES_AT_ONCE)
        for start in progress(starts, f"replacing the attention of {network.label}", total=len(starts)):
            batch = match_classes(chosen.read(start, min(start + _IMAGES_AT_ONCE, count)), model)
            if len(batch.labels):
                images = images_for(model, batch)
                yield images, batch.labels.to(images.device)

    return reliance(model, batches)
