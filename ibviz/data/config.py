"""Settings of a data set."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from ibviz.settings import Count, Seed, Settings, Side, name_in


def _sources() -> Iterable[str]:
    from ibviz.data.catalogue import SOURCES

    return SOURCES


SourceName = Annotated[str, name_in("source", _sources, outside=True)]
Background = Literal["photographs", "leaves"]


class DataConfig(Settings):
    """The choice and preprocessing of images; their folder is given by the flag `--data`, not in the file."""

    source: SourceName = "digits"
    background: Background = "photographs"  # source digits: crops of photographs, or dead leaves drawn per image
    repository: str | None = None  # source hub: OWNER/NAME or OWNER/NAME/FOLDER of a data set
    image_size: Side | None = None  # pixels per side, after a centre crop; None: as stored
    resize: Side | None = None  # short side before the crop; None: image_size
    crop: Literal["image", "box"] = "image"  # "box": first crop to the object's box, made square by `resize`
    masks: bool = False  # also read masks of objects: cub, voc2007, voc2012, coco
    stream: bool = False  # decode images again in every epoch, for data that does not fit in memory
    limit: Count | None = None  # largest number of training images
    validation_share: float = Field(default=0.1, gt=0, lt=1)  # of train, if there is no validation split
    seed: Seed = 0
