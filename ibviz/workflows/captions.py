"""The layout of panels of images: pictures per row and captions."""

PICTURES_PER_ROW = 6


def class_caption(name: str, probability: float) -> str:
    """Return the caption of a picture: a class and its probability.

    >>> class_caption("6", 0.984)
    '6 (98%)'
    """
    return f"{name} ({probability:.0%})"
