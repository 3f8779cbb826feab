"""Summary of rows per image: means with intervals, and comparisons of methods, metrics and protocols."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ibviz.benchmark.ranking import Frame, compared, estimated, numbers_of
from ibviz.errors import InputError, unknown
from ibviz.metrics.catalogue import METRICS
from ibviz.metrics.metric import MetricFacts
from ibviz.statistics import krippendorff_alpha, rank_correlations

if TYPE_CHECKING:
    from pandas import DataFrame


Key = tuple[str, str, bool]  # model, protocol, native

ALL_IMAGES = "all images"
FEWEST = 3  # methods, below which the agreement on their order is not computed
LINES = (
    *("model", "models", "protocol", "hash", "native", "stratum", "method", "control", "metric"),
    *("mean", "low", "high", "bca_low", "bca_high", "n", "excluded", "clusters", "largest_cluster"),
    *("rank", "verdict", "best_control", "difference", "difference_low", "difference_high"),
    *("standardised", "p", "p_at_most"),
    *("macro", "tie_sd", "tie_fraction", "f_baseline", "random_order"),
)
SUMMARISED = (  # the columns of rows that are used
    *("model", "image", "method", "control", "native", "protocol", "hash", "metric", "value", "tie_sd", "label"),
    *("correct", "f_baseline", "random_order", "tie_fraction", "object_share", "cluster"),
)
AGREEMENT = ("model", "protocol", "judges", "units", "kendall", "spearman", "alpha")


@dataclass(frozen=True)
class Summary:
    """Estimates and agreement as tidy tables, columns `LINES` and `AGREEMENT`.

    There is one line per model, protocol, stratum of the images, method and metric; methods precede controls.

    - `difference` is the advantage of a method over the best control, positive if the method is better in the metric's
      own direction; `standardised` is the difference divided by its standard deviation between images.
    - `p` belongs to the difference, with Holm's correction for all pairs of lines of the metric; if `p_at_most`, it is
      an upper bound. Rank and p are those of all images on the common grid, and undefined if there are too few images
      or clusters for a test.
    - `clusters` is the number of clusters, if known, and `largest_cluster` the share of images in the largest one.
    - If `models` is above one, the line is a mean over trainings of one recipe.
    - `macro` is the mean over true classes of the mean per class.
    """

    lines: "DataFrame"
    agreement: "DataFrame"
    metrics: Mapping[str, MetricFacts] = field(default_factory=dict)  # the key is the name in `lines`


def summarise(
    rows: "DataFrame",
    recipes: Mapping[str, str] | None = None,
    metrics: Mapping[str, MetricFacts] | None = None,
) -> Summary:
    """Summarise rows into estimates, ranks, tests and agreement.

    Args:
        rows: The table `rows.parquet` of a result, or the frame of an `Evaluation`.
        recipes: The recipe of each model without its seed; models with the same recipe are also averaged.
        metrics: Metrics in the rows that ibviz itself does not have.
    """
    from pandas import concat

    metrics = {name: metric.facts for name, metric in METRICS.items()} | dict(metrics or {})
    rows = _completed(rows, metrics)
    shared = _shared(rows)
    values: dict[Key, Frame] = {}
    tables = []
    by_table: Frame = rows.groupby(["model", "protocol", "native"], sort=False, observed=True)
    for key, part in by_table:
        values[key] = _wide(part, metrics)
        tables.append(_lines(part, values[key], shared, metrics, key))
    tables += _over_trainings(values, concat(tables, ignore_index=True), shared, metrics, recipes or {})
    lines = concat(tables, ignore_index=True).reindex(columns=list(LINES))
    lines = lines.assign(p_at_most=lines["p_at_most"].eq(True)).astype({"rank": "Int64", "clusters": "Int64"})
    return Summary(lines, _agreement(values, lines, metrics), metrics)


def _completed(rows: Frame, metrics: Mapping[str, MetricFacts]) -> Frame:
    """Return the rows with the columns that may be missing: model, protocol's hash, object size and cluster."""
    strange = [name for name in rows["metric"].unique() if name not in metrics]
    if strange:
        raise unknown("metric", strange[0], list(metrics))
    if "hash" not in rows:  # as ibviz 0.1 wrote them
        rows = rows.assign(hash=rows["protocol"], protocol="default")
    absent: dict[str, Any] = {"model": "unnamed", "object_share": np.nan, "cluster": None}
    rows = rows.assign(**{name: value for name, value in absent.items() if name not in rows})
    return rows.astype(dict.fromkeys(("model", "protocol", "hash", "method", "metric"), "category"))


