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
    """A network of a suite: what `ibviz.load` takes, under a label of its own."""

    name: str  # run folder, folder of runs (all of them), file, or the name of a library's network
    weights: Path | None = None  # local safetensors file of a library's network
    label: str | None = None  # None: the last part of the name


class MethodConfig(Settings):
    """One row of a comparison: a method of `ibviz.attribution.METHODS` with its options, under a label of its own."""

    method: str
    label: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class ProtocolConfig(Settings):
    """One rule by which maps are judged: a preset, and what differs from it; None leaves a choice to the preset."""

    preset: PresetName = "default"
    label: str | None = None  # None: the preset's name
    baseline: BaselineName | None = None
    insertion_baseline: BaselineName | None = None
    unit: Literal["cell", "pixel"] | None = None  # of removal
    grid: tuple[_Side, _Side] | None = None  # rows, columns; None: the first attention's, or the coarsest map's cells
    steps: Count | None = None
    ties: TieRule | None = None
    orders: int | None = Field(default=None, ge=2, le=2**20, multiple_of=2)
    score: ScoreName | None = None
    precision: Literal["float32", "bfloat16"] | None = None  # of the network
    batch_size: Count | None = None  # masked images at once; None: the fastest, by a short trial
    seed: Seed | None = None


class SuiteConfig(Settings):
    """Models x methods x metrics x protocols on some images; the default judges the embedded data set.

    Controls are added to the methods.
    """

    models: tuple[NamedModel, ...] = ()  # of one input size; the flag --model stands for them
    data: DataConfig = DataConfig()
    split: Literal["train", "validation", "test"] = "test"
    images: int | None = Field(default=100, ge=2, lt=2**31)  # chosen by `seed`; None: all of the split
    batch: int = Field(default=64, ge=2, lt=2**31)  # images taken and stored at once: memory, and what a kill costs
    target: TargetRule = "predicted"  # class that is explained and judged
    methods: tuple[MethodConfig, ...] = (
        MethodConfig(method="attention"),
        MethodConfig(method="attention_mean"),
        MethodConfig(method="grad_cam"),
        MethodConfig(method="integrated_gradients"),
    )
    metrics: tuple[str, ...] = Field(default=("srg", "deletion", "insertion", "pointing_game"), min_length=1)
    protocols: tuple[ProtocolConfig, ...] = Field(default=(ProtocolConfig(),), min_length=1)
    native: bool = True  # judge maps of another grid by curves on their own as well
    pictures: int = Field(default=16, ge=0, lt=2**31)  # first images kept as they are, for figures and reports
    seed: Seed = 0
