"""Judgements as plain rows: one per image, method, metric and protocol, and one per curve."""

from collections.abc import Sequence
from typing import Any

from ibviz.attribution.catalogue import CONTROLS
from ibviz.benchmark.batch import Batch
from ibviz.benchmark.judging import Judgement
from ibviz.types import Masks


def value_rows(judged: Sequence[Judgement], batch: Batch) -> list[dict[str, Any]]:
    """Return one row per image, method, metric and protocol; `image` counts within the batch."""
    return [row for own in judged for row in _value_rows(own, batch.at(own.places))]


def curve_rows(judged: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Return the deletion and the insertion curve per image, method and protocol, on the comparison's grid."""
    return [
        {
            "method": own.method,
            "control": own.method in CONTROLS,
            "protocol": own.protocol,
            "image": image,
            "side": side,
            "fractions": fractions,
            "scores": scores,
        }
        for own in judged
        if own.curves is not None and not own.native
        for side, curve in (("deletion", own.curves.deletion), ("insertion", own.curves.insertion))
        for image, fractions, scores in zip(
            own.places.tolist(), curve.fractions.cpu().numpy(), curve.scores.float().cpu().numpy(), strict=True
        )
    ]


def object_shares(regions: Masks | None, count: int) -> list[float | None]:
    """Return the share of the pixels that lie on the object, per image; None without an object.

    >>> import torch
    >>> object_shares(torch.tensor([[[True, False]], [[False, False]]]), 2)
    [0.5, None]
    """
    if regions is None:
        return [None] * count
    return [share or None for share in regions.flatten(1).float().mean(1).tolist()]


def _value_rows(judged: Judgement, batch: Batch) -> list[dict[str, Any]]:
    """Return plain rows after one copy to the host per column."""
    fixed = {
        "method": judged.method,
        "control": judged.method in CONTROLS,
        "native": judged.native,
        "grid": f"{judged.grid[0]} x {judged.grid[1]}",
        "protocol": judged.protocol,
    }
    columns, images = _columns(judged, batch), judged.places.tolist()
    return [
        {"image": image, **fixed, "metric": metric, "value": value, "tie_sd": tie_sd}
        | {key: column[place] for key, column in columns.items()}
        for metric, (values, spread) in judged.values.items()
        for place, (image, value, tie_sd) in enumerate(zip(images, values.tolist(), spread.tolist(), strict=True))
    ]


def _columns(judged: Judgement, batch: Batch) -> dict[str, list[Any]]:
    """Return the columns that do not depend on the metric: target, label, ties, scores and annotations."""
    curves = judged.curves
    facts = {
        "target": batch.targets.classes,
        "label": batch.labels,
        "correct": batch.correct,
        "f_image": None if curves is None else curves.f_image,
        "f_baseline": None if curves is None else curves.f_baseline,
        "area_error": None if curves is None else curves.area_error,
        "random_order": judged.random_order,
        "levels": judged.ties.levels,
        "tie_fraction": judged.ties.tie_fraction,
        "zero_share": judged.ties.zero_share,
    }
    columns = {key: [None] * len(batch.images) if fact is None else fact.tolist() for key, fact in facts.items()}
    unknown = [label is None or label < 0 for label in columns["label"]]
    for key in ("label", "correct"):
        columns[key] = [None if absent else value for absent, value in zip(unknown, columns[key], strict=True)]
    return columns | {
        "object_share": object_shares(batch.regions, len(batch.images)),
        "cluster": list(batch.clusters or [None] * len(batch.images)),
    }
