"""Runs that take a moment: images of 16 pixels, a network known by hand, methods that cost one pass."""

from pathlib import Path

import torch
from networks import quadrants

from ibviz.benchmark.config import MethodConfig, NamedModel, ProtocolConfig, SuiteConfig
from ibviz.benchmark.runner.loop import run_on_images
from ibviz.benchmark.runner.processes import ALONE, Processes
from ibviz.data.image_set import Fault, ImageSet
from ibviz.data.sources import Chosen
from ibviz.models.loading import Classifier

SIDE = 16
TABLES = ("rows", "images", "predictions", "curves")


def suite(*methods: str, **changes: object) -> SuiteConfig:
    names = methods or ("saliency", "input_x_gradient")
    usual = SuiteConfig(
        models=(NamedModel(name="quadrants"),),
        batch=4,
        methods=tuple(MethodConfig(method=name) for name in names),
        protocols=(ProtocolConfig(grid=(4, 4), steps=4, orders=2, batch_size=32),),
        metrics=("srg", "deletion", "insertion", "pointing_game", "sparseness"),
        pictures=3,
    )
    return usual.model_copy(update=changes)


def image(number: int) -> torch.Tensor:
    """Noise with a bright quadrant, another one for each number."""
    drawn = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(number))
    row, column = divmod(number % 4, 2)
    drawn[:, 8 * row :, 8 * column :][:, :8, :8] += 0.7
    return (drawn / 1.7 * 255).byte()


def choose(count: int, *, boxes: bool = True, broken: tuple[int, ...] = ()) -> Chosen:
    """Images drawn as they are read, the box of each its bright quadrant; `broken` ones cannot be read."""

    def read(start: int, stop: int) -> ImageSet:
        numbers = [number for number in range(start, stop) if number not in broken]
        corners = [(8 * (number % 2), 8 * (number % 4 // 2)) for number in numbers]
        there = torch.tensor([[x, y, x + 8, y + 8] for x, y in corners], dtype=torch.float32).view(-1, 4)
        pixels = torch.stack([image(number) for number in numbers]) if numbers else torch.empty(0, 3, SIDE, SIDE).byte()
        return ImageSet(
            pixels,
            torch.tensor([number % 4 for number in numbers], dtype=torch.int64),
            tuple("abcd"),
            tuple(f"{number}.png" for number in numbers),
            boxes=there if boxes else None,
            faults=tuple(Fault(f"{one}.png", f"cannot decode {one}.png") for one in broken if start <= one < stop),
        )

    return Chosen(torch.arange(count) % 4, tuple("abcd"), tuple(f"{number}.png" for number in range(count)), read)


def run_small(
    out: Path,
    *,
    asked: SuiteConfig | None = None,
    chosen: Chosen | None = None,
    models: dict[str, Classifier] | None = None,
    resume: bool = False,
    processes: Processes = ALONE,
) -> bool:
    asked, chosen, models = asked or suite(), chosen or choose(10), models or {"quadrants": quadrants()}
    return run_on_images(asked, models, chosen, out, resume=resume, processes=processes)


def tables(out: Path) -> dict[str, bytes]:
    """The bytes of the final tables, whose rows stand in one order whatever happened on the way."""
    return {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}
