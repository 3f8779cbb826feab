"""A grid of runs that differ in a few keys of one recipe; one table in the end."""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ibviz.config import Recipe, Sweep, describe
from ibviz.errors import InputError
from ibviz.files import replacing, write_rows
from ibviz.training.loop import train
from ibviz.training.run import CHECKPOINT, Row, best_row, stored_rows


def run_sweep(  # noqa: PLR0913 - what, and where
    sweep: Sweep,
    folder: Path,
    *,
    root: Path | None = None,
    weights: Path | None = None,
    features: Path | None = None,
    log: str | None = None,
    report: Callable[[str, Row], object] = print,
) -> list[Row]:
    """Train every combination in a folder of its own and write `table.parquet` and `table.md` beside them.

    Finished runs are read, not trained again; a run that was stopped goes on after its last saved epoch. All recipes
    are checked before the first is trained. `weights` are what pretrained networks start from, as in `train`. `report`
    sees each run's name and new rows. `features` are shared by all runs that cache them.
    """
    runs = grid(sweep)
    table = []
    for name, recipe in runs.items():
        rows = finished(recipe, folder / name)
        if rows is None:
            told = _told(name, report)
            where: dict[str, Any] = {"root": root, "weights": weights, "features": features}
            rows = train(recipe, folder / name, **where, resume=True, log=log, report=told)
        table.append({key: value_of(recipe, key) for key in sweep.sweep} | summary(recipe, rows))
    write_rows(folder / "table.parquet", table)
    with replacing(folder / "table.md") as beside:
        beside.write_text(markdown(table))
    return table


def _told(name: str, report: Callable[[str, Row], object]) -> Callable[[Row], object]:
    return lambda row: report(name, row)


def grid(sweep: Sweep) -> dict[str, Recipe]:
    """Every combination of the values as a recipe, under a name made of them.

    >>> list(grid(Sweep(sweep={"objective.beta": (0.1, 0.01), "model.anchors": (2, "none")})))
    ['beta=0.1,anchors=2', 'beta=0.1,anchors=none', 'beta=0.01,anchors=2', 'beta=0.01,anchors=none']
    """
    base = sweep.model_dump(exclude={"sweep"}, exclude_unset=True)
    lasts = [key.rpartition(".")[2] for key in sweep.sweep]
    labels = lasts if len(set(lasts)) == len(lasts) else list(sweep.sweep)
    runs = {}
    for values in product(*sweep.sweep.values()):
        name = ",".join(f"{label}={value}" for label, value in zip(labels, values, strict=True)).replace("/", "-")
        try:
            runs[name] = Recipe.model_validate(changed(base, dict(zip(sweep.sweep, values, strict=True))))
        except ValidationError as error:
            raise InputError(f"run {name} of the sweep: {describe(error, Recipe)}") from error
    return runs


def changed(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested tables with the values of some dotted keys.

    >>> changed({"a": {"b": 1, "c": 2}}, {"a.b": 3, "d.e": 4})
    {'a': {'b': 3, 'c': 2}, 'd': {'e': 4}}
    """
    tables = dict(tree)
    for key, value in values.items():
        table, _, rest = key.partition(".")
        inner = tables.get(table, {})
        if rest and not isinstance(inner, Mapping):
            raise InputError(f"the sweep names {key}, but {table} holds {inner!r} and no keys of its own")
        tables[table] = changed(inner, {rest: value}) if rest else value
    return tables


def value_of(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key, defaults included."""
    value: Any = recipe.model_dump()
    for part in key.split("."):
        value = value[part]
    return value


def finished(recipe: Recipe, folder: Path) -> list[Row] | None:
    """The log of a run that has all its epochs, else None; another recipe's run is refused."""
    if not (folder / CHECKPOINT).exists():
        return None
    rows = stored_rows(recipe, folder)
    return rows if len(rows) == recipe.training.epochs else None


def summary(recipe: Recipe, rows: list[Row]) -> Row:
    """What a table says of a run: its kept model on validation, and the time of all epochs."""
    best = best_row(rows, recipe.training)
    return {
        "epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "rate_bits": best["validation_rate_bits"],
        "anchors_used": best["validation_anchors_used"],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def markdown(table: list[Row]) -> str:
    """Rows of equal keys as a Markdown table."""
    lines = [list(table[0]), ["---"] * len(table[0]), *([_text(value) for value in row.values()] for row in table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
