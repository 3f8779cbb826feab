"""The text of a comparison: tables of strings with their notes, and the legend."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ibviz.benchmark.ranking import Frame
from ibviz.benchmark.summary import ALL_IMAGES, Summary
from ibviz.benchmark.table_legend import legend
from ibviz.benchmark.table_notes import cluster_notes, cluster_warning, map_errors, testing_limits
from ibviz.metrics.metric import MetricFacts
from ibviz.models.reliance import REPLACEMENTS
from ibviz.table_formats import TextTable

NATIVE = "On each method's own grid. These numbers do not compare across grids: finer damage harms more by itself."
MISSING = "-"
BETTER, WORSE, LEVEL = "\u207a", "\u207b", "°"  # marks in place of verdicts
MARKS = (
    f"{BETTER} better than the best control, {WORSE} worse, {LEVEL} not separated from it, by a paired test at the 5 % "
    "level."
)


def main_sheets(
    summary: Summary, circumstances: Mapping[str, Any], *, marks: bool = False, ties: bool = True
) -> list[TextTable]:
    """Return the table of each model and protocol on the common grid, as `table_sections` begins with them.

    Args:
        summary: The estimates.
        circumstances: As for `table_sections`.
        marks: Mark each estimate that differs from the best control's, in place of verdicts in words.
        ties: Add columns of the macro mean, and of the spread and share of ties.
    """
    common = summary.lines[~summary.lines["native"].astype(bool)]
    tables = [part for _, part in common.groupby(["protocol", "model"], sort=False)]
    titles = ["" if len(tables) == 1 else _title(part) for part in tables]
    return [
        _main(part, title, summary.metrics, circumstances, marks=marks, ties=ties)
        for part, title in zip(tables, titles, strict=True)
    ]


def table_sections(summary: Summary, circumstances: Mapping[str, Any], *, marks: bool = False) -> list[TextTable | str]:
    """Return all tables of a comparison, and the legend after the main ones.

    Args:
        summary: The estimates.
        circumstances: Must have `protocols`; `models`, `left_out` and `failures` are used if they are present.
        marks: Mark each estimate that differs from the best control's, in place of verdicts in words.
    """
    lines: Frame = summary.lines
    metrics = summary.metrics
    tables = [part for _, part in lines.groupby(["protocol", "model", "native"], sort=False)]
    common = [part for part in tables if not part["native"].any()]
    own = [part for part in tables if part["native"].any()]
    alone = len(common) == 1
    main = main_sheets(summary, circumstances, marks=marks)
    strata = [_strata(part, "" if alone else _title(part), metrics) for part in common if part["stratum"].nunique() > 1]
    models: Mapping[str, Any] = circumstances.get("models", {})
    agreement = [_agreement(summary.agreement)] if len(summary.agreement) else []
    used = [
        _reliance(name, own["reliance"], alone=len(models) == 1) for name, own in models.items() if own.get("reliance")
    ]
    return [
        *main,
        *used,
        legend(summary, circumstances),
        *strata,
        *agreement,
        *([NATIVE] if own else []),
        *(_main(part, "" if len(own) == 1 else _title(part), metrics, {}, marks=marks) for part in own),
    ]


def _title(lines: Frame) -> str:
    first = lines.iloc[0]
    return f"{first['model']}, protocol {first['protocol']}"


def _main(
    lines: Frame,
    title: str,
    metrics: Mapping[str, MetricFacts],
    circumstances: Mapping[str, Any],
    *,
    marks: bool,
    ties: bool = True,
) -> TextTable:
    """Return the main table: per method the estimate and rank by each metric, its ties, and the verdict."""
    kept = lines[lines["stratum"] == ALL_IMAGES]
    table = _by_method(kept)
    first, *others = kept["metric"].unique()
    columns = {
        metrics[name].heading: [
            _estimate(row.get(name)) + (verdict_mark(row.get(name)) if marks else "") for row in table.values()
        ]
        for name in (first, *others)
    }
    by_first = [row.get(first) for row in table.values()]
    if ties and kept["macro"][kept["metric"] == "pointing_game"].notna().any():
        columns["macro"] = [_number(row.get("pointing_game"), "macro", ".3f") for row in table.values()]
    if ties and kept["tie_sd"].notna().any():
        columns["tie sd"] = [_number(line, "tie_sd", ".3f") for line in by_first]
        columns["tied cells"] = [_number(line, "tie_fraction", ".0%") for line in by_first]
    judged = bool(kept["verdict"].notna().any())
    marked = any(verdict_mark(line) for row in table.values() for line in row.values())
    if judged and not marks:
        columns[f"by {metrics[first].label}, against the best control"] = [verdict(line) for line in by_first]
    notes = [
        *cluster_notes(kept),
        *testing_limits(kept, metrics),
        *([MARKS] * marked if marks else _losses(table, {name: metrics[name].label for name in others})),
        *_excluded(kept, metrics),
        *map_errors(str(kept.iloc[0]["model"]), circumstances),
        *_absent(str(kept.iloc[0]["model"]), metrics, circumstances),
    ]
    return _sheet(title, table, columns, notes)


def _reliance(model: str, decided: Mapping[str, Any], *, alone: bool) -> TextTable:
    """Return the table of accuracy and cross-entropy with other maps in the place of the trained attention."""
    cells = [
        [REPLACEMENTS.get(name, name), *(_estimate(numbers[measure]) for measure in ("accuracy", "cross_entropy"))]
        for name, numbers in decided.items()
    ]
    notes = [
        "The values of the gate are replaced, not the image. As good with every cell at its map's mean: the "
        "attention is not used; as good with the average map: only where it usually lies is."
    ]
    title = "How much the attention is used" + ("" if alone else f": {model}")
    return TextTable(title, ["decided with", "accuracy", "cross-entropy (nats)"], cells, 0, notes)


def _by_method(lines: Frame) -> dict[str, dict[str, Any]]:
    """Return the lines by method and metric, with controls last."""
    table: dict[str, dict[str, Any]] = {}
    for line in sorted(lines.to_dict("records"), key=lambda line: line["control"]):
        table.setdefault(line["method"], {})[line["metric"]] = line
    return table


def _sheet(
    title: str, table: dict[str, dict[str, Any]], columns: dict[str, list[str]], notes: Sequence[str]
) -> TextTable:
    cells = [list(row) for row in zip(table, *columns.values(), strict=True)]
    controls = sum(any(line["control"] for line in row.values()) for row in table.values())
    return TextTable(title, ["method", *columns], cells, controls, notes)


def _strata(lines: Frame, title: str, metrics: Mapping[str, MetricFacts]) -> TextTable:
    """Return the first metric of each method on parts of the images."""
    kept = lines[(lines["metric"] == lines["metric"].iloc[0]) & (lines["stratum"] != ALL_IMAGES)]
    table = _by_method(kept)
    columns = {}
    for name, part in kept.groupby("stratum", sort=False):
        by_method = {line["method"]: line for line in part.to_dict("records")}
        in_clusters = f" in {part['clusters'].max()} clusters" if part["clusters"].notna().any() else ""
        columns[f"{name} (n = {part['n'].max()}{in_clusters})"] = [_estimate(by_method.get(method)) for method in table]
    warning = cluster_warning(kept) if kept["clusters"].notna().any() else ""
    notes = [warning] if warning else []
    notes += ["Object sizes are thirds of the images by the object's share of the pixels."] * ("object" in str(columns))
    heading = f"{metrics[lines['metric'].iloc[0]].heading} on parts of the images"
    return _sheet(f"{heading}: {title}" if title else heading, table, columns, notes)


def _agreement(agreement: Frame) -> TextTable:
    cells = [
        [
            ", ".join(
                [
                    *([line["model"]] if agreement["model"].nunique() > 1 else []),
                    *([line["protocol"]] if agreement["protocol"].nunique() > 1 else []),
                    line["judges"],
                ]
            ),
            *(_number(line, name, ".2f") for name in ("kendall", "spearman", "alpha")),
            str(line["units"]),
        ]
        for line in agreement.to_dict("records")
    ]
    notes = [
        "1: the same order, 0: as by chance, -1: reversed. 'all' are all metrics or protocols as raters of the "
        "methods, 'images by' the images as raters (ordinal, on ranks). Controls are left out, for all agree "
        "about them; of few methods these numbers say little."
    ]
    header = ["judges", "Kendall's tau-b", "Spearman's rho", "Krippendorff's alpha", "methods"]
    return TextTable("Do the judges put the methods in one order?", header, cells, 0, notes)


def _losses(table: dict[str, dict[str, Any]], labels: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence per method that is not better than the best control by one of the metrics."""
    for method, row in table.items():
        verdicts = {label: verdict(row.get(name)) for name, label in labels.items()}
        losses = [
            f"by {label} {sentence}"
            for label, sentence in verdicts.items()
            if sentence and not sentence.startswith("better")
        ]
        if losses:
            yield f"{method}: {'; '.join(losses)}."


