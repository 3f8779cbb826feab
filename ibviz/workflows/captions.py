"""The layout of panels of images: pictures per row, captions, families of methods and shared scales."""

import math
from collections.abc import Mapping, Sequence

from ibviz.attribution.catalogue import METHODS

PICTURES_PER_ROW = 6
FAMILIES = {  # names of the families of methods, above their pictures
    "attention": "Attention of the network",
    "transformer": "Attention between tokens",
    "information": "Information",
    "cam": "Class activation maps",
    "gradient": "Gradients",
    "perturbation": "Perturbations",
    "control": "Controls",
    "other": "Others",
}


def class_caption(name: str, probability: float) -> str:
    """Return the caption of a picture: a class and its probability.

    >>> class_caption("6", 0.984)
    '6 (98%)'
    """
    return f"{name} ({probability:.0%})"


def without_zero(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return the labels of rows in which zero has no meaning.

    Args:
        rows: Name of the method and label of each row.

    >>> without_zero([("rise", "RISE"), ("grad_cam", "Grad-CAM")])
    ['RISE']
    """
    return [label for name, label in rows if name in METHODS and METHODS[name].offset]


def error_note(errors: Mapping[str, Sequence[float | None]]) -> str:
    """Return a sentence about the standard errors of maps that were drawn at random; nothing if none were.

    Args:
        errors: Relative standard error of the map of each image, by label of the row; None if it is unknown.

    >>> error_note({"RISE": [0.214], "LIME": [0.3, 0.125, None]})
    'Standard error of maps drawn at random, as a share of their size: RISE 0.21, LIME 0.12 to unknown.'
    """
    shares = [f"{label} {_span(own)}" for label, own in errors.items()]
    return f"Standard error of maps drawn at random, as a share of their size: {', '.join(shares)}." if shares else ""


def _span(errors: Sequence[float | None]) -> str:
    """Return the smallest and the largest error; an unknown one is the largest."""
    ranked = sorted(errors, key=lambda error: math.inf if error is None else error)
    ends = ["unknown" if error is None else f"{error:.2g}" for error in (ranked[0], ranked[-1])]
    return " to ".join(dict.fromkeys(ends))


def shared_scales(rows: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the name of the scale of each row that shares its quantity with another row.

    Args:
        rows: Name of the method and label of each row.

    >>> shared_scales([("rise", "RISE"), ("grad_cam", "Grad-CAM: cat"), ("grad_cam", "Grad-CAM: dog")])
    {'Grad-CAM: cat': 'grad_cam', 'Grad-CAM: dog': 'grad_cam'}
    """
    quantities = {label: (METHODS[name].quantity if name in METHODS else "") or name for name, label in rows}
    counts = list(quantities.values())
    return {label: quantity for label, quantity in quantities.items() if counts.count(quantity) > 1}
