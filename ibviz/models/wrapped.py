"""Other people's classifiers behind the same face: [0, 1] images in, logits out."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ibviz.config import InputConfig
from ibviz.models.classifier import Normalize
from ibviz.types import Images


class WrappedClassifier(nn.Module):
    """A network with its normalisation as first layer and the facts about its input."""

    def __init__(self, network: nn.Module, spec: InputConfig) -> None:
        """Keep the network as it is; `get_submodule("network.…")` names its layers."""
        super().__init__()
        self.spec = spec
        self.normalize = Normalize(spec.mean, spec.std)
        self.network = network

    def forward(self, images: Images) -> Float[Tensor, "b classes"]:
        """Logits of [0, 1] images."""
        return self.network(self.normalize(images))


def wrap(
    network: nn.Module,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    class_names: Sequence[str],
    size: int,
) -> WrappedClassifier:
    """Give any network that returns logits the face of ours, in eval mode.

    `mean` and `std` are those of the network's training, in [0, 1] pixel space; `size` is the side of its input.

    >>> import torch
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> wrap(network, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=["cat", "dog"], size=8)(torch.rand(1, 3, 8, 8)).shape
    torch.Size([1, 2])
    """
    return WrappedClassifier(network, InputConfig(size=size, mean=mean, std=std, class_names=tuple(class_names))).eval()
