"""Settings of a training: the data, model, objective and optimisation of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ibviz.data.catalogue import source_of
from ibviz.data.config import DataConfig
from ibviz.models.config import ModelConfig, ObjectiveConfig
from ibviz.settings import Count, Seed, Settings


class Halve(Settings):
    """The learning rate is halved at each multiple of `every`, with epochs counted from 1 (the authors' VGG-32)."""

    kind: Literal["halve"] = "halve"
    """Name of the schedule."""
    every: Count = 3
    """Number of epochs between two changes."""


class StepDecay(Settings):
    """The learning rate is multiplied by `factor` after every `every` epochs (the authors' VGG-16 and WRN-50-2)."""

    kind: Literal["step"]
    """Name of the schedule."""
    every: Count
    """Number of epochs between two changes."""
    factor: float = Field(gt=0, lt=1)
    """Factor on the learning rate at a change."""


class Milestones(Settings):
    """The learning rate is multiplied by `factor` after these numbers of epochs (the authors' WRN-28-10)."""

    kind: Literal["milestones"]
    """Name of the schedule."""
    after: tuple[Count, ...]
    """Numbers of the epochs after which the rate changes."""
    factor: float = Field(gt=0, lt=1)
    """Factor on the learning rate at a change."""


class Cosine(Settings):
    """The learning rate falls from `lr` to 0 along half a cosine after the warm-up, per step (Loshchilov 2017)."""

    kind: Literal["cosine"]
    """Name of the schedule."""


class TrainingConfig(Settings):
    """The optimisation of a training; learning rates are those of the whole batch over all processes."""

    epochs: Count = 10
    """Passes over the training images."""
    batch_size: Count = 64
    """Images per optimizer step, over all processes."""
    accumulate: Count = 1
    """Passes per optimizer step: less memory, but batch statistics of smaller batches."""
    trainable: Literal["all", "tail", "attached"] = "all"
    """"all": everything; "attached": attention, bottleneck and decoder on a frozen pretrained network; "tail":
    also the layers after the gate."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimizer of all weights."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate of a whole batch over all processes."""
    warmup: tuple[float, ...] = ()
    """Learning rates of the first epochs."""
    schedule: Annotated[Halve | StepDecay | Milestones | Cosine, Field(discriminator="kind")] = Halve()
    """How the learning rate falls after the warm-up."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd; for adam the first beta, the second is 0.999."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay; not applied to the anchors."""
    anchor_lr: float = Field(default=1.0, ge=0)
    """Factor on the learning rate of the anchors; 0 keeps them fixed."""
    cache_features: bool = False
    """Store the output of the frozen layers below the gate once, as float16."""
    head_lr: float = Field(default=1.0, ge=0)
    """Factor on the learning rate of the attention head."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay per step of averaged weights, which are judged and kept; "none": no average."""
    precision: Literal["no", "bf16"] = "no"
    """"bf16" trains in mixed precision."""
    compile: bool = False
    """Use torch.compile: it takes minutes at the start, then steps are faster."""
    crop_padding: int = Field(default=4, ge=0, le=1024)
    """Pixels by which an image is padded by reflection before a random crop."""
    flip: bool = False
    """Mirror half of the images."""
    save_every: Count = 1
    """Epochs between checkpoints, among which the best model is chosen."""
    seed: Seed = 0
    """Seed of everything random in the training."""


class Recipe(Settings):
    """The settings of one training run; by default on the embedded data set."""

    data: DataConfig = DataConfig()
    """Images of the training."""
    model: ModelConfig = ModelConfig()
    """Network and attention."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """Terms of the loss."""
    training: TrainingConfig = TrainingConfig()
    """Optimisation."""

    @model_validator(mode="after")
    def _no_mirrored_digits(self) -> "Recipe":
        if self.training.flip and not source_of(self.data.source).mirrored:
            raise ValueError(
                f"training.flip mirrors images, and a mirrored digit is none: leave it out for {self.data.source}"
            )
        return self

    @model_validator(mode="after")
    def _frozen_is_pretrained(self) -> "Recipe":
        kind = self.training.trainable
        if kind != "all" and not self.model.pretrained:
            raise ValueError(f'training.trainable = "{kind}" freezes the network: it needs model.pretrained = true')
        return self

    @model_validator(mode="after")
    def _cached_is_frozen(self) -> "Recipe":
        config = self.training
        if config.cache_features and (config.trainable == "all" or config.crop_padding):
            raise ValueError(
                "training.cache_features keeps what frozen layers give for whole images: it needs "
                'training.trainable = "attached" or "tail", and training.crop_padding = 0'
            )
        return self

    @model_validator(mode="after")
    def _capacity_of_noise(self) -> "Recipe":
        if self.objective.capacity and self.model.gate != "noise":
            raise ValueError(
                'objective.capacity prices what passes the noise of model.gate = "noise"; for other gates '
                "use objective.attention_price"
            )
        return self


class Sweep(Recipe):
    """A recipe with values for some of its keys, by dotted name, under [sweep]: one run per combination."""

    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(min_length=1)
    """For --sweep: dotted keys of the recipe and the values that each takes; one training per combination."""
