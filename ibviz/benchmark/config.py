"""Settings of a suite: models, images, methods, metrics and protocols that are compared."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ibviz.data.config import DataConfig
from ibviz.metrics.protocol import BaselineName, PresetName
from ibviz.metrics.score import ScoreName, TargetRule
from ibviz.metrics.ties import TieRule
from ibviz.settings import Count, Seed, Settings

_Side = Annotated[int, Field(ge=1, le=8192)]  # along a side


class NamedModel(Settings):
    """A network of a suite, by a name that `ibviz.load` takes, with a label."""

    name: str  # run folder, folder of several runs, file, or name of a library's network
    weights: Path | None = None  # local safetensors file of a library's network
    label: str | None = None  # None: the last part of the name


class MethodConfig(Settings):
    """A method of a suite: its name in `ibviz.attribution.METHODS` or from outside, with options and a label."""

    method: str
    label: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class ProtocolConfig(Settings):
    """A protocol of a suite: a preset and the choices that differ from it; None leaves a choice to the preset."""

    preset: PresetName = "default"
    label: str | None = None  # None: the preset's name
    baseline: BaselineName | None = None
    insertion_baseline: BaselineName | None = None
    unit: Literal["cell", "pixel"] | None = None  # of removal
    grid: tuple[_Side, _Side] | None = None  # rows, columns; None: that of the first attention, or the coarsest
    steps: Count | None = None
    ties: TieRule | None = None
    orders: int | None = Field(default=None, ge=2, le=2**20, multiple_of=2)
    score: ScoreName | None = None
    precision: Literal["float32", "bfloat16"] | None = None  # of the network
    batch_size: Count | None = None  # masked images per pass; None: the fastest, by a short trial
    seed: Seed | None = None


class SuiteConfig(Settings):
    """The settings of a suite: models, images, methods, metrics and protocols; by default on the embedded data set.

    Controls are always added to the methods.
    """

    models: tuple[NamedModel, ...] = ()  # of one input size; replaced by the flag --model
    data: DataConfig = DataConfig()
    split: Literal["train", "validation", "test"] = "test"
    images: int | None = Field(default=100, ge=2, lt=2**31)  # chosen by `seed`; None: all of the split
    batch: int = Field(
        default=64, ge=2, lt=2**31
    )  # images per stored part: more cost memory, and lose more work in a kill
    target: TargetRule = "predicted"  # class that is explained and judged
    methods: tuple[MethodConfig, ...] = (
        MethodConfig(method="attention"),
        MethodConfig(method="attention_mean"),
        MethodConfig(method="grad_cam"),
        MethodConfig(method="integrated_gradients"),
    )
    metrics: tuple[str, ...] = Field(default=("srg", "deletion", "insertion", "pointing_game"), min_length=1)
    protocols: tuple[ProtocolConfig, ...] = Field(default=(ProtocolConfig(),), min_length=1)
    native: bool = True  # also judge maps by curves on their own grid, if that differs
    compile: bool = False  # compile networks for the passes of curves: a minute or so each, then each pass takes less
    pictures: int = Field(default=16, ge=0, lt=2**31)  # number of images stored as pictures, for figures and reports
    seed: Seed = 0
