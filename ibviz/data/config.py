"""Settings of a data set."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ibviz.settings import Count, Seed, Settings, Side, name_in


def _sources() -> Iterable[str]:
    from ibviz.data.catalogue import SOURCES

    return SOURCES


SourceName = Annotated[str, name_in("source", _sources, outside=True)]
Background = Literal["photographs", "leaves"]


class DataConfig(Settings):
    """The choice and preprocessing of images; their folder is given by the flag `--data`, not in the file."""

    source: SourceName = "digits"
    """Name of a data source (`ibviz list sources`), or `file.py:name` of your own code."""
    background: Background | None = None
    """Background of drawn digits: "leaves" (the default), dead leaves drawn per image, or "photographs"."""
    repository: str | None = None
    """Data set of the Hub, OWNER/NAME or OWNER/NAME/FOLDER; for source `hub`."""
    image_size: Side | None = None
    """Pixels per side after a centre crop; "none": as stored."""
    resize: Side | None = None
    """Short side in pixels before the crop; "none": image_size."""
    crop: Literal["image", "box"] = "image"
    """"box" first crops to the box of the object and makes it a square of `resize` pixels."""
    masks: bool = False
    """Also read the masks of objects, from sources that have them."""
    stream: bool = False
    """Decode images again in every epoch, for data that does not fit in memory."""
    limit: Count | None = None
    """Largest number of training images; "none": all."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training images that is held out if there is no validation split."""
    seed: Seed = 0
    """Seed of the hold-out and of `limit`."""

    @model_validator(mode="before")
    @classmethod
    def _without_default_of_before(cls, given: Any) -> Any:
        """Leave out the background "photographs" of a source that has none; older records name it for every source."""
        if isinstance(given, dict) and given.get("source", "digits") != "digits":
            return {key: value for key, value in given.items() if (key, value) != ("background", "photographs")}
        return given
