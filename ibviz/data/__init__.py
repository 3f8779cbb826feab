"""Images and labels from files, from torchvision or from the embedded generator, with the pixels of the object."""

from ibviz.data.decode import fit, fit_boxes, read_image
from ibviz.data.image_set import ImageSet, regions, select, statistics, to_float
from ibviz.data.sources import load_split
from ibviz.data.synthetic import digits

__all__ = [
    "ImageSet",
    "digits",
    "fit",
    "fit_boxes",
    "load_split",
    "read_image",
    "regions",
    "select",
    "statistics",
    "to_float",
]
