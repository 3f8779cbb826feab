"""Settings of a model: its architecture, its objective and its input."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ibviz.errors import InputError
from ibviz.settings import MOST_PIXELS, Settings, Side

NETWORKS = ("digits", "vgg32", "vgg16", "wrn50_2", "wrn28_10", "wrn10_2")
LIBRARIES = ("torchvision/", "timm/", "ibviz/")
_MAX_CONSTANT = 2  # of a normalisation, in [0, 1] pixel space
UNNAMED = "unnamed"  # a module that the user passed


def _known_backbone(name: str) -> str:
    if name not in (*NETWORKS, UNNAMED) and not name.startswith(LIBRARIES):
        kinds = ", ".join((*NETWORKS, *(f"{library}NAME" for library in LIBRARIES)))
        raise ValueError(f"should be one of {kinds}; got {name!r}")
    return name


class ModelConfig(Settings):
    """The architecture of a model, without the settings that follow from the data."""

    backbone: Annotated[str, AfterValidator(_known_backbone)] = "digits"
    """Network that gets the attention: a name of `ibviz list models`, or torchvision/NAME, timm/NAME."""
    layer: str | None = None
    """Layer for the attention in a torchvision or timm network; "none": chosen by gradients."""
    pretrained: bool = False
    """Start from the published weights of the network, or those of --weights."""
    anchors: int | None = Field(default=20, ge=2, le=4096)
    """Number of anchor values of the attention; "none": continuous attention."""
    latent: int = Field(default=64, ge=1, le=16384)
    """Number of dimensions of the bottleneck's latent z."""
    gate: Literal["residual", "mul", "mean", "noise"] = "residual"
    """How the attention acts on the features (docs/concepts/gates.md)."""
    head_depth: int = Field(default=0, ge=0, le=64)
    """Hidden convolutions of the attention head, unless the network fixes it."""
    head_width: int | None = Field(default=None, ge=1, le=16384)
    """Channels of the hidden convolutions, with batch norm; "none": as published."""
    smoothing: float = Field(default=0.0, ge=0, le=4)
    """Gaussian smoothing of the attention: standard deviation in cells."""
    open_at_start: float | None = Field(default=None, ge=0.05, le=0.99)
    """Initial attention of all cells; "none": random."""


class ObjectiveConfig(Settings):
    """Weights of the terms of the loss, in nats; see `ibviz.models.objective` for the formula."""

    beta: float = Field(default=1e-3, ge=0)
    """Price of a nat of the latent."""
    kl: Literal["exact", "official"] = "exact"
    """"exact" is the formula; "official" is what the authors' code computes."""
    codebook: float = Field(default=0.4, ge=0)
    """Weight of the term that moves anchors towards the attention."""
    commitment: float = Field(default=0.1, ge=0)
    """Weight of the term that moves the attention towards its anchors."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes in training."""
    attention_price: float = Field(default=0.0, ge=0)
    """Price of a fully open map, in nats."""
    capacity: float = Field(default=0.0, ge=0)
    """For gate "noise": price per nat that passes, averaged over units."""
    attention_warmup: float = Field(default=0.3, ge=0, le=1)
    """Share of the training during which attention_price and capacity rise."""


class InputConfig(Settings):
    """The input of a classifier: size in pixels, normalisation in [0, 1] space, class names."""

    size: int | tuple[int, int]  # side of a square, or height and width
    mean: tuple[float, ...]  # one number per channel
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    resize: Side | None = None  # short side before the centre crop; None: the shorter side of `size`

    @model_validator(mode="after")
    def _consistent(self) -> "InputConfig":
        sized = 8 <= min(self.height_width) <= max(self.height_width) <= MOST_PIXELS
        if not sized or len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError(
                f"a side has 8 to {MOST_PIXELS} pixels, a channel a mean and std above 0; "
                f"got {self.size}, {self.mean} and {self.std}"
            )
        if max(map(abs, (*self.mean, *self.std))) > _MAX_CONSTANT:
            raise ValueError(
                "mean and std are those of pixels in [0, 1]; divide those of bytes by 255; "
                f"got {self.mean} and {self.std}"
            )
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        """Rows and columns, in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def side(self) -> int:
        """The side of a square input, in pixels; raises `InputError` for another shape."""
        if len({*self.height_width}) > 1:
            raise InputError(f"this needs a network of square images; it takes {self.size} pixels")
        return self.height_width[0]
