"""The figure and the tables of `docs/tie_study.md`, from the record that `tie_study` writes."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ibviz.figures.curves import COLOURS
from ibviz.figures.settings import DEFAULT_TEMPLATE, FAINT, TEMPLATES, settings
from ibviz.figures.sidecar import Panel, account

CURVES = ("deletion", "insertion")
FIELDS = ("deletion_auc", "insertion_auc", "srg")
LEVELS = {"2": "2 levels", "4": "4 levels", "20": "20 levels", "continuous": "continuous"}


def draw(record: dict[str, Any]) -> Panel:
    """What each rule does to both areas against row by row, in pairs of images, for each number of levels."""
    names = list(dict.fromkeys(row["rule"] for row in record["rules"]))[1:]
    with settings():
        figure = Figure(figsize=(TEMPLATES[DEFAULT_TEMPLATE].width, 3.4), layout="constrained")
        places = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, curve in zip(places, CURVES, strict=True):
            axes.axvline(0, color=FAINT, linewidth=0.5)
            axes.axhline(names.index("levels at once") - 0.5, color=FAINT, linewidth=0.3)
            for number, levels in enumerate(LEVELS):
                rows = [row for row in record["rules"] if row["levels"] == levels and row["rule"] in names]
                found = [(names.index(row["rule"]), row[curve]["minus row by row"]) for row in rows]
                _draw_levels(axes, number, LEVELS[levels], found)
            axes.set_title(curve)
            axes.set_xlabel("area minus that of pixels row by row")
            axes.spines[["top", "right"]].set_visible(False)
        places[0].set_yticks(range(len(names)), names)
        places[0].invert_yaxis()
        figure.legend(*places[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return Panel(figure, account("tie study", {}, record))


def _draw_levels(axes: Axes, number: int, label: str, found: list[tuple[int, dict[str, float]]]) -> None:
    middle = [one["mean"] for _, one in found]
    ends = [[one["mean"] - one["low"] for _, one in found], [one["high"] - one["mean"] for _, one in found]]
    axes.errorbar(
        middle,
        [row + (number - 1.5) * 0.18 for row, _ in found],
        xerr=ends,
        fmt="os^D"[number],
        markersize=2.5,
        elinewidth=0.8,
        color=COLOURS[number],
        label=label,
    )


def tables(record: dict[str, Any]) -> list[str]:
    """The tables of `docs/tie_study.md`."""
    rules, conventions, areas, pointing = (record[name] for name in ("rules", "conventions", "areas", "pointing"))
    names = dict.fromkeys(row["rule"] for row in rules)
    hits = {(row["levels"], row["rule"]): _text(row["hit"]) for row in pointing}
    return [
        *(
            _table(
                ["rule", *LEVELS], [[name, *(_cell(rules, name, levels, curve) for levels in LEVELS)] for name in names]
            )
            for curve in CURVES
        ),
        _table(
            ["baseline", "map", *CURVES, "SRG", "f(baseline)"],
            [
                [row["baseline"], row["map"], *(_text(row[area]) for area in FIELDS), f"{row['f_baseline']:.3f}"]
                for row in conventions
            ],
        ),
        _table(
            ["steps", "area", *CURVES],
            [[str(row["steps"]), row["area"], *(_text(row[curve]) for curve in CURVES)] for row in areas],
        ),
        _table(
            ["rule", *LEVELS],
            [[rule, *(hits[levels, rule] for levels in LEVELS)] for rule in dict.fromkeys(name for _, name in hits)],
        ),
    ]


def _cell(rows: list[dict[str, Any]], rule: str, levels: str, curve: str) -> str:
    """Area and, after a semicolon, its difference from row by row."""
    for row in rows:
        if (row["rule"], row["levels"]) == (rule, levels):
            found = row[curve]
            return f"{found['area']['mean']:.3f}; {_text(found['minus row by row'], '+')}"
    return "not run"


def _text(found: dict[str, float], sign: str = "") -> str:
    mean, low, high = (f"{round(found[name], 3) + 0.0:{sign}.3f}" for name in ("mean", "low", "high"))  # no -0.000
    return f"{mean} [{low}, {high}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
