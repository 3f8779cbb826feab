"""A report page from a folder of results, without a model: all numbers come from the folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibviz.benchmark.ranking import Frame
from ibviz.benchmark.results import Results, read_results
from ibviz.benchmark.store import maps_folder, read_maps
from ibviz.benchmark.summary import ALL_IMAGES
from ibviz.benchmark.table_notes import sample_size
from ibviz.benchmark.table_text import verdict
from ibviz.data.decode import decode
from ibviz.errors import InputError
from ibviz.figures.curves import POINTS
from ibviz.figures.panel_rows import RowMaps
from ibviz.figures.report import (
    Band,
    Picture,
    Prediction,
    Report,
    ReportComparison,
    ReportModel,
    TableLine,
    save_report,
)
from ibviz.files import remove_abandoned
from ibviz.reading import parsing
from ibviz.statistics import Estimate, bootstrap_interval
from ibviz.types import AttentionMap
from ibviz.workflows.anchor_effects import Worth, read_worth
from ibviz.workflows.captions import without_zero
from ibviz.workflows.presentation import score_of, write_missing

_ANCHOR_TOLERANCE = 1e-6  # between the anchors in a study and in stored maps
_SHOWN_ELSEWHERE = ("failures", "left_out", "skipped", "protocols")  # circumstances in other sections of the page


def write_report(
    folder: Path, out: Path | None = None, *, images: int | None = None, anchors: Path | None = None
) -> Path:
    """Write the report of a folder of `ibviz evaluate`, and those tables and figures that the folder lacks.

    Args:
        folder: The folder of the result.
        out: The file to write; by default `report.html` in the folder.
        images: The largest number of images, among those stored as pictures; by default all.
        anchors: A folder of `ibviz anchors`, whose effects are then shown beside the anchors.

    Returns:
        The path of the page.

    Raises:
        InputError: A folder is missing or damaged, or has no pictures or maps.
    """
    path, results = out or folder / "report.html", read_results(folder)
    worth = None if anchors is None else read_worth(anchors)
    for place in (folder, path.parent):
        remove_abandoned(place)
    # Types were checked when the tables were read; inconsistencies between tables raise errors only here.
    with parsing(f"the tables of {folder} do not belong together", "run the suite again"):
        report = report_of(results, images, worth)
        write_missing(results)
        save_report(report, path)
    return path


def report_of(results: Results, images: int | None = None, worth: Worth | None = None) -> Report:
    """Return the contents of the page.

    Args:
        results: The results of a suite.
        images: The largest number of images; by default all that are stored as pictures.
        worth: The effects of the anchors, to be shown beside them.
    """
    facts = results.circumstances
    kept: Frame = results.images[results.images["picture"].notna()]
    kept = kept[:images]
    if not len(kept):
        raise InputError(f"{results.folder} keeps no pictures, which a report shows; run the suite with pictures = 200")
    models = subjects_of(results, kept["image"].tolist())
    if not any(model.maps for model in models.values()):
        raise InputError(
            f"{results.folder} keeps no maps, which a report shows; run the suite into another folder and "
            "report on that"
        )
    summary = results.tabulated().summary
    lines: Frame = summary.lines
    lines = lines[(lines["stratum"] == ALL_IMAGES) & (lines["models"] == 1) & ~lines["native"]]
    headings = {name: metric.heading for name, metric in summary.metrics.items()}
    tables = list(lines.groupby(["model", "protocol"], sort=False, observed=True))
    return Report(
        title=f"{', '.join(facts['models'])}: maps compared",
        lead=_lead(facts, lines),
        pictures=pictures_of(kept, facts),
        models=_with_effects(models, worth),
        comparisons=[_comparison(results, table, key, kept["image"].tolist(), headings) for key, table in tables],
        circumstances=_circumstances(facts),
        failures=[
            *(
                f"{failure['method']} of {failure['model']}, {len(failure['images'])} images: {failure['error']}"
                for failure in facts["failures"]
            ),
            *(f"{name} could not be read" for name in facts["skipped"]),
        ],
        left_out=[_left_out(absent) for absent in facts["left_out"]],
    )


def _lead(facts: dict[str, Any], lines: Frame) -> str:
    controls: Frame = lines.drop_duplicates("method")["control"].astype(bool)
    hashes = ", ".join(lines["hash"].astype(str).unique())
    source = facts["suite"].get("data", {}).get("source")
    return (
        f"{int((~controls).sum())} methods and {int(controls.sum())} controls, judged on {facts['images']} images"
        f"{f' of {source}' if source else ''} by {', '.join(facts['models'])}. Protocol {hashes}."
    )


def pictures_of(kept: Frame, facts: dict[str, Any]) -> list[Picture]:
    """Return the pictures; labels count in the first model's classes."""
    names = next(iter(facts["models"].values()))["class_names"]
    return [
        Picture(row.name, _pixels(row.picture), _class(names, row.label), _box(row.box))
        for row in kept.rename(columns={"image": "number"}).itertuples(index=False)
    ]


def _box(edges: np.ndarray | None) -> list[float] | None:
    if edges is None:
        return None
    if len(edges) != 4 or not np.isfinite(edges).all():
        raise InputError(f"the box of a picture should have four edges, not {list(edges)[:5]}; run the suite again")
    return list(edges)


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(decode(png, "a picture of the results"))


