"""What a TOML file may say: recipes and suites."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ibviz.errors import InputError
from ibviz.settings import Settings

NETWORKS = ("digits", "vgg32", "vgg16", "wrn50_2", "wrn28_10", "wrn10_2")
LIBRARIES = ("torchvision/", "timm/", "ibviz/")
UNNAMED = "unnamed"  # a module that was given as it is
Source = Literal[
    "digits",
    "cifar10",
    "cifar100",
    "svhn",
    "stl10",
    "cub",
    "voc2007",
    "voc2012",
    "coco",
    "tiny_imagenet",
    "hub",
    "folder",
    "parquet",
]
Background = Literal["photographs", "leaves"]
HANDED = ("digits", "svhn")  # mirrored, their images would be of no class or of another
BaselineName = Literal[
    "mean_colour", "black", "image_mean", "image_minimum", "blur", "blur_rise", "blur_latec", "noise", "road", "inpaint"
]
ScoreName = Literal["probability", "log_probability", "logit", "log_odds", "accuracy"]
TargetRule = Literal["predicted", "true", "runner_up", "contrast"]
TieRule = Literal["expected", "group", "index", "reverse"]
MOST_PIXELS = 8192  # along a side
# What is larger is a slip of the pen, and would fill the memory or overflow.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Side = Annotated[int, Field(ge=8, le=MOST_PIXELS)]  # pixels
Cells = Annotated[int, Field(ge=1, le=8192)]  # along a side
Count = Annotated[int, Field(ge=1, lt=2**31)]


class DataConfig(Settings):
    """Which images; where they lie is a flag (`--data`), not part of the file."""

    source: Source = "digits"
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


def _known_backbone(name: str) -> str:
    if name not in (*NETWORKS, UNNAMED) and not name.startswith(LIBRARIES):
        kinds = ", ".join((*NETWORKS, *(f"{library}NAME" for library in LIBRARIES)))
        raise ValueError(f"should be one of {kinds}; got {name!r}")
    return name


class ModelConfig(Settings):
    """Architecture, without what follows from the data."""

    backbone: Annotated[str, AfterValidator(_known_backbone)] = "digits"
    layer: str | None = None  # of a torchvision or timm network: where attention goes; None: chosen by stride
    pretrained: bool = False  # training starts from the published weights, or those of --weights
    anchors: int | None = Field(default=20, ge=2, le=4096)  # None: continuous attention
    latent: int = Field(default=64, ge=1, le=16384)  # K, dimensions of z
    gate: Literal["residual", "mul", "mean", "noise"] = "residual"  # see `ibviz.models.gate`; all but residual are ours
    head_depth: int = Field(default=0, ge=0, le=64)  # hidden convolutions of the attention head, where it is not fixed
    head_width: int | None = Field(default=None, ge=1, le=16384)  # their channels, with batch norm; None: as published
    smoothing: float = Field(default=0.0, ge=0, le=4)  # of the attention, deviation of a Gaussian in cells (ours)
    open_at_start: float | None = Field(default=None, ge=0.05, le=0.99)  # attention of all cells at first; None: random


class ObjectiveConfig(Settings):
    """Weights of the loss in nats; `ibviz.models.objective` has the formula."""

    beta: float = Field(default=1e-3, ge=0)
    kl: Literal["exact", "official"] = "exact"
    codebook: float = Field(default=0.4, ge=0)
    commitment: float = Field(default=0.1, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)  # share of each label spread over all classes, in training
    attention_price: float = Field(default=0.0, ge=0)  # nats that a map costs which is open everywhere
    capacity: float = Field(default=0.0, ge=0)  # for gate noise: price of a nat that a unit passes, mean over units
    attention_warmup: float = Field(default=0.3, ge=0, le=1)  # share of training over which both prices rise


class Halve(Settings):
    """Halved at each multiple of `every`, epochs counted from 1 (the authors' VGG-32)."""

    kind: Literal["halve"] = "halve"
    every: Count = 3


class Step(Settings):
    """Times `factor` whenever `every` more epochs are finished (their VGG-16 and WRN-50-2)."""

    kind: Literal["step"]
    every: Count
    factor: float = Field(gt=0, lt=1)


class Milestones(Settings):
    """Times `factor` after each of these numbers of finished epochs (their WRN-28-10)."""

    kind: Literal["milestones"]
    after: tuple[Count, ...]
    factor: float = Field(gt=0, lt=1)


class Cosine(Settings):
    """Half a cosine from `lr` to 0 between warm-up and end, moving with every step (Loshchilov 2017)."""

    kind: Literal["cosine"]


class TrainingConfig(Settings):
    """How a network is trained; rates are those of the whole batch, over all processes."""

    epochs: Count = 10
    batch_size: Count = 64  # images an optimizer step, over all processes
    accumulate: Count = 1  # passes an optimizer step: less memory, statistics of smaller batches
    # all, or on a frozen pretrained network attention, bottleneck and decoder; tail: the layers after the gate as well
    trainable: Literal["all", "tail", "attached"] = "all"
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    warmup: tuple[float, ...] = ()  # learning rates of the first epochs
    schedule: Annotated[Halve | Step | Milestones | Cosine, Field(discriminator="kind")] = Halve()
    momentum: float = Field(default=0.9, ge=0, lt=1)  # for adam its first beta; its second is 0.999
    weight_decay: float = Field(default=5e-4, ge=0)  # never on the anchors
    anchor_lr: float = Field(default=1.0, ge=0)  # anchors' share of the learning rate; 0 keeps them fixed
    cache_features: bool = False  # run the frozen layers below the gate once and keep what they give, as float16
    head_lr: float = Field(default=1.0, ge=0)  # the attention head's share of the learning rate
    ema: float | None = Field(default=None, gt=0, lt=1)  # decay a step of averaged weights, which are judged and kept
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False  # torch.compile: minutes at the start, then faster steps
    crop_padding: int = Field(default=4, ge=0, le=1024)  # reflect-padded random crop, pixels
    flip: bool = False
    save_every: Count = 1  # epochs between checkpoints, among which the best model is chosen
    seed: Seed = 0


class Recipe(Settings):
    """One training run; the default is the embedded data set."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _no_mirrored_digits(self) -> "Recipe":
        if self.training.flip and self.data.source in HANDED:
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
    """A recipe and, under [sweep], values for some of its keys by dotted name: one run for each combination."""

    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(min_length=1)


LARGEST_CONSTANT = 2  # of a normalisation, in [0, 1] pixel space


class InputConfig(Settings):
    """What a classifier expects: size in pixels, normalisation in [0, 1] space, class names."""

    size: int | tuple[int, int]  # side of a square, or height and width
    mean: tuple[float, ...]  # one number a channel
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    resize: Side | None = None  # short side before the centre crop; None: the shorter one of `size`

    @model_validator(mode="after")
    def _consistent(self) -> "InputConfig":
        sized = 8 <= min(self.height_width) <= max(self.height_width) <= MOST_PIXELS
        if not sized or len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError(
                f"a side has 8 to {MOST_PIXELS} pixels, a channel a mean and std above 0; "
                f"got {self.size}, {self.mean} and {self.std}"
            )
        if max(map(abs, (*self.mean, *self.std))) > LARGEST_CONSTANT:
            raise ValueError(
                "mean and std are those of pixels in [0, 1]; divide those of bytes by 255; "
                f"got {self.mean} and {self.std}"
            )
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def side(self) -> int:
        """Side of a square; an `InputError` for another shape, which what asks for it cannot do."""
        if len({*self.height_width}) > 1:
            raise InputError(f"this needs a network of square images; it takes {self.size} pixels")
        return self.height_width[0]


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

    preset: Literal["default", "rise", "torchcam", "quantus", "xplique", "latec", "iba"] = "default"
    label: str | None = None  # None: the preset's name
    baseline: BaselineName | None = None
    insertion_baseline: BaselineName | None = None
    unit: Literal["cell", "pixel"] | None = None  # of removal
    grid: tuple[Cells, Cells] | None = None  # rows, columns; None: the first attention's, or the coarsest map's cells
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
