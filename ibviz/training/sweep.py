"""Runs that differ in a few keys of one recipe, of a grid or in their seed alone; one table in the end."""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from pydantic import ValidationError

from ibviz.config import Recipe, Sweep
from ibviz.errors import InputError
from ibviz.files import replacing, write_rows
from ibviz.settings import describe_validation_error
from ibviz.training.loop import train
from ibviz.training.run import CHECKPOINT, LogRow, best_row, stored_rows

SEED_KEY = "training.seed"


class Runs(NamedTuple):
    """Recipes by the names of their folders, and the dotted keys in which they differ."""

    keys: tuple[str, ...]
    recipes: dict[str, Recipe]


def train_all(  # noqa: PLR0913 - what, and where
    runs: Runs,
    folder: Path,
    *,
    root: Path | None = None,
    weights: Path | None = None,
    features: Path | None = None,
    log: str | None = None,
    report: Callable[[str, LogRow], object] = print,
) -> list[LogRow]:
    """Train every recipe in a folder of its own and write `table.parquet` and `table.md` beside them.

    Finished runs are read, not trained again; a run that was stopped goes on after its last saved epoch. All recipes
    are checked before the first is trained. `weights` are what pretrained networks start from, as in `train`. `report`
    sees each run's name and new rows. Where only the seed differs, `table.md` ends with means and spread. `features`
    are shared by all runs that cache them.
    """
    if (folder / CHECKPOINT).exists():
        raise InputError(f"{folder} holds a single run; give another folder for several")
    table = []
    for name, recipe in runs.recipes.items():
        rows = finished_log(recipe, folder / name)
        if rows is None:
            told = _told(name, report)
            where: dict[str, Any] = {"root": root, "weights": weights, "features": features}
            rows = train(recipe, folder / name, **where, resume=True, log=log, report=told)
        table.append({key: value_of(recipe, key) for key in runs.keys} | summary(recipe, rows))
    write_rows(folder / "table.parquet", table)
    with replacing(folder / "table.md") as beside:
        beside.write_text(markdown_table([*table, *(spread(table) if runs.keys == (SEED_KEY,) else [])]))
    return table


def _told(name: str, report: Callable[[str, LogRow], object]) -> Callable[[LogRow], object]:
    return lambda row: report(name, row)


def over_seeds(recipe: Recipe, count: int) -> Runs:
    """The recipe under `count` seeds of training, from its own upwards; its data, with the seed of [data], is the same.

    >>> list(over_seeds(Recipe(), 3).recipes)
    ['seed-0', 'seed-1', 'seed-2']
    """
    if count < 2:
        raise InputError(f"--seeds is the number of trainings, at least 2, of which to see a spread; got {count}")
    first, tree = recipe.training.seed, recipe.model_dump(exclude_unset=True)
    seeds = range(first, first + count)
    return Runs(
        (SEED_KEY,), {f"seed-{seed}": Recipe.model_validate(with_values(tree, {SEED_KEY: seed})) for seed in seeds}
    )


def refuse_started(runs: Runs, folder: Path) -> None:
    """Raise an `InputError` if one of the runs has begun."""
    for name in runs.recipes:
        if (folder / name / CHECKPOINT).exists():
            raise InputError(f"{folder / name} already holds a run; go on with --resume or give another folder")


def grid(sweep: Sweep) -> Runs:
    """Every combination of the values as a recipe, under a name made of them.

    >>> list(grid(Sweep(sweep={"objective.beta": (0.1, 0.01), "model.anchors": (2, "none")})).recipes)
    ['beta=0.1,anchors=2', 'beta=0.1,anchors=none', 'beta=0.01,anchors=2', 'beta=0.01,anchors=none']
    """
    base = sweep.model_dump(exclude={"sweep"}, exclude_unset=True)
    lasts = [key.rpartition(".")[2] for key in sweep.sweep]
    labels = lasts if len(set(lasts)) == len(lasts) else list(sweep.sweep)
    recipes = {}
    for values in product(*sweep.sweep.values()):
        name = ",".join(f"{label}={value}" for label, value in zip(labels, values, strict=True)).replace("/", "-")
        try:
            recipes[name] = Recipe.model_validate(with_values(base, dict(zip(sweep.sweep, values, strict=True))))
        except ValidationError as error:
            raise InputError(f"run {name} of the sweep: {describe_validation_error(error, Recipe)}") from error
    return Runs(tuple(sweep.sweep), recipes)


def with_values(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested tables with the values of some dotted keys.

    >>> with_values({"a": {"b": 1, "c": 2}}, {"a.b": 3, "d.e": 4})
    {'a': {'b': 3, 'c': 2}, 'd': {'e': 4}}
    """
    tables = dict(tree)
    for key, value in values.items():
        table, _, rest = key.partition(".")
        inner = tables.get(table, {})
        if rest and not isinstance(inner, Mapping):
            raise InputError(f"the sweep names {key}, but {table} holds {inner!r} and no keys of its own")
        tables[table] = with_values(inner, {rest: value}) if rest else value
    return tables


def value_of(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key, defaults included."""
    value: Any = recipe.model_dump()
    for part in key.split("."):
        value = value[part]
    return value


def finished_log(recipe: Recipe, folder: Path) -> list[LogRow] | None:
    """The log of a run that has all its epochs, else None; another recipe's run is refused."""
    if not (folder / CHECKPOINT).exists():
        return None
    rows = stored_rows(recipe, folder)
    return rows if len(rows) == recipe.training.epochs else None


def summary(recipe: Recipe, rows: list[LogRow]) -> LogRow:
    """What a table says of a run: its kept model on validation, and the time of all epochs."""
    best = best_row(rows, recipe)
    return {
        "epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "rate_bits": best["validation_rate_bits"],
        "anchors_used": best["validation_anchors_used"],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def spread(table: list[LogRow]) -> list[LogRow]:
    """Mean and standard deviation over runs, of n - 1 degrees of freedom, of every number in a table of seeds.

    >>> spread([{"training.seed": 0, "seconds": 1.0}, {"training.seed": 1, "seconds": 3.0}])[0]
    {'training.seed': 'mean', 'seconds': 2.0}
    """
    columns = {key: [row[key] for row in table] for key in table[0] if key != SEED_KEY}
    return [
        {SEED_KEY: label} | {key: over(numbers) for key, numbers in columns.items()}
        for label, over in {"mean": fmean, "standard deviation": stdev}.items()
    ]


def markdown_table(table: list[LogRow]) -> str:
    """Rows of equal keys as a Markdown table."""
    lines = [list(table[0]), ["---"] * len(table[0]), *([_text(value) for value in row.values()] for row in table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
