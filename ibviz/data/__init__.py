"""Images, labels and annotated objects from files, from the Hugging Face Hub or from the embedded generator.

`SOURCES` names the places that images can be read from.
"""

from ibviz.data.catalogue import SOURCES, Source
from ibviz.data.config import DataConfig
from ibviz.data.decode import fit, read_image
from ibviz.data.image_set import Fault, ImageSet, regions, select, statistics, to_float
from ibviz.data.image_stream import ImageStream, input_statistics
from ibviz.data.objects import Objects
from ibviz.data.regions import object_boxes, object_regions
from ibviz.data.sources import load_images, load_split
from ibviz.data.synthetic import digits

__all__ = [
    "SOURCES",
    "DataConfig",
    "Fault",
    "ImageSet",
    "ImageStream",
    "Objects",
    "Source",
    "digits",
    "fit",
    "input_statistics",
    "load_images",
    "load_split",
    "object_boxes",
    "object_regions",
    "read_image",
    "regions",
    "select",
    "statistics",
    "to_float",
]
