"""The legend of a comparison: sentences that explain intervals, tests, protocols and definitions."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from ibviz.benchmark.ranking import Frame
from ibviz.benchmark.summary import ALL_IMAGES, Summary
from ibviz.benchmark.table_notes import INTERVALS
from ibviz.errors import InputError
from ibviz.metrics.protocol import ADAPTIVE, CurveProtocol

FEW = 50  # images below which percentile intervals are too short
_FACTS = {"f_baseline": "{:.3f} on the baseline alone", "random_order": "area of a random order {:.3f}"}


def legend(summary: Summary, circumstances: Mapping[str, Any]) -> str:
    """Return the sentences that explain the numbers: intervals, tests, protocols and definitions."""
    lines: Frame = summary.lines
    kept = lines[(lines["stratum"] == ALL_IMAGES) & ~lines["native"]]
    single = kept[kept["models"] == 1]
    in_clusters = bool(single["clusters"].notna().any())
    sentences = [
        f"Means with 95 % {INTERVALS[in_clusters]}, and ranks in parentheses: one more than the number of "
        "lines that are better at the 5 % level.",
        f"Lines are compared in pairs of images by sign-flip tests{', signs per cluster' * in_clusters}, by Holm "
        "corrected for all pairs of lines of a metric; p is corrected so. The best control is the one with the "
        "best mean.",
    ]
    if not in_clusters and (single["n"] + single["excluded"]).max() < FEW:
        sentences.append(
            f"From fewer than {FEW} images these intervals are too short: from 20 they hold the true mean in "
            "85 to 93 % of cases, the least where single images stand out."
        )
    if "srg" in set(single["metric"]):
        sentences.append("SRG = insertion - deletion; a random order has 0.")
    for protocol, part in single.groupby("protocol", sort=False):
        sentences += _protocol(circumstances, str(protocol), part)
    if "pointing_game" in set(single["metric"]):
        sentences.append(
            "Pointing game: expected hit over tied maxima, at most 15/224 of the side from the object; "
            "'uniform' is the chance rate; macro: mean over classes."
        )
    sentences.append(
        "The CSV, JSON and Parquet tables also hold BCa intervals, effects in deviations between images, and "
        "all metrics on parts of the images."
    )
    if kept["models"].max() > 1:
        sentences.append(
            "Means over trainings of one recipe: intervals, tests and ranks hold over trainings and images, "
            "by Student's t with the variances of both (Cochran 1964)."
        )
    return "\n".join(sentences)


def _protocol(circumstances: Mapping[str, Any], name: str, lines: Frame) -> Iterator[str]:
    """Yield the choices of a protocol, then per model its images, baseline score and area of a random order."""
    models: dict[str, list[str]] = {}
    for model, part in lines.groupby("model", sort=False):
        first, prefix = part.iloc[0], f"{model}: " if lines["model"].nunique() > 1 else ""
        facts = [f"{prefix}n = {first['n'] + first['excluded']} images"]
        facts += [template.format(first[key]) for key, template in _FACTS.items() if not math.isnan(first[key])]
        protocol = _read(circumstances, str(model), name)
        choices = f"{_replacement(protocol)}, {_steps(protocol)}{_ties(protocol)}; {_judged(protocol)}"
        models.setdefault(choices, []).append(f"{'; '.join(facts)}. Protocol {first['hash']}.")
    for choices, facts in models.items():
        yield f"Protocol {name}: {choices}."
        yield from facts


def _read(circumstances: Mapping[str, Any], model: str, name: str) -> CurveProtocol:
    """Return the protocol of a model; the colour of its baseline is that of the model's training data."""
    own = circumstances.get("models", {}).get(model, {}).get("protocols", circumstances["protocols"])
    try:
        return CurveProtocol.model_validate(own[name]["protocol"])
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"the circumstances say nothing this ibviz understands of protocol {name!r}, under which rows "
            f"were measured; expected its card under 'protocols': {error}"
        ) from error


def _replacement(protocol: CurveProtocol) -> str:
    numbers = ", ".join(f"{part:.2f}" for part in protocol.colour)
    colour = f"{'RGB' if len(protocol.colour) == 3 else 'channels'} ({numbers})"
    names = [colour if name == "mean_colour" else name.replace("_", " ") for name in protocol.baselines]
    unit = "cells" if protocol.unit == "cell" else "pixels of maps"
    of = "of each map's own grid" if protocol.grid is None else f"of {protocol.grid[0]} x {protocol.grid[1]}"
    return f"{unit} {of} replaced by {names[0]}" + ("" if names[0] == names[1] else f" (insertion: {names[1]})")


def _steps(protocol: CurveProtocol) -> str:
    if protocol.steps != ADAPTIVE:
        return ""
    return f"only steps where the score changes (each area within {protocol.tolerance:g} if its curve is monotone), "


def _ties(protocol: CurveProtocol) -> str:
    return {
        "expected": f"mean of {protocol.orders} tie orders (tie sd: their spread in SRG)",
        "group": "level by level",
        "index": "ties row by row",
        "reverse": "ties row by row backwards",
    }[protocol.ties]


def _judged(protocol: CurveProtocol) -> str:
    target = {
        "contrast": "the predicted class less that of the runner-up",
        "runner_up": "the runner-up class",
    }.get(protocol.target, f"the {protocol.target} class")
    score = protocol.score.replace("_", " ") if protocol.head else "output, a number without probability,"
    return f"{'sigmoid ' * (protocol.head == 'sigmoid')}{score} of {target}"