def _shared(rows: Frame) -> Frame | None:
    """Return the cluster of each image; None if images are independent."""
    shared = rows.drop_duplicates("image").set_index("image")["cluster"]
    if shared.isna().all():
        return None
    if shared.isna().any():
        raise InputError(
            f"{shared.isna().sum()} of {len(shared)} images have no cluster; name one for each or for none"
        )
    return shared


def _wide(part: Frame, metrics: Mapping[str, MetricFacts]) -> Frame:
    """Return one row per image and one column per metric and method: metrics in their order, controls last."""
    from pandas import concat

    by_column: Frame = part.set_index("image").groupby(["metric", "method"], sort=False, observed=True)["value"]
    columns = dict(iter(by_column))
    for (metric, method), column in columns.items():
        if column.index.has_duplicates:
            raise InputError(
                f"image {column.index[column.index.duplicated()][0]} has two rows for {method} by {metric}; expected "
                "one: merge results of different images only"
            )
    methods = part.drop_duplicates("method").sort_values("control", kind="stable")["method"]
    kept = [(metric, method) for metric in metrics for method in methods if (metric, method) in columns]
    wide = concat([columns[key] for key in kept], axis=1, keys=kept, names=["metric", "method"])
    return wide.sort_index().astype(float)


def _lines(
    part: Frame,
    values: Frame,
    shared: Frame | None,
    metrics: Mapping[str, MetricFacts],
    key: Key,
) -> Frame:
    """Return the lines of one model under one protocol; strata other than all images have estimates only."""
    from pandas import concat

    model, protocol, native = key
    facts = _facts(part)
    numbers = numbers_of([values], shared)
    whole = estimated(numbers).join(facts)
    if not native:
        whole = whole.join(compared(numbers, facts["control"].groupby("method").first(), metrics))
    strata = {} if native else _strata(part)
    lines = [whole.assign(stratum=ALL_IMAGES)]
    lines += [
        estimated(numbers_of([values.loc[images]], shared)).join(facts[["control", "hash"]]).assign(stratum=name)
        for name, images in strata.items()
    ]
    return concat(lines).reset_index().assign(model=model, models=1, protocol=protocol, native=native)


def _facts(part: Frame) -> Frame:
    """Return per metric and method the constant columns, and means of the other numbers."""
    by_line = part.groupby(["metric", "method"], sort=False, observed=True)
    classes = part.groupby(["metric", "method", "label"], sort=False, observed=True)["value"].mean()
    numbers = ["tie_sd", "tie_fraction", "f_baseline", "random_order"]
    facts = by_line.agg({"control": "first", "hash": "first"} | dict.fromkeys(numbers, "mean"))
    return facts.assign(
        hash=facts["hash"].astype(facts["hash"].cat.categories.dtype),
        macro=classes.groupby(["metric", "method"], sort=False, observed=True).mean(),
    )


def _strata(part: Frame) -> dict[str, Frame]:
    """Return images grouped by correct prediction, and by thirds of the object's share of the pixels.

    A group is left out if it is empty or holds all images.
    """
    facts = part.drop_duplicates("image").set_index("image")
    share = facts["object_share"].astype(float)
    low, high = share.quantile([1 / 3, 2 / 3])
    chosen = {
        "correct": facts["correct"].eq(True),
        "incorrect": facts["correct"].eq(False),
        f"small objects: up to {low:.0%}": share <= low,
        f"medium objects: up to {high:.0%}": (share > low) & (share <= high),
        f"large objects: above {high:.0%}": share > high,
    }
    return {name: facts.index[selected] for name, selected in chosen.items() if selected.any() and not selected.all()}


