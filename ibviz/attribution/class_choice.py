"""Classes by name, by number or by a rule: the predicted class, the runner-up, the true one."""

from collections.abc import Sequence

from torch import nn

from ibviz.errors import InputError, did_you_mean
from ibviz.models.config import InputConfig

CLASS_RULES = {"predicted": "predicted class", "runner_up": "runner-up", "true": "true class"}
_SHOWN = 5  # names that an error lists


def class_number(given: str, class_names: Sequence[str]) -> int:
    """Return the number of a class from its name or from its number as text.

    Case and underscores do not matter, and a name with synonyms, "tench, Tinca tinca", may be given by the first.

    Raises:
        InputError: There is no such class, or several classes share the name.

    >>> class_number("Fire_truck", ["zebra", "fire truck, fire engine"]), class_number("0", ["zebra", "horse"])
    (1, 0)
    """
    wanted, plain = _plain(given), [_plain(name) for name in class_names]
    for names in (plain, [name.partition(",")[0] for name in plain]):
        places = [place for place, name in enumerate(names) if name == wanted]
        if len(places) > 1:
            raise InputError(
                f"{len(places)} classes are called {given!r}; give a number: {' or '.join(map(str, places))}"
            )
        if places:
            return places[0]
    if wanted.isdecimal() and int(wanted) < len(class_names):
        return int(wanted)
    first = ", ".join(class_names[:_SHOWN]) + ", ..." * (len(class_names) > _SHOWN)
    raise InputError(
        f"no class is called {given!r}; expected one of the {len(class_names)} names ({first}), a number from 0 to "
        f"{len(class_names) - 1}, or {', '.join(CLASS_RULES)}{did_you_mean(wanted, [*plain, *CLASS_RULES])}"
    )


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def class_names_of(model: nn.Module) -> Sequence[str]:
    """Return the names of a network's classes; raise `InputError` if they are not known."""
    spec = getattr(model, "spec", None)
    if not isinstance(spec, InputConfig):
        raise InputError(
            f"the classes of {type(model).__name__} have no names here; give numbers, or names by "
            "ibviz.wrap(network, class_names=...)"
        )
    return spec.class_names


def classes_by_name(targets: object, model: nn.Module) -> object:
    """Return targets with numbers in the place of names; anything else as it is.

    >>> classes_by_name([3, 4], nn.Linear(1, 5))
    [3, 4]
    """
    if isinstance(targets, str):
        return class_number(targets, class_names_of(model))
    if isinstance(targets, list | tuple) and any(isinstance(name, str) for name in targets):
        names = class_names_of(model)
        return [class_number(name, names) if isinstance(name, str) else name for name in targets]
    return targets
