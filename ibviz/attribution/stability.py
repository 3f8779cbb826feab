"""Infidelity and max-sensitivity, through Captum: one needs the network, the other the method as well."""

from collections.abc import Callable
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from ibviz.attribution.methods import evaluating, explain, values
from ibviz.errors import InputError
from ibviz.metrics.grid import cell_areas, finite, on_grid
from ibviz.types import Images, Labels, Maps, Scores

NOISE = 0.1  # standard deviation of infidelity's perturbation, brightness in [0, 1]
AT_ONCE = 256  # images a pass at most, unless more are given


def infidelity(
    model: nn.Module, images: Images, maps: Maps, *, targets: Labels, samples: int = 100, seed: int = 0
) -> Scores:
    """Mean squared error with which a map foretells how the target's logit changes under Gaussian noise (Yeh 2019).

    Noise is drawn for each cell of the map's grid and brightens or darkens the whole cell; every image meets the same.
    The map stands for the logit's gradient, summed over colours and averaged in each cell; its overall scale does not
    count, as it is fitted (Captum's `normalize`). In squared logits, lower is better.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    >>> gradient = network[1].weight[:1].detach().view(1, 3, 2, 2).sum(1)
    >>> infidelity(network, torch.rand(1, 3, 2, 2), gradient, targets=torch.tensor([0])).round(decimals=4).abs()
    tensor([0.])
    """
    from captum.metrics import infidelity as captum_infidelity  # noqa: PLC0415 - a second to import

    size, take = (images.shape[2], images.shape[3]), _drawn(torch.randn, samples, maps.shape[1:], seed)
    cell_areas((maps.shape[1], maps.shape[2]), size)
    spread = on_grid(maps, size).unsqueeze(1).expand_as(images) / 3

    def perturb(repeated: Tensor) -> tuple[Tensor, Tensor]:
        drawn = take(len(repeated) // len(images))
        noise = NOISE * on_grid(drawn, size).repeat(len(images), 1, 1).unsqueeze(1).expand_as(repeated)
        noise = noise.to(repeated)
        return noise, repeated - noise

    with evaluating(model):
        found = captum_infidelity(
            model,
            perturb,
            images,
            spread,
            target=targets,
            n_perturb_samples=samples,
            max_examples_per_batch=_at_once(len(images), samples),
            normalize=True,
        )
    return found.detach().float()


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
    """Largest relative change of a method's map when every brightness moves by up to `radius` (Yeh 2019).

    The norm of the difference over that of the map, maximum over `samples` uniform perturbations, the same for every
    image, kept in [0, 1]. `targets` stay those of the unperturbed images; `options` are the method's. Lower is better.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> max_sensitivity(network, torch.rand(2, 3, 2, 2), "uniform", targets=torch.tensor([0, 1]))
    tensor([0., 0.])
    """
    from captum.metrics import sensitivity_max  # noqa: PLC0415 - a second to import

    if not 0 < radius < 1:
        raise InputError(f"radius is a difference of brightness, in (0, 1); got {radius}")
    take = _drawn(torch.rand, samples, images.shape[1:], seed)

    def perturb(repeated: Tensor) -> Tensor:
        noise = 2 * take(len(repeated) // len(images)) - 1
        return (repeated + radius * noise.repeat(len(images), 1, 1, 1).to(repeated)).clamp(0, 1)

    def explained(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
        [states] = inputs if isinstance(inputs, tuple) else (inputs,)
        repeated = targets.repeat_interleave(len(states) // len(images))
        return (finite(values(explain(model, states, method, targets=repeated, **options))).contiguous(),)

    found = sensitivity_max(
        explained,
        (images,),
        perturb,
        n_perturb_samples=samples,
        max_examples_per_batch=_at_once(len(images), samples),
    )
    return cast(Tensor, found).float()


def _drawn(draw: Callable[..., Tensor], samples: int, shape: tuple[int, ...], seed: int) -> Callable[[int], Tensor]:
    """All samples drawn at once, to be taken in turn: how Captum groups them changes no number."""
    if samples < 1:
        raise InputError(f"samples must be at least 1; got {samples}")
    left = iter(draw(samples, *shape, generator=torch.Generator().manual_seed(seed)))
    return lambda count: torch.stack(list(islice(left, count)))


def _at_once(images: int, samples: int) -> int:
    return min(max(AT_ONCE, images), images * samples)  # Captum warns outside these bounds
