"""The effects of anchors, read from a study that `ibviz anchors` wrote."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel

from ibviz.digests import read_sealed
from ibviz.errors import InputError
from ibviz.figures.report import Effect
from ibviz.reading import validated
from ibviz.statistics import Estimate


class Worth(NamedTuple):
    """The anchors of a network and the effects of their cells, as measured by `ibviz anchors`."""

    anchors: np.ndarray
    effect: Effect


def read_worth(folder: Path) -> Worth:
    """Read the effects of the anchors from the `anchors.json` in a folder."""
    path = folder / "anchors.json"
    failure, way_out = f"{path} is no study of anchors", "write one by `ibviz anchors`"
    if not path.is_file():
        raise InputError(f"{failure}, for there is no such file; {way_out}")
    study = validated(StoredStudy, read_sealed(path, way_out), failure, way_out)
    estimates = [_estimate(effect) for effect in study.worth.effect]
    title = f"probability lost when these cells take their map's mean, over {study.images} images"
    return Worth(np.array(study.usage.anchors), Effect(title, estimates))


class StoredStudy(BaseModel):
    """The fields of `anchors.json` that are read; null is undefined."""

    class AnchorWorth(BaseModel):
        """The effect of one anchor, with its interval."""

        low: float | None
        mean: float | None
        high: float | None
        n: int
        excluded: int

    class Effects(BaseModel):
        """The effects of all anchors."""

        effect: "list[StoredStudy.AnchorWorth]"

    class Usage(BaseModel):
        """The table of anchors."""

        anchors: list[float]

    images: int
    worth: Effects
    usage: Usage


def _estimate(effect: StoredStudy.AnchorWorth) -> Estimate:
    low, mean, high = (np.nan if value is None else value for value in (effect.low, effect.mean, effect.high))
    return Estimate(mean, low, high, effect.n, effect.excluded)
