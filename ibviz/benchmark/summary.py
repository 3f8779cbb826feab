"""Rows of single images as means with intervals, and how methods, metrics and protocols compare."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ibviz.errors import InputError, unknown
from ibviz.statistics import (
    LEVEL,
    estimate_over_models,
    estimates,
    krippendorff_alpha,
    rank_correlations,
    ranks,
    separation,
    standardised,
)

if TYPE_CHECKING:
    from pandas import DataFrame


Frame = Any  # a DataFrame; to a type checker nearly all that pandas returns may be a Series as well
Key = tuple[str, str, bool]  # model, protocol, native


class Metric(NamedTuple):
    """How a metric is called in a table, and which way is better: 1 up, -1 down."""

    label: str
    sign: int


# The first of those that a table has is the one that verdicts and strata are printed for.
METRICS = {
    "srg": Metric("SRG", 1),
    "deletion": Metric("Deletion", -1),
    "insertion": Metric("Insertion", 1),
    "pointing_game": Metric("Pointing", 1),
    "energy_pointing_game": Metric("Energy", 1),
    "energy_normalised": Metric("Energy, normalised", 1),
    "auroc": Metric("AUROC", 1),
    "top_cell_precision": Metric("Top cells", 1),
    "average_drop": Metric("Average drop", -1),
    "confidence_increase": Metric("Increase", 1),
    "sparseness": Metric("Sparseness", 1),
    "complexity": Metric("Complexity", -1),
}
ALL = "all images"
FEWEST = 3  # methods whose order can be compared
LINES = (
    *("model", "models", "protocol", "hash", "native", "stratum", "method", "control", "metric"),
    *("mean", "low", "high", "bca_low", "bca_high", "n", "excluded"),
    *("rank", "verdict", "best_control", "difference", "difference_low", "difference_high", "standardised", "p"),
    *("macro", "tie_sd", "tie_fraction", "f_baseline", "random_order"),
)
AGREEMENT = ("model", "protocol", "judges", "units", "kendall", "spearman", "alpha")


@dataclass(frozen=True)
class Summary:
    """Estimates and agreement as tidy tables, columns `LINES` and `AGREEMENT`.

    A line is one model, protocol, stratum of the images, method and metric; methods stand before controls. `difference`
    is what a method is better than the best control by, whichever way the metric goes; `p` belongs to it, by Holm
    corrected for all pairs of lines of that metric; `standardised` is the difference over its deviation between images.
    Rank and p are those of all images on the common grid. Where `models` is more than one, the line is a mean over
    them. `macro` is the mean over true classes of their means.
    """

    lines: "DataFrame"
    agreement: "DataFrame"


def summarise(rows: "DataFrame") -> Summary:
    """Count rows of `rows.parquet`, or of an `Evaluation`, into estimates, ranks, tests and agreement."""
    from pandas import concat  # noqa: PLC0415 - slow to import

    by_table: Frame = _completed(rows).groupby(["model", "protocol", "native"], sort=False, observed=True)
    parts: dict[Key, Frame] = dict(iter(by_table))
    values = {key: _wide(part) for key, part in parts.items()}
    found = [_lines(part, values[key], *key) for key, part in parts.items()]
    lines = _over_models(values, concat(found, ignore_index=True)).reindex(columns=list(LINES))
    return Summary(lines.astype({"rank": "Int64"}), _agreement(values, lines))


def _completed(rows: Frame) -> Frame:
    """Rows need neither say whose they are nor what they were measured by, if all are the same; nor object sizes."""
    strange = [name for name in rows["metric"].unique() if name not in METRICS]
    if strange:
        raise unknown("metric", strange[0], list(METRICS))
    if "hash" not in rows:  # as ibviz 0.1 wrote them
        rows = rows.assign(hash=rows["protocol"], protocol="default")
    absent: dict[str, Any] = {"model": "unnamed", "object_share": np.nan}
    rows = rows.assign(**{name: value for name, value in absent.items() if name not in rows})
    return rows.astype(dict.fromkeys(("model", "protocol", "method", "metric"), "category"))


def _wide(part: Frame) -> Frame:
    """One row an image, one column a metric and method: metrics as in `METRICS`, controls last."""
    from pandas import MultiIndex  # noqa: PLC0415 - slow to import

    twice = part.duplicated(["image", "metric", "method"])
    if twice.any():
        first = part[twice].iloc[0]
        raise InputError(f"image {first['image']} has two rows for {first['method']} by {first['metric']}; expected "
                         "one: merge results of different images only")  # fmt: skip
    methods = part.drop_duplicates("method").sort_values("control", kind="stable")["method"]
    wide = part.pivot(index="image", columns=["metric", "method"], values="value")
    there = set(wide.columns)
    kept = [(metric, method) for metric in METRICS for method in methods if (metric, method) in there]
    return wide[kept].set_axis(MultiIndex.from_tuples(kept, names=["metric", "method"]), axis=1).astype(float)


def _lines(part: Frame, values: Frame, model: str, protocol: str, native: bool) -> Frame:
    """Lines of one model under one protocol; other strata than all images have estimates only."""
    from pandas import concat  # noqa: PLC0415 - slow to import

    facts = _facts(part)
    whole = _estimated(values).join(facts)
    if not native:
        controls = facts["control"].groupby("method").first()
        whole = whole.join(concat([_compared(values[name], controls, name) for name in values.columns.unique(0)]))
    strata = {} if native else _strata(part)
    found = [whole.assign(stratum=ALL)]
    found += [_estimated(values.loc[images]).join(facts[["control", "hash"]]).assign(stratum=name)
              for name, images in strata.items()]  # fmt: skip
    return concat(found).reset_index().assign(model=model, models=1, protocol=protocol, native=native)


def _estimated(values: Frame) -> Frame:
    from pandas import DataFrame  # noqa: PLC0415 - slow to import

    return DataFrame(estimates(values.to_numpy())._asdict(), index=values.columns)


def _facts(part: Frame) -> Frame:
    """What all rows of a metric and method share, and means of what else is known of them."""
    by_line = part.groupby(["metric", "method"], sort=False, observed=True)
    classes = part.groupby(["metric", "method", "label"], sort=False, observed=True)["value"].mean()
    numbers = ["tie_sd", "tie_fraction", "f_baseline", "random_order"]
    return by_line.agg({"control": "first", "hash": "first"} | dict.fromkeys(numbers, "mean")).assign(
        macro=classes.groupby(["metric", "method"], sort=False, observed=True).mean()
    )


def _compared(values: Frame, controls: Frame, metric: str) -> Frame:
    """Rank of each method by one metric, and its distance from the best control, the higher the better."""
    from pandas import DataFrame, MultiIndex  # noqa: PLC0415 - slow to import

    oriented = values * METRICS[metric].sign
    separated, means = separation(oriented.to_numpy()), oriented.mean()
    found = DataFrame({"rank": ranks(oriented.to_numpy(), separated)}, index=values.columns)
    control = controls[values.columns].astype(bool)
    if control.any() and means[control].notna().any():
        best = means[control].idxmax()
        methods = values.columns[~control]
        differences = oriented[methods].sub(oriented[best], axis=0)
        effect = estimates(differences.to_numpy())
        p = DataFrame(separated, index=values.columns, columns=values.columns).loc[methods, best]
        against = {"best_control": best, "difference": effect.mean, "difference_low": effect.low,
                   "difference_high": effect.high, "standardised": standardised(differences.to_numpy()), "p": p,
                   "verdict": [_verdict(*one, best) for one in zip(effect.mean, p, strict=True)]}  # fmt: skip
        found = found.join(DataFrame(against, index=methods))
    return found.set_axis(MultiIndex.from_product([[metric], found.index], names=["metric", "method"]))


def _verdict(difference: float, p: float, control: str) -> str:
    """In words, how a method stands against a control.

    >>> _verdict(-0.1, 0.04, "centre"), _verdict(0.1, 0.06, "centre"), _verdict(np.nan, np.nan, "centre")
    ('worse than centre', 'not separated from centre', 'not compared with centre')
    """
    if np.isnan(p):
        return f"not compared with {control}"
    if p > LEVEL:
        return f"not separated from {control}"
    return f"{'better' if difference > 0 else 'worse'} than {control}"


def _strata(part: Frame) -> dict[str, Frame]:
    """Images by whether the network is right, and by thirds of the object's share of the pixels.

    Left out where all images are alike or where nothing is known.
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
    return {name: facts.index[which] for name, which in chosen.items() if which.any() and not which.all()}


