"""The table of metrics."""

import torch
from torch import Tensor

from ibviz.errors import InputError, unknown
from ibviz.extensions import check_signature, first_line, is_outside, load_outside
from ibviz.metrics.concentration import complexity, sparseness
from ibviz.metrics.localisation.energy import auroc, energy_pointing_game, top_cell_precision
from ibviz.metrics.localisation.pointing_game import pointing_game
from ibviz.metrics.metric import Metric, MetricInput
from ibviz.metrics.quantus_metrics import QUANTUS, quantus_metric
from ibviz.types import Scores

# Tables print verdicts and strata for their first metric in this order.
METRICS: dict[str, Metric] = {
    "srg": Metric(
        lambda given: given.faithfulness.srg,
        "SRG",
        "insertion minus deletion area; 0 for a random order",
        needs="curves",
        unit="score",
        spread=lambda given: given.faithfulness.srg_tie_sd,
    ),
    "deletion": Metric(
        lambda given: given.faithfulness.deletion_auc,
        "Deletion",
        "area under the score while the highest cells are removed first",
        higher_is_better=False,
        needs="curves",
        unit="score",
        spread=lambda given: given.faithfulness.deletion_tie_sd,
    ),
    "insertion": Metric(
        lambda given: given.faithfulness.insertion_auc,
        "Insertion",
        "area under the score while the highest cells are added first",
        needs="curves",
        unit="score",
        spread=lambda given: given.faithfulness.insertion_tie_sd,
    ),
    "pointing_game": Metric(
        lambda given: pointing_game(given.maps, given.regions).hit,
        "Pointing",
        "1 if the highest cell lies on or near the object, otherwise 0; the expected value if cells are tied",
        needs="objects",
    ),
    "energy_pointing_game": Metric(
        lambda given: energy_pointing_game(given.maps, given.regions).energy,
        "Energy",
        "share of the map's positive values that lies on the object",
        needs="objects",
    ),
    "energy_normalised": Metric(
        lambda given: energy_pointing_game(given.maps, given.regions).normalised,
        "Energy, normalised",
        "energy above the object's share of the image, relative to the most possible; 0 for a uniform map",
        needs="objects",
    ),
    "auroc": Metric(
        lambda given: auroc(given.maps, given.regions),
        "AUROC",
        "probability that a pixel of the object has a higher value than one of the background",
        needs="objects",
    ),
    "top_cell_precision": Metric(
        lambda given: top_cell_precision(given.cells, given.regions),
        "Top cells",
        "share of the pixels of the highest cell that lies on the object",
        needs="objects",
    ),
    "average_drop": Metric(
        lambda given: given.dropped.drop,
        "Average drop",
        "relative loss of probability when the image is dimmed by the map",
        higher_is_better=False,
    ),
    "confidence_increase": Metric(
        lambda given: given.dropped.increase,
        "Increase",
        "1 if the probability rises when the image is dimmed by the map, otherwise 0",
    ),
    "sparseness": Metric(
        lambda given: sparseness(given.cells), "Sparseness", "Gini index of the absolute values", unit="Gini index"
    ),
    "complexity": Metric(
        lambda given: complexity(given.cells),
        "Complexity",
        "entropy of the shares of the absolute values",
        higher_is_better=False,
        unit="nats",
    ),
}


def metric_of(name: str) -> Metric:
    """Return the metric of that name, of Quantus (`quantus:NAME`), or from the user's code (`file.py:name`).

    The user's metric is a `Metric`, or a function that takes a `MetricInput` and returns one number per image; tables
    show a function under its own name, and higher is better.

    Raises:
        InputError: The name is unknown, or the object cannot be called in this way.

    >>> metric_of("deletion").facts.heading
    'Deletion ↓'
    """
    if name in METRICS:
        return METRICS[name]
    if name.startswith(QUANTUS):
        return quantus_metric(name.removeprefix(QUANTUS))
    if not is_outside(name):
        raise unknown("metric", name, list(METRICS))
    given = load_outside(name)
    if not isinstance(given, Metric):
        check_signature(name, given, least=1, most=1)
        given = Metric(given, name.rpartition(":")[2], first_line(given))
    return given


def measure(name: str, given: MetricInput) -> tuple[Scores, Scores]:
    """Compute a metric: one number per image, and its standard deviation between tie orders (0 if unknown).

    Raises:
        InputError: The metric returns anything but one number per image.
    """
    metric = metric_of(name)
    values = metric.function(given)
    if not isinstance(values, Tensor) or values.shape != given.targets.shape:
        came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(f"it gives {came}; expected a tensor of one number per image, ({len(given.images)},)")
    spread = torch.zeros_like(values) if metric.spread is None else metric.spread(given)
    return values, spread