def _class(names: Sequence[str], label: float | None) -> str | None:
    return None if label is None or np.isnan(label) else names[int(label)]


def subjects_of(results: Results, images: Sequence[int]) -> dict[str, ReportModel]:
    """Return the networks of a result with their predictions and maps of some images."""
    return {name: _subject(results, name, images) for name in results.circumstances["models"]}


def _subject(results: Results, model: str, images: Sequence[int]) -> ReportModel:
    facts = results.circumstances
    answers: Frame = results.predictions.query("model == @model").set_index("image").loc[images]
    rows: Frame = results.rows_of(images).query("model == @model")
    labels = rows.drop_duplicates("image").set_index("image")["label"].reindex(images).astype(float).tolist()
    names = facts["models"][model]["class_names"]
    predictions = [
        Prediction(names[predicted], probability, None if _class(names, label) is None else predicted == label)
        for predicted, probability, label in zip(answers["predicted"], answers["probability"], labels, strict=True)
    ]
    controls = [name for name, method in facts["methods"].items() if method["control"]]
    methods = sorted(facts["methods"], key=controls.__contains__)
    maps = {name: own for name in methods if (own := _maps(results, model, name, images)) is not None}
    offset = without_zero([(str(facts["methods"][name].get("method")), name) for name in maps])
    return ReportModel(predictions, maps, from_least=tuple(offset))


def _with_effects(subjects: dict[str, ReportModel], worth: Worth | None) -> dict[str, ReportModel]:
    """Return the networks with the effects of their anchors; refuse effects that belong to none of them."""
    if worth is None:
        return subjects
    methods = {
        name: [label for label, maps in subject.maps.items() if _has_anchors(maps, worth.anchors)]
        for name, subject in subjects.items()
    }
    if not any(methods.values()):
        raise InputError("the study of anchors is of another network: none of the maps has its anchors")
    return {
        name: subject._replace(effects=dict.fromkeys(methods[name], worth.effect)) for name, subject in subjects.items()
    }


def _has_anchors(maps: RowMaps, anchors: np.ndarray) -> bool:
    own = maps.anchors if isinstance(maps, AttentionMap) else None
    if own is None or len(own) != len(anchors):
        return False
    return bool(np.abs(own.cpu().numpy() - anchors).max() < _ANCHOR_TOLERANCE)


def _maps(results: Results, model: str, method: str, images: Sequence[int]) -> RowMaps | None:
    """Return the maps of the pictures, which are the first images; None for a method that was left out."""
    if not maps_folder(results.folder, model, method).is_dir():
        return None
    return read_maps(results.folder, model, method, slice(images[0], images[-1] + 1))


def _comparison(
    results: Results, table: Frame, key: tuple[str, str], images: Sequence[int], headings: Mapping[str, str]
) -> ReportComparison:
    model, protocol = key
    facts = results.circumstances
    card = facts["models"][model]["protocols"][protocol]
    rows: Frame = results.rows_of(images).query("model == @model and protocol == @protocol and not native")
    judged = rows.pivot(index="image", columns=["method", "metric"], values="value")
    judged = judged.reindex(images).astype(float)
    first = headings[table["metric"].iloc[0]].rstrip(" ↑↓")
    return ReportComparison(
        model,
        protocol,
        card,
        lines=[_line(part, headings) for _, part in table.groupby("method", sort=False, observed=True)],
        curves={
            side: {method: _band(*points) for method, points in own.items()}
            for side, own in results.curves_of(model, protocol).items()
        },
        values={
            method: {
                headings[metric]: judged[method][metric].to_numpy() for metric in headings if metric in judged[method]
            }
            for method in judged.columns.unique(0)
        },
        notes=[
            f"{sample_size(table)} Rank and words are by {first}: methods that a paired test does not tell apart share "
            "a rank."
        ],
        score=score_of(card),
    )


def _line(part: Frame, headings: Mapping[str, str]) -> TableLine:
    """Return one method's line with the estimates of all metrics; rank and verdict are those of the first."""
    from pandas import isna

    first = part.iloc[0]
    estimates = {
        headings[line.metric]: Estimate(line.mean, line.low, line.high, line.n, line.excluded)
        for line in part.itertuples(index=False)
    }
    rank = None if isna(first["rank"]) else int(first["rank"])
    return TableLine(str(first["method"]), bool(first["control"]), estimates, rank, verdict(first.to_dict()))


def _band(fractions: np.ndarray, scores: np.ndarray) -> Band:
    """Return the mean curve with its interval, interpolated at common points if the images have different ones."""
    points = fractions[0].astype(np.float64)
    if (fractions != points).any():
        points = np.linspace(0, 1, POINTS)
    table = np.stack([np.interp(points, *image) for image in zip(fractions, scores, strict=True)])
    table = table[np.isfinite(table).all(1)]
    return Band(points, table.mean(0), *bootstrap_interval(table))


def _circumstances(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the circumstances that are not shown elsewhere, with the number of classes in place of their names."""
    kept = {key: value for key, value in facts.items() if key not in _SHOWN_ELSEWHERE}
    models = {name: model | {"class_names": len(model["class_names"])} for name, model in facts["models"].items()}
    return kept | {"models": models}


def _left_out(absent: dict[str, Any]) -> str:
    name = " of ".join(str(absent[key]) for key in ("metric", "method", "model") if absent.get(key))
    return f"{name}: {absent['reason']}"