def _over_trainings(
    values: Mapping[Key, Frame],
    lines: Frame,
    shared: Frame | None,
    metrics: Mapping[str, MetricFacts],
    recipes: Mapping[str, str],
) -> list[Frame]:
    """Return means over the models of each recipe and protocol on the common grid, if there are several models."""
    control = lines.drop_duplicates("method").set_index("method")["control"]
    groups: dict[tuple[str, str], dict[str, Frame]] = {}
    for (model, protocol, native), own in values.items():
        if not native and model in recipes:
            groups.setdefault((protocol, recipes[model]), {})[model] = own
    means = []
    for (protocol, _), several in groups.items():
        if len(several) > 1:
            numbers = numbers_of(_aligned(list(several.values())), shared)
            line = estimated(numbers).join(compared(numbers, control, metrics)).reset_index()
            means.append(
                line.assign(
                    model=over_trainings(list(several)),
                    models=len(several),
                    protocol=protocol,
                    native=False,
                    stratum=ALL_IMAGES,
                    control=line["method"].map(control),
                )
            )
    return means


def over_trainings(models: Sequence[str]) -> str:
    """Return the name of the mean over several trainings.

    >>> over_trainings(["a", "b"])
    'mean of 2 trainings: a, b'
    """
    return f"mean of {len(models)} trainings: {', '.join(models)}"


def _aligned(several: Sequence[Frame]) -> list[Frame]:
    """Return the columns that all tables have, of all images that any of them has."""
    shared = set.intersection(*(set(table.columns) for table in several))
    columns = several[0].columns[[column in shared for column in several[0].columns]]
    images = sorted(set().union(*(table.index for table in several)))
    return [table[columns].reindex(images) for table in several]


def _agreement(values: Mapping[Key, Frame], lines: Frame, metrics: Mapping[str, MetricFacts]) -> Frame:
    """Return the agreement of metrics, protocols and images on the order of methods; controls are left out."""
    from pandas import DataFrame

    single = (lines["models"] == 1) & (lines["stratum"] == ALL_IMAGES) & ~lines["native"]
    kept = lines[single & ~lines["control"].astype(bool)]
    better = kept.assign(
        mean=kept["mean"] * kept["metric"].map({name: facts.sign for name, facts in metrics.items()}),
        label=kept["metric"].map({name: facts.label for name, facts in metrics.items()}),
    )
    records = []
    for (model, protocol), part in better.groupby(["model", "protocol"], sort=False):
        own = values[model, protocol, False]
        records += [{"model": model, "protocol": protocol} | pair for pair in _alike(part, "label")]
        for (metric, label), methods in part.groupby(["metric", "label"], sort=False)["method"]:
            alpha = krippendorff_alpha(own[metric][list(methods)].rank(axis=1).to_numpy())
            records.append(
                {
                    "model": model,
                    "protocol": protocol,
                    "judges": f"images by {label}",
                    "units": len(methods),
                    "alpha": alpha,
                }
            )
    for (model, label), part in better.groupby(["model", "label"], sort=False):
        judged = part.assign(judge=part["protocol"].astype(str) + f" by {label}")
        records += [{"model": model, "protocol": "all"} | pair for pair in _alike(judged, "judge")]
    frame = DataFrame(records, columns=list(AGREEMENT))
    return frame[frame["units"] >= FEWEST].reset_index(drop=True)


def _alike(lines: Frame, judge: str) -> Iterator[dict[str, Any]]:
    """Yield the agreement of each two judges on the order of the methods, and of more than two together."""
    scores = lines.pivot(index=judge, columns="method", values="mean").loc[lines[judge].unique()]
    for first, second in combinations(scores.index, 2):
        pair = scores.loc[[first, second]].dropna(axis=1)
        tau, rho = rank_correlations(*pair.to_numpy())
        yield {
            "judges": f"{first}, {second}",
            "units": pair.shape[1],
            "kendall": tau,
            "spearman": rho,
            "alpha": krippendorff_alpha(pair.rank(axis=1).to_numpy()),
        }
    if len(scores) > 2:
        alpha = krippendorff_alpha(scores.rank(axis=1).to_numpy())
        yield {"judges": f"all {len(scores)}", "units": scores.shape[1], "alpha": alpha}
