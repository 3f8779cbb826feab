"""Sizes of the pages that figures and tables are made for, by name, from the style files of the conferences."""

from ibviz.errors import unknown

COLUMN = " column"  # end of the name of one column of two
PAGE_SIZES: dict[str, tuple[float, float]] = {  # width and largest height in inches
    "neurips": (5.5, 9.0),
    "cvpr": (6.875, 8.875),
    "cvpr column": (3.25, 8.875),
    "ijcai": (7.0, 9.0),
    "ijcai column": (3.375, 9.0),
    "slides": (13.33, 7.5),
}


def page_size(name: str) -> tuple[float, float]:
    """Return width and largest height of a page in inches; an `InputError` for an unknown name lists the known ones.

    >>> page_size("cvpr column")
    (3.25, 8.875)
    """
    if name not in PAGE_SIZES:
        raise unknown("template", name, list(PAGE_SIZES))
    return PAGE_SIZES[name]
