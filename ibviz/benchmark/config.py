"""Settings of a suite: models, images, methods, metrics and protocols that are compared."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ibviz.data.config import DataConfig
from ibviz.metrics.protocol import BaselineName, PresetName, Steps, Tolerance
from ibviz.metrics.score import ScoreName, TargetRule
from ibviz.metrics.ties import TieRule
from ibviz.settings import Count, Seed, Settings

_Side = Annotated[int, Field(ge=1, le=8192)]  # along a side


class NamedModel(Settings):
    """A network of a suite, by a name that `ibviz.load` takes, with a label."""

    name: str
    """Run folder, folder of several runs, file, name of a library's network, or `file.py:name` of your own code."""
    weights: Path | None = None
    """Local safetensors file of a network of a library or of your own code."""
    label: str | None = None
    """Name in tables and figures; "none": the usual one."""


class MethodConfig(Settings):
    """A method of a suite: its name in `ibviz.attribution.METHODS` or from outside, with options and a label."""

    method: str
    """Name of a method (`ibviz list methods`), captum:NAME, or `file.py:name` of your own code."""
    label: str | None = None
    """Name in tables and figures; "none": the usual one."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the method, by name."""


class ProtocolConfig(Settings):
    """A protocol of a suite: a preset and the choices that differ from it; None leaves a choice to the preset."""

    preset: PresetName = "default"
    """Rules to start from (`ibviz list presets`); the keys below differ from it where they are given."""
    label: str | None = None
    """Name in tables and figures; "none": the usual one."""
    baseline: BaselineName | None = None
    """Fill of removed pixels (`ibviz list baselines`)."""
    insertion_baseline: BaselineName | None = None
    """Image into which pixels are inserted; by default the baseline."""
    unit: Literal["cell", "pixel"] | None = None
    """What is removed at once: a cell of the grid, or a pixel."""
    grid: tuple[_Side, _Side] | None = None
    """Rows and columns of the cells; "none": the grid of the first attention, or the coarsest."""
    steps: Steps | None = None
    """Number of steps of a curve; "adaptive": of 32, those between which the score changes."""
    tolerance: Tolerance | None = None
    """With adaptive steps: bound of an area's error if its curve is monotone, in the unit of the score."""
    ties: TieRule | None = None
    """What is done with cells of equal value."""
    orders: int | None = Field(default=None, ge=2, le=2**20, multiple_of=2)
    """Number of random orders of tied cells, in reversed pairs."""
    score: ScoreName | None = None
    """Output of the network that a curve follows."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Precision of the network's passes."""
    batch_size: Count | None = None
    """Masked images per pass; "none": the fastest, by a short trial."""
    seed: Seed | None = None
    """Seed of whatever is random."""


class SuiteConfig(Settings):
    """The settings of a suite: models, images, methods, metrics and protocols; by default on the embedded data set.

    Controls are always added to the methods.
    """

    models: tuple[NamedModel, ...] = ()
    """Networks of one input size, each a table [[models]]; the flag --model replaces them."""
    data: DataConfig = DataConfig()
    """Images."""
    split: Literal["train", "validation", "test"] = "test"
    """Split of the images."""
    images: int | None = Field(default=100, ge=2, lt=2**31)
    """Number of images, chosen by `seed`; "none": all of the split."""
    batch: int = Field(default=64, ge=2, lt=2**31)
    """Images per stored part: more cost memory, and lose more work when the run is stopped."""
    target: TargetRule = "predicted"
    """Class that is explained and judged."""
    methods: tuple[MethodConfig, ...] = (
        MethodConfig(method="attention"),
        MethodConfig(method="attention_mean"),
        MethodConfig(method="grad_cam"),
        MethodConfig(method="integrated_gradients"),
    )
    """Methods to compare, each a table [[methods]]; controls are always added."""
    metrics: tuple[str, ...] = Field(default=("srg", "deletion", "insertion", "pointing_game"), min_length=1)
    """Names of metrics (`ibviz list metrics`)."""
    protocols: tuple[ProtocolConfig, ...] = Field(default=(ProtocolConfig(),), min_length=1)
    """Protocols of the curves, each a table [[protocols]]."""
    native: bool = True
    """Also judge maps by curves on their own grid, if that differs."""
    compile: bool = False
    """Compile networks for the passes of curves: a minute or so each, then each pass takes less."""
    pictures: int = Field(default=16, ge=0, lt=2**31)
    """Number of images that are stored as pictures, for figures and reports."""
    seed: Seed = 0
    """Seed of whatever is random."""