def _over_models(values: Mapping[Key, Frame], lines: Frame) -> Frame:
    """Means over models on the common grid, for each protocol under which there are several."""
    from pandas import DataFrame, concat  # noqa: PLC0415 - slow to import

    control, found = lines.drop_duplicates("method").set_index("method")["control"], [lines]
    for protocol in lines["protocol"].unique():
        several = [one for (_, name, native), one in values.items() if name == protocol and not native]
        if len(several) < 2:
            continue
        shared = set.intersection(*(set(one.columns) for one in several))
        columns = several[0].columns[[one in shared for one in several[0].columns]]
        images = sorted(set().union(*(one.index for one in several)))
        stacked = np.stack([one[columns].reindex(images).to_numpy() for one in several], axis=1)
        line = DataFrame(estimate_over_models(stacked)._asdict(), index=columns).reset_index()
        found.append(line.assign(
            model=f"mean of {len(several)} models", models=len(several), protocol=protocol, native=False, stratum=ALL,
            control=line["method"].map(control),
        ))  # fmt: skip
    return concat(found, ignore_index=True)


def _agreement(values: Mapping[Key, Frame], lines: Frame) -> Frame:
    """How alike metrics, protocols and images order the methods; controls, which all find bad, are left out."""
    from pandas import DataFrame  # noqa: PLC0415 - slow to import

    kept = lines[(lines["models"] == 1) & (lines["stratum"] == ALL) & ~lines["native"] & ~lines["control"].astype(bool)]
    better = kept.assign(
        mean=kept["mean"] * kept["metric"].map({name: one.sign for name, one in METRICS.items()}),
        label=kept["metric"].map({name: one.label for name, one in METRICS.items()}),
    )
    found = []
    for (model, protocol), part in better.groupby(["model", "protocol"], sort=False):
        own = values[model, protocol, False]
        found += [{"model": model, "protocol": protocol} | one for one in _alike(part, "label")]
        for (metric, label), methods in part.groupby(["metric", "label"], sort=False)["method"]:
            alpha = krippendorff_alpha(own[metric][list(methods)].rank(axis=1).to_numpy())
            found.append({"model": model, "protocol": protocol, "judges": f"images by {label}", "units": len(methods),
                          "alpha": alpha})  # fmt: skip
    for (model, label), part in better.groupby(["model", "label"], sort=False):
        judged = part.assign(judge=part["protocol"].astype(str) + f" by {label}")
        found += [{"model": model, "protocol": "all"} | one for one in _alike(judged, "judge")]
    frame = DataFrame(found, columns=list(AGREEMENT))
    return frame[frame["units"] >= FEWEST].reset_index(drop=True)


def _alike(lines: Frame, judge: str) -> Iterator[dict[str, Any]]:
    """Each two judges by their order of the methods, and more than two together."""
    scores = lines.pivot(index=judge, columns="method", values="mean").loc[lines[judge].unique()]
    for one, other in combinations(scores.index, 2):
        pair = scores.loc[[one, other]].dropna(axis=1)
        tau, rho = rank_correlations(*pair.to_numpy())
        yield {"judges": f"{one}, {other}", "units": pair.shape[1], "kendall": tau, "spearman": rho,
               "alpha": krippendorff_alpha(pair.rank(axis=1).to_numpy())}  # fmt: skip
    if len(scores) > 2:
        alpha = krippendorff_alpha(scores.rank(axis=1).to_numpy())
        yield {"judges": f"all {len(scores)}", "units": scores.shape[1], "alpha": alpha}
