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
    """Which images; where they lie is a flag (`--data`), not part of the file."""

    source: SourceName = "digits"
    background: Background = "photographs"  # source digits: crops of photographs, or dead leaves drawn for each image
    repository: str | None = None  # source hub: OWNER/NAME or OWNER/NAME/FOLDER of a data set
    image_size: Side | None = None  # pixels a side, after a centre crop; None: as stored
    resize: Side | None = None  # short side before that crop; None: image_size
    crop: Literal["image", "box"] = "image"  # or the box of the object, made square by `resize`, before that crop
    masks: bool = False  # read object masks as well: cub, voc2007, voc2012, coco
    stream: bool = False  # decode training and validation images anew in every epoch: sets that do not fit in memory
    limit: Count | None = None  # training images at most
    validation_share: float = Field(default=0.1, gt=0, lt=1)  # of train, where there is no validation split
    seed: Seed = 0