def _excluded(lines: Frame, metrics: Mapping[str, MetricFacts]) -> Iterator[str]:
    for metric, part in lines[lines["excluded"] > 0].groupby("metric", sort=False):
        least, most, images = part["excluded"].min(), part["excluded"].max(), (part["n"] + part["excluded"]).max()
        count = f"{most}" if least == most else f"{least} to {most}"
        yield f"{metrics[str(metric)].label}: {count} of {images} images without a defined value excluded."


def _absent(model: str, metrics: Mapping[str, MetricFacts], circumstances: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each thing that the suite asked for and the table does not have, with the reason."""
    for absent in circumstances.get("left_out", []):
        if absent["model"] in (model, None):
            name = absent.get("metric") or absent.get("method")
            yield f"Left out: {metrics[name].label if name in metrics else name}, for {absent['reason']}."
    for failure in circumstances.get("failures", []):
        if failure["model"] == model:
            yield f"Failed: {failure['method']} on {len(failure['images'])} images: {failure['error']}."


def _estimate(line: Mapping[str, Any] | None) -> str:
    """Return mean, interval and rank as text; missing numbers are left out or shown as "-".

    >>> _estimate({"mean": 0.5, "low": -0.0001, "high": 1.0, "rank": 2})
    '0.500 [0.000, 1.000] (2)'
    """
    if line is None or math.isnan(line["mean"]):
        return MISSING
    mean, low, high = (f"{line[name]:.3f}".replace("-0.000", "0.000") for name in ("mean", "low", "high"))
    rank = line.get("rank")
    interval = MISSING if math.isnan(line["low"]) else f"{low}, {high}"
    return f"{mean} [{interval}]" + (f" ({rank})" if isinstance(rank, int) else "")


def _number(line: Mapping[str, Any] | None, name: str, form: str) -> str:
    return MISSING if line is None or math.isnan(line[name]) else f"{line[name]:{form}}"


def verdict_mark(line: Mapping[str, Any] | None) -> str:
    """Return the verdict against the best control as a mark; nothing if there was no test.

    >>> verdict_mark({"verdict": "worse than centre"}) == WORSE, verdict_mark({"verdict": None})
    (True, '')
    """
    sentence = "" if line is None or not isinstance(line["verdict"], str) else line["verdict"]
    marks = {"better": BETTER, "worse": WORSE, "not separated": LEVEL}
    return next((mark for start, mark in marks.items() if sentence.startswith(start)), "")


def verdict(line: Mapping[str, Any] | None) -> str:
    """Return the verdict against the best control in words, with the difference, its interval and p.

    >>> effect = {"difference": -0.2, "difference_low": -0.3, "difference_high": -0.1}
    >>> verdict({"verdict": "worse than centre", "p": 0.0129, "p_at_most": False} | effect)
    'worse than centre by 0.200 [0.100, 0.300], p = 0.013'
    """
    if line is None or not isinstance(line["verdict"], str):
        return ""
    p, sentence = line["p"], line["verdict"]
    difference = [line[name] for name in ("difference", "difference_low", "difference_high")]
    if sentence.startswith("better"):
        sentence += " by {:.3f} [{:.3f}, {:.3f}]".format(*difference)
    if sentence.startswith("worse"):
        sentence += " by {0:.3f} [{2:.3f}, {1:.3f}]".format(*(-value for value in difference))
    sign = "≤" if line["p_at_most"] else "="
    return sentence if math.isnan(p) else f"{sentence}, p {'< 0.001' if p < 0.001 else f'{sign} {p:.3f}'}"
