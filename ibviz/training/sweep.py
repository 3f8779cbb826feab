"""Several runs of one recipe, over a grid of values or over seeds, with one table of results."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from pydantic import ValidationError

from ibviz.errors import InputError
from ibviz.files import replacing, write_rows
from ibviz.settings import describe_validation_error
from ibviz.table_formats import TextTable, markdown_of
from ibviz.training.loop import train
from ibviz.training.recipe import Recipe, Sweep
from ibviz.training.run import CHECKPOINT, LogRow, best_row, stored_rows

SEED_KEY = "training.seed"


class Runs(NamedTuple):
    """Recipes by the names of their folders, and the dotted keys in which they differ."""

    keys: tuple[str, ...]
    recipes: dict[str, Recipe]


def train_all(  # noqa: PLR0913 - recipes, and the paths of their files
    runs: Runs,
    folder: Path,
    *,
    root: Path | None = None,
    weights: Path | None = None,
    features: Path | None = None,
    log: str | None = None,
    report: Callable[[str, LogRow], object] = print,
) -> list[LogRow]:
    """Train every recipe in a folder of its own, and write `table.parquet` and `table.md` beside these folders.

    Finished runs are read instead of trained; a stopped run continues after its last saved epoch. If only the seed
    differs, `table.md` ends with means and standard deviations.

    Args:
        runs: Recipes by name, and the keys in which they differ.
        folder: Parent of the folders of the runs.
        root: Folder of the data; None: its default.
        weights: Local file for pretrained networks; None: published weights.
        features: Folder for features of frozen layers, shared by all runs.
        log: Tracker of each run, "tensorboard" or "wandb"; None: none.
        report: Function that is called with the name of the run and each new row.

    Returns:
        The table, one row per run.

    Raises:
        InputError: `folder` holds a single run, or a run fails as in `train`.
    """
    if (folder / CHECKPOINT).exists():
        raise InputError(f"{folder} holds a single run; give another folder for several")
    table = []
    for name, recipe in runs.recipes.items():
        rows = finished_log(recipe, folder / name)
        if rows is None:
            paths: dict[str, Any] = {"root": root, "weights": weights, "features": features}
            rows = train(recipe, folder / name, **paths, resume=True, log=log, report=partial(report, name))
        table.append({key: value_of(recipe, key) for key in runs.keys} | summary(recipe, rows))
    write_rows(folder / "table.parquet", table)
    with replacing(folder / "table.md") as beside:
        beside.write_text(_markdown([*table, *(spread(table) if runs.keys == (SEED_KEY,) else [])]))
    return table


def over_seeds(recipe: Recipe, count: int) -> Runs:
    """Repeat a recipe with `count` training seeds, starting at its own; the seed of its data is unchanged.

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
    """Raise `InputError` if one of the runs has already started."""
    for name in runs.recipes:
        if (folder / name / CHECKPOINT).exists():
            raise InputError(f"{folder / name} already holds a run; go on with --resume or give another folder")


def grid(sweep: Sweep) -> Runs:
    """Build one recipe for every combination of the values, named by them.

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
    """Copy nested tables and set the values of some dotted keys.

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
    """Return the value of a dotted key, including defaults."""
    value: Any = recipe.model_dump()
    for part in key.split("."):
        value = value[part]
    return value


def finished_log(recipe: Recipe, folder: Path) -> list[LogRow] | None:
    """Return the log of a finished run, or None; raise `InputError` for the run of another recipe."""
    if not (folder / CHECKPOINT).exists():
        return None
    rows = stored_rows(recipe, folder)
    return rows if len(rows) == recipe.training.epochs else None


def summary(recipe: Recipe, rows: list[LogRow]) -> LogRow:
    """Summarise a run: validation results of its saved model, and the time of all epochs."""
    best = best_row(rows, recipe)
    return {
        "epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "rate_bits": best["validation_rate_bits"],
        "anchors_used": best["validation_anchors_used"],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def spread(table: list[LogRow]) -> list[LogRow]:
    """Mean and standard deviation (n - 1 degrees of freedom) over runs for every column of a table of seeds.

    >>> spread([{"training.seed": 0, "seconds": 1.0}, {"training.seed": 1, "seconds": 3.0}])[0]
    {'training.seed': 'mean', 'seconds': 2.0}
    """
    columns = {key: [row[key] for row in table] for key in table[0] if key != SEED_KEY}
    return [
        {SEED_KEY: label} | {key: over(numbers) for key, numbers in columns.items()}
        for label, over in {"mean": fmean, "standard deviation": stdev}.items()
    ]


def _markdown(table: list[LogRow]) -> str:
    """Format rows with the same keys as a Markdown table."""
    cells = [[_text(value) for value in row.values()] for row in table]
    return markdown_of(TextTable("", list(table[0]), cells)) + "\n"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
