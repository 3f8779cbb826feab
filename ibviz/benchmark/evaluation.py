"""Explanations of the same images by the same network, judged on one grid beside controls."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ibviz.attribution.methods import CONTROLS, Explanation, evaluating, explain, predict
from ibviz.benchmark.tables import Line, comma_separated, markdown, summarize, text
from ibviz.data.image_set import rasterise
from ibviz.errors import InputError
from ibviz.files import replacing, write_rows
from ibviz.metrics.curves import Curve, Faithfulness, faithfulness
from ibviz.metrics.localisation.pointing_game import Pointing, pointing_game
from ibviz.metrics.protocol import CurveProtocol
from ibviz.metrics.score import probability
from ibviz.models.loading import Classifier
from ibviz.progress import progress
from ibviz.types import AttentionMap, Boxes, Grid, Images, Labels, Maps, Masks

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Evaluation:
    """One row for each image, method and metric; the maps and mean curves behind them; the protocol they share."""

    rows: list[dict[str, Any]]
    maps: dict[str, Explanation]
    curves: dict[str, tuple[Curve, Curve]]  # deletion, insertion; per image
    protocol: CurveProtocol

    def lines(self) -> list[Line]:
        """Means and intervals of each method."""
        return summarize(self.rows)

    def table(self) -> str:
        """Means with 95 % intervals, methods above controls, and what they rest on."""
        return f"{text(self.lines())}\n\n{self.legend()}"

    def legend(self) -> str:
        """How the numbers were made, in words."""
        return _legend(self)

    def frame(self) -> "DataFrame":
        """The rows as a pandas table."""
        from pandas import DataFrame  # noqa: PLC0415 - slow to import

        return DataFrame(self.rows)

    def save(self, folder: Path) -> None:
        """Write `rows.parquet`, `table.csv` and `table.md` into a folder."""
        write_rows(folder / "rows.parquet", self.rows)
        with replacing(folder / "table.csv") as beside:
            beside.write_text(comma_separated(self.lines()))
        with replacing(folder / "table.md") as beside:
            beside.write_text(f"{markdown(self.lines())}\n\n{self.legend()}\n")


def evaluate(  # noqa: PLR0913 - what is known of the images is named apart
    model: Classifier,
    images: Images,
    explanations: Mapping[str, Explanation],
    *,
    targets: Labels | None = None,
    labels: Labels | None = None,
    boxes: Boxes | None = None,
    masks: Masks | None = None,
    protocol: CurveProtocol | None = None,
) -> Evaluation:
    """Judge named explanations of `images` by deletion, insertion, SRG and, given boxes or masks, the pointing game.

    All are brought onto the protocol's grid, by default that of the first trained attention, otherwise the coarsest;
    the baseline is the mean colour of the network's training data. `targets` default to the predicted classes; `labels`
    (-1 where unknown) are the true ones. Controls (uniform, centre, random cells of the same grid) are added. Boxes are
    x0, y0, x1, y1 in pixels of `images`.
    """
    _check(images, explanations)
    protocol = protocol or default_protocol(model, explanations)
    if targets is None:
        targets = predict(model, images).argmax(1)
    regions = masks if boxes is None else rasterise(boxes, (images.shape[2], images.shape[3]))
    targets, labels, regions = (None if one is None else one.to(images.device) for one in (targets, labels, regions))
    assert targets is not None
    maps = dict(explanations) | controls(model, images, targets, protocol.grid)
    rows, curves = [], {}
    with evaluating(model):
        score = probability(model, targets)
        for name, explanation in progress(maps.items(), "judging", total=len(maps)):
            numbers = values(explanation).to(images.device)
            judged = faithfulness(score, images, numbers, protocol=protocol)
            pointed = None if regions is None else pointing_game(numbers, regions)
            curves[name] = judged.deletion, judged.insertion
            rows += _rows(name, judged, pointed, targets, labels, protocol)
    return Evaluation(rows, maps, curves, protocol)


def default_protocol(model: Classifier, explanations: Mapping[str, Explanation], **choices: Any) -> CurveProtocol:
    """The contract's choices, with the grid and the baseline that follow from the comparison."""
    baseline = tuple(model.normalize.mean.flatten().tolist())
    return CurveProtocol(baseline=baseline, grid=comparison_grid(explanations), **choices)


