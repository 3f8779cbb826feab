"""How much a network relies on its attention over all images of a run, and their average map: measured once, for both
belong to no batch."""

from collections.abc import Iterator

from ibviz.benchmark.class_match import match_classes
from ibviz.benchmark.runner.maps import Network, images_for
from ibviz.data.sources import Chosen
from ibviz.models.classifier import IBClassifier
from ibviz.models.reliance import Reliance, reliance
from ibviz.progress import progress
from ibviz.types import Images, Labels

READ = 32  # images at once, five maps each; the same for every suite, since its `batch` must change no number


def measure_reliance(network: Network, chosen: Chosen) -> Reliance | None:
    """Replace the attention of all readable images, which are read twice; None for a network without attention."""
    model = network.model
    if not isinstance(model, IBClassifier):
        return None

    def batches() -> Iterator[tuple[Images, Labels]]:
        count = len(chosen.labels)
        starts = range(0, count, READ)
        for start in progress(starts, f"replacing the attention of {network.label}", total=len(starts)):
            batch = match_classes(chosen.read(start, min(start + READ, count)), model)
            if len(batch.labels):
                images = images_for(model, batch)
                yield images, batch.labels.to(images.device)

    return reliance(model, batches)
