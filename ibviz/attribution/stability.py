"""Infidelity and max-sensitivity of maps (Yeh 2019), through Captum."""

from collections.abc import Callable
from itertools import islice
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.attribution.door import guarded
from ibviz.attribution.forward_pass import images_per_pass
from ibviz.attribution.methods import explain, values
from ibviz.errors import InputError
from ibviz.metrics.grid import cell_areas, finite, on_grid
from ibviz.models.hooks import evaluating, unsealed
from ibviz.types import Images, Labels, Maps, Scores

NOISE = 0.1  # standard deviation of infidelity's perturbation, brightness in [0, 1]
AT_ONCE = 256  # perturbed images that max_sensitivity explains at once, unless more images are given


def infidelity(  # noqa: PLR0913 - what is drawn is named apart
    model: nn.Module,
    images: Images,
    maps: Maps,
    *,
    targets: Labels,
    samples: int = 100,
    seed: int = 0,
    batch_size: int = 64,
) -> Scores:
    """Return the infidelity (Yeh 2019): squared error with which maps predict the change of the logit under noise.

    Gaussian noise brightens or darkens each cell of the map's grid as a whole; it is the same for all images. The map
    stands for the gradient of the logit, summed over colours and averaged in each cell. Its overall scale is fitted
    (Captum's `normalize`).

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        maps: One map per image.
        targets: Class of each image.
        samples: Draws of noise.
        seed: Seed of the noise.
        batch_size: The most images in one pass.

    Returns:
        The mean error per image, in squared logits; lower is better.

    Raises:
        InputError: For `samples` or `batch_size` below 1.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    >>> gradient = network[1].weight[:1].detach().view(1, 3, 2, 2).sum(1)
    >>> infidelity(network, torch.rand(1, 3, 2, 2), gradient, targets=torch.tensor([0])).round(decimals=4).abs()
    tensor([0.])
    """
    size, grid = (images.shape[2], images.shape[3]), (maps.shape[1], maps.shape[2])
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}")
    cell_areas(grid, size)
    spread = on_grid(maps, size).unsqueeze(1).expand_as(images) / images.shape[1]
    noise = NOISE * on_grid(_drawn(torch.randn, samples, grid, seed), size)
    chunks = zip(*(tensor.split(batch_size) for tensor in (images, spread, targets)), strict=True)
    model = unsealed(model)
    with evaluating(model), guarded(model, images):
        return torch.cat([_infidelity(model, *chunk, noise=noise, batch_size=batch_size) for chunk in chunks])


def _infidelity(
    model: nn.Module, images: Images, spread: Images, targets: Labels, *, noise: Float[Tensor, "n h w"], batch_size: int
) -> Scores:
    """Return the infidelity of a chunk, with noise that is drawn here and handed to Captum in order."""
    from captum.metrics import infidelity as captum_infidelity

    take = _in_turn(noise)

    def perturb(repeated: Tensor) -> tuple[Tensor, Tensor]:
        drawn = take(len(repeated) // len(images)).repeat(len(images), 1, 1).unsqueeze(1)
        change = drawn.expand_as(repeated).to(repeated)
        return change, repeated - change

    errors = captum_infidelity(
        model,
        perturb,
        images,
        spread,
        target=targets,
        n_perturb_samples=len(noise),
        max_examples_per_batch=_at_once(len(images), len(noise), images_per_pass(images, batch_size)),
        normalize=True,
    )
    return errors.detach().float()


def max_sensitivity(  # noqa: PLR0913 - what is drawn is named apart
    model: nn.Module,
    images: Images,
    method: str,
    *,
    targets: Labels,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    **options: Any,
) -> Scores:
    """Return the max-sensitivity (Yeh 2019): largest relative change of a method's map under small perturbations.

    Perturbations are uniform, the same for all images, and keep the pixels in [0, 1].

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        method: A method of `METHODS`.
        targets: Class of each image, kept for its perturbations.
        radius: Largest change of a pixel's brightness, in (0, 1).
        samples: Number of perturbations.
        seed: Seed of the perturbations.
        options: Options of the method.

    Returns:
        The largest norm of the difference over the norm of the map, per image; lower is better.

    Raises:
        InputError: For a `radius` outside (0, 1), or `samples` below 1.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> max_sensitivity(network, torch.rand(2, 3, 2, 2), "uniform", targets=torch.tensor([0, 1]))
    tensor([0., 0.])
    """
    from captum.metrics import sensitivity_max

    if not 0 < radius < 1:
        raise InputError(f"radius is a difference of brightness, in (0, 1); got {radius}")
    take = _in_turn(_drawn(torch.rand, samples, images.shape[1:], seed))

    def perturb(repeated: Tensor) -> Tensor:
        noise = 2 * take(len(repeated) // len(images)) - 1
        return (repeated + radius * noise.repeat(len(images), 1, 1, 1).to(repeated)).clamp(0, 1)

    def explained(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
        [states] = inputs if isinstance(inputs, tuple) else (inputs,)
        repeated = targets.repeat_interleave(len(states) // len(images))
        return (finite(values(explain(model, states, method, targets=repeated, **options))).contiguous(),)

    changes = sensitivity_max(
        explained,
        (images,),
        perturb,
        n_perturb_samples=samples,
        max_examples_per_batch=_at_once(len(images), samples, AT_ONCE),
    )
    return cast(Tensor, changes).float()


def _drawn(draw: Callable[..., Tensor], samples: int, shape: tuple[int, ...], seed: int) -> Tensor:
    if samples < 1:
        raise InputError(f"samples must be at least 1; got {samples}")
    return draw(samples, *shape, generator=torch.Generator().manual_seed(seed))


def _in_turn(drawn: Tensor) -> Callable[[int], Tensor]:
    """Return a function that hands out samples in order, so that no number depends on how Captum groups them."""
    left = iter(drawn)
    return lambda count: torch.stack(list(islice(left, count)))


def _at_once(images: int, samples: int, rows: int) -> int:
    return min(max(rows, images), images * samples)  # Captum warns outside these bounds
