"""Error against time of methods that sample, beside peers: one image, MobileNetV2 at 112 px, several counts and seeds.

The error is that of the map without its mean, relative to the size of a long run of the same estimand: ours, or that of
the peer itself if it estimates something else. Times are those of a call with its superpixels. The last rows compare
times at equal error: errors of independent draws fall with the square root of time, so that time times squared error
is the cost of an estimator whatever the count.
"""

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.speed.cases.precision import photographs
from evaluation.speed.networks import drawn, wrapped
from evaluation.speed.records import Case, Role, Row, Settings
from evaluation.speed.timing import ratios, seconds, words_of
from ibviz.attribution.methods import explain
from ibviz.progress import progress

SIDE, SEGMENTS, SEEDS = 112, 16, 3
COUNTS = {"rise": (32, 96, 288), "kernel_shap": (32, 96, 288), "lime": (32, 96, 288), "smooth_grad": (8, 24, 72)}
LONG = 8  # times the largest count, for the long run
OPTIONS: dict[str, dict[str, object]] = {"kernel_shap": {"segments": SEGMENTS}, "lime": {"segments": SEGMENTS}}
COUNTED = {"rise": "masks"}  # the option that counts passes; `samples` for the other methods
OURS = "ibviz"

Estimate = Callable[[int, int], Tensor]  # count and seed -> a map (h, w)


class Sampler(NamedTuple):
    """One way to estimate a map."""

    estimate: Estimate
    own_estimand: bool = False  # True if it converges to a map of its own


class Scene(NamedTuple):
    """The network, its image and the class that is explained."""

    model: nn.Module
    image: Tensor
    target: int


def scene(device: torch.device) -> Scene:
    model = wrapped("mobilenet_v2", device)
    pictures = photographs(1, SIDE)
    image = (drawn(1, 3, SIDE, SIDE, device=device) if pictures is None else pictures).to(device)
    with torch.no_grad():
        return Scene(model, image, int(model(image).argmax(1)))


def ours(given: Scene, method: str) -> Estimate:
    name, options = COUNTED.get(method, "samples"), OPTIONS.get(method, {})

    def estimate(count: int, seed: int) -> Tensor:
        chosen = {name: count, "seed": seed, **options}
        maps = explain(given.model, given.image, method, targets=given.target, **chosen)
        assert isinstance(maps, Tensor)
        return maps[0]

    return estimate


def error(estimate: Tensor, reference: Tensor) -> float:
    """Return the error of a map without its mean, relative to the size of the reference.

    >>> error(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, -1.0]]))
    0.0
    """
    known = reference - reference.mean()
    return float((estimate - estimate.mean() - known).norm() / known.norm())


def compare(method: str, case: Case, settings: Settings) -> list[Row]:
    from evaluation.speed.cases.sampler_peers import peers

    given = scene(settings.device)
    samplers = {OURS: Sampler(ours(given, method)), **peers(given, method)}
    references, failures = _references(samplers, COUNTS[method], case)
    ready = {name: samplers[name] for name in references}
    rows = []
    for count in progress(COUNTS[method], case.name):
        rows += _at_count(ready, references, count, case, settings)
    return [*rows, *_at_equal_error(rows, case), *failures]


def _references(
    samplers: Mapping[str, Sampler], counts: tuple[int, ...], case: Case
) -> tuple[dict[str, Tensor], list[Row]]:
    """Warm up every sampler and return its long run; one that fails becomes a row."""
    references: dict[str, Tensor] = {}
    failures = []
    for name, sampler in samplers.items():
        try:
            sampler.estimate(counts[0], SEEDS)
            alone = name == OURS or sampler.own_estimand
            references[name] = sampler.estimate(LONG * counts[-1], SEEDS + 1) if alone else references[OURS]
        except Exception as failure:
            failures.append(Row(case.name, name, role_of(name), "mobilenet_v2", note=words_of(failure)))
    return references, failures


def role_of(name: str) -> Role:
    return "ours" if name == OURS else "rival"


def _at_count(
    samplers: Mapping[str, Sampler], references: Mapping[str, Tensor], count: int, case: Case, settings: Settings
) -> list[Row]:
    """Run all in turn, once for each seed."""
    times: dict[str, list[float]] = {name: [] for name in samplers}
    errors: dict[str, list[float]] = {name: [] for name in samplers}
    for seed in range(SEEDS):
        for name, sampler in samplers.items():
            kept = list[Tensor]()
            times[name].append(seconds(lambda: kept.append(sampler.estimate(count, seed)), settings.device))  # noqa: B023
            errors[name].append(error(kept[0].cpu(), references[name].cpu()))
    return [
        Row(
            case.name,
            name,
            role_of(name),
            "mobilenet_v2",
            taken,
            count,
            "pass",
            [] if name == OURS else ratios(times[OURS], taken),
            size=count,
            error=median(errors[name]),
        )
        for name, taken in times.items()
    ]


def _at_equal_error(rows: list[Row], case: Case) -> list[Row]:
    """Return a row per peer: its time over ours at equal error, from each count."""
    mine = [row for row in rows if row.contestant == OURS]
    names = dict.fromkeys(row.contestant for row in rows if row.contestant != OURS)
    return [
        Row(
            case.name,
            name,
            "rival",
            "mobilenet_v2",
            unit="equal error",
            ratio=[cost(row) / cost(own) for row, own in zip(_of(rows, name), mine, strict=True)],
        )
        for name in names
    ]


def _of(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row.contestant == name]


def cost(row: Row) -> float:
    """Return seconds times squared error, which does not depend on the count."""
    assert row.error is not None
    return row.middle * row.error**2


CASES = [Case(f"samplers/{method}", partial(compare, method)) for method in COUNTS]