def comparison_grid(explanations: Mapping[str, Explanation]) -> Grid:
    """Grid of the first trained attention, otherwise the coarsest of all.

    >>> comparison_grid({"fine": torch.rand(1, 32, 32), "coarse": torch.rand(1, 8, 8)})
    (8, 8)
    """
    trained = [one.mean for one in explanations.values() if isinstance(one, AttentionMap)]
    grids = [one.shape[1:] for one in trained[:1] or map(values, explanations.values())]
    rows, columns = min(grids, key=math.prod)
    return rows, columns


def controls(model: Classifier, images: Images, targets: Labels, grid: Grid) -> dict[str, Explanation]:
    """Maps without knowledge, under their labels; the random one on the comparison's grid."""
    options: dict[str, dict[str, Any]] = {"random_cells": {"grid": grid}}
    return {
        label: explain(model, images, name, targets=targets, **options.get(name, {}))
        for label, name in CONTROLS.items()
    }


def values(explanation: Explanation) -> Maps:
    """The numbers of a map, quantised where it has anchors."""
    return explanation.values() if isinstance(explanation, AttentionMap) else explanation


def _check(images: Images, explanations: Mapping[str, Explanation]) -> None:
    if not explanations:
        raise InputError("there is nothing to judge; expected explanations such as {'attention': seen.attention}")
    for name, explanation in explanations.items():
        if len(values(explanation)) != len(images):
            raise InputError(f"{name!r} explains {len(values(explanation))} images; expected {len(images)}")
        if name in CONTROLS:
            raise InputError(f"{name!r} is the name of a control, which is added anyway; rename the explanation")


def _rows(
    name: str,
    judged: Faithfulness,
    pointed: Pointing | None,
    targets: Labels,
    labels: Labels | None,
    protocol: CurveProtocol,
) -> list[dict[str, Any]]:
    """One host copy for each column, then plain rows."""
    nothing = torch.zeros_like(judged.srg)
    metrics: dict[str, tuple[Tensor, Tensor]] = {
        "srg": (judged.srg, judged.srg_tie_sd),
        "deletion": (judged.deletion_auc, judged.deletion_tie_sd),
        "insertion": (judged.insertion_auc, judged.insertion_tie_sd),
    }
    if pointed is not None:
        metrics["pointing_game"] = (pointed.hit, nothing)
    facts = {
        "target": targets,
        "label": labels,
        "f_image": judged.f_image,
        "f_baseline": judged.f_baseline,
        "levels": judged.ties.levels,
        "tie_fraction": judged.ties.tie_fraction,
        "zero_share": judged.ties.zero_share,
    }
    fixed = {"method": name, "control": name in CONTROLS, "protocol": protocol.hash}
    columns = {key: [None] * len(targets) if column is None else column.tolist() for key, column in facts.items()}
    columns["label"] = [None if label is None or label < 0 else label for label in columns["label"]]
    columns["correct"] = [
        None if label is None else label == target
        for label, target in zip(columns["label"], columns["target"], strict=True)
    ]
    return [
        {"image": image, **fixed, "metric": metric, "value": value, "tie_sd": tie_sd}
        | {key: column[image] for key, column in columns.items()}
        for metric, (found, spread) in metrics.items()
        for image, (value, tie_sd) in enumerate(zip(found.tolist(), spread.tolist(), strict=True))
    ]


def _legend(evaluation: Evaluation) -> str:
    rows, protocol = evaluation.rows, evaluation.protocol
    first = [row for row in rows if row["method"] == rows[0]["method"] and row["metric"] == "srg"]
    colour = ", ".join(f"{part:.2f}" for part in protocol.baseline)
    ties = {
        "expected": f"mean of {protocol.orders} tie orders (tie sd: their spread in SRG)",
        "group": "level by level",
    }
    at_baseline = sum(row["f_baseline"] for row in first) / len(first)
    lines = [
        f"n = {len(first)} images; 95 % bootstrap intervals. SRG = insertion - deletion; a random order has 0.",
        f"Cells of {protocol.grid[0]} x {protocol.grid[1]} replaced by RGB ({colour}), {ties[protocol.ties]};",
        f"probability of the predicted class, {at_baseline:.3f} on the baseline alone. Protocol {protocol.hash}.",
    ]
    pointing = [row["value"] for row in rows if row["metric"] == "pointing_game" and row["method"] == rows[0]["method"]]
    if pointing:
        excluded = sum(math.isnan(value) for value in pointing)
        lines.append(
            "Pointing game: expected hit over tied maxima, at most 15/224 of the side from the object;\n"
            f"{excluded} images without an object excluded; 'uniform' is the chance rate; macro: mean over classes.",
        )
    return "\n".join(lines)
