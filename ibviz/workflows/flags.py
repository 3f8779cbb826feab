"""Values of flags: what they mean, and which of them do not go together."""

from pathlib import Path
from typing import Any

from ibviz.errors import InputError


def split_names(names: str) -> list[str]:
    """Return names that are separated by commas.

    >>> split_names("srg, pointing,")
    ['srg', 'pointing']
    """
    return [name.strip() for name in names.split(",") if name.strip()]


def split_numbers(flag: str, text: str) -> list[float]:
    """Return numbers that are separated by commas; the error names the flag.

    >>> split_numbers("--contours", "0.5,0.8")
    [0.5, 0.8]
    """
    try:
        return [float(part) for part in split_names(text)]
    except ValueError as error:
        raise InputError(f"{flag} takes numbers separated by commas, such as 0.5,0.8; got {text!r}") from error


def refuse_idle(beside: str, **given: object) -> None:
    """Refuse options that would do nothing beside another one.

    >>> refuse_idle("--merge", limit=None)
    """
    idle = [f"--{name}" for name, value in given.items() if value]
    if idle:
        raise InputError(f"beside {beside} there is nothing for {', '.join(idle)} to do; leave that out")


def required_folder(out: Path | None) -> Path:
    """Return the folder to write into, which must have been given.

    >>> required_folder(Path("runs")).name
    'runs'
    """
    if out is None:
        raise InputError("give the folder to write into, --out DIR")
    return out


def model_or_default(model: str | None) -> str:
    """Return the name of a network; say which one is taken if none was named.

    >>> model_or_default("digits")
    'digits'
    """
    if model is not None:
        return model
    print("--model was not given: photos, the bundled network with attention for photographs of 200 classes")
    return "photos"


def runs_of(recipe: Path, out: Path, *, sweep: bool, seeds: int | None, resume: bool) -> Any:
    """Return the trainings of a sweep, or of several seeds, which must be new without --resume.

    Args:
        recipe: The file of the recipe or the sweep.
        out: The folder of all runs.
        sweep: True for the grid under [sweep].
        seeds: The number of trainings that differ only in their seed.
        resume: Continue runs that are there.
    """
    from ibviz.settings import read_toml
    from ibviz.training.recipe import Recipe, Sweep
    from ibviz.training.sweep import SEED_KEY, grid, over_seeds, refuse_started

    if sweep and seeds is not None:
        raise InputError(f'--seeds goes with a recipe; a sweep lists its seeds: "{SEED_KEY}" = [0, 1, 2] under [sweep]')
    if sweep:
        refuse_idle("--sweep", resume=resume)
        return grid(read_toml(recipe, Sweep))
    runs = over_seeds(read_toml(recipe, Recipe), seeds or 0)
    if not resume:
        refuse_started(runs, out)
    return runs
