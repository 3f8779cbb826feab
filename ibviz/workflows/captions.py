"""The layout of panels of images: pictures per row and captions."""

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
