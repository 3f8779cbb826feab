"""The layout of panels of images: pictures per row, captions, families of methods and shared scales."""

from collections.abc import Sequence

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
