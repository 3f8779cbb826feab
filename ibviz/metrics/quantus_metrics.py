"""Metrics of Quantus as metrics of a suite: `quantus:Sparseness` (extra `quantus`; LGPL, imported only on use)."""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ibviz.errors import InputError, unknown
from ibviz.metrics.grid import enlarged
from ibviz.metrics.metric import Metric, MetricInput
from ibviz.types import MACHINE_ERRORS, Scores

QUANTUS = "quantus:"
_AGAIN = "explains changed images or networks again, and a suite has maps only"
_REFUSED_KINDS = {"ROBUSTNESS": _AGAIN, "RANDOMISATION": _AGAIN}
_REFUSED = {
    "InputInvariance": _AGAIN,
    "BatchSufficiency": "compares the images of a batch with each other, so that a value depends on the batch",
    "Sufficiency": "compares the images of a batch with each other, so that a value depends on the batch",
    "Focus": "needs mosaics of images",
}


def quantus_metric(name: str, **options: Any) -> Metric:
    """Return a metric of Quantus with its options, such as `features_in_step=28`, for a suite.

    The metric is computed image by image, so that values are independent of the batch, on maps enlarged to the images
    by repetition. Random draws start from the same seed for every image.

    Raises:
        InputError: Quantus is not installed or has no such metric or option, or the metric needs more than maps.
    """
    kind = _find(name)
    known = list(inspect.signature(kind.__init__).parameters)[1:]
    for option in options:
        if option not in known:
            raise unknown(f"option of Quantus' {name}", option, known)
    given = {"disable_warnings": True, "display_progressbar": False, "return_aggregate": False}
    with _quiet():
        metric = kind(**{key: value for key, value in given.items() if key in known}, **options)
    needs_objects = kind.evaluation_category.name == "LOCALISATION"

    def function(given: MetricInput) -> Scores:
        size = (given.images.shape[2], given.images.shape[3])
        maps = enlarged(given.maps, size, "nearest").unsqueeze(1).cpu().numpy()
        images, classes = given.images.cpu().numpy(), given.targets.cpu().numpy()
        regions = given.regions.unsqueeze(1).cpu().numpy()
        values = []
        for row in range(len(images)):
            image = slice(row, row + 1)
            if needs_objects and not regions[row].any():
                values.append(np.nan)
                continue
            arguments = {"x_batch": images[image], "y_batch": classes[image], "a_batch": maps[image]}
            if needs_objects:
                arguments["s_batch"] = regions[image]
            values.append(_number(_called(metric, name, given, arguments), name))
        return torch.tensor(values, dtype=torch.float32, device=given.images.device)

    return Metric(
        function,
        f"Quantus {name}",
        f"{name} of Quantus",
        higher_is_better=kind.score_direction.name == "HIGHER",
        needs="objects" if needs_objects else "maps",
        unit="as Quantus states it",
    )


def _find(name: str) -> Any:
    try:
        with _quiet():
            quantus, base = import_module("quantus"), import_module("quantus.metrics.base").Metric
    except ImportError as error:
        raise InputError(f"{QUANTUS}{name} needs Quantus: pip install 'ibviz[quantus]'") from error
    kinds: dict[str, Any] = {
        own: kind
        for own, kind in vars(quantus).items()
        if inspect.isclass(kind) and issubclass(kind, base) and hasattr(kind, "evaluation_category")
    }
    if name not in kinds:
        raise unknown("metric of Quantus", name, sorted(kinds))
    reason = _REFUSED.get(name) or _REFUSED_KINDS.get(kinds[name].evaluation_category.name)
    if reason:
        raise InputError(f"{QUANTUS}{name} {reason}; leave it out, or compute it with Quantus itself")
    return kinds[name]


def _called(metric: Any, name: str, given: MetricInput, arguments: dict[str, Any]) -> Any:
    try:
        with _quiet():
            device = str(given.images.device)
            return metric(model=given.model, channel_first=True, softmax=True, device=device, **arguments)
    except MACHINE_ERRORS:
        raise
    except Exception as error:
        raise InputError(f"Quantus' {name} fails: {type(error).__name__}: {error}") from error


def _number(result: Any, name: str) -> float:
    values = np.asarray(result if not isinstance(result, dict) else list(result.values()), dtype=object).ravel()
    if len(values) != 1 or not np.isscalar(values[0]):
        raise InputError(f"{QUANTUS}{name} gives {len(values)} values per image; expected one: see its options")
    return float(values[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and seed the generators of NumPy and torch inside the block; they are restored afterwards."""
    before = np.random.get_state()  # noqa: NPY002 - Quantus draws from the global generator
    with warnings.catch_warnings(), torch.random.fork_rng([]):
        warnings.simplefilter("ignore")
        np.random.seed(0)  # noqa: NPY002 - as above
        torch.manual_seed(0)
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002 - as above
